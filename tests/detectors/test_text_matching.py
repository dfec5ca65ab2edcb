"""MCM, GL-MCM and NegLabel as functions of embeddings, against loops over images, classes, patches and words."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, fit
from oodbench.benchmark.api import prepare
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plugins.source_version import identity
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.verify.detector_checks import DETECTOR_CHECKS
from oodbench.detectors._words import words_in
from oodbench.detectors.mcm import MCM
from tests.support import bench, give_outputs, given_arrays, given_head

pytestmark = pytest.mark.usefixtures("one_thread")

N, K, D, PATCHES = 7, 5, 16, (3, 2)

DRAW = np.random.default_rng(3)
IMAGES = DRAW.normal(size=(N, D)).astype(np.float32)
TEXTS = DRAW.normal(size=(K, D)).astype(np.float32)
WORDS = DRAW.normal(size=(43, D)).astype(np.float32)
LOCAL = DRAW.uniform(-0.4, 0.4, size=(N, K, *PATCHES)).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of two vectors, in Python's floats."""
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    product = math.fsum(x * y for x, y in pairs)
    return product / math.sqrt(math.fsum(x * x for x, _ in pairs)) / math.sqrt(math.fsum(y * y for _, y in pairs))


def largest_share(values: list[float], temperature: float) -> float:
    """The largest entry of a softmax."""
    terms = [math.exp(value / temperature) for value in values]
    return max(terms) / math.fsum(terms)


def fitted(name: str, head: Any = (TEXTS, None)) -> Any:
    return fit(name, head=head)


# MCM


def mcm_by_hand(temperature: float) -> list[float]:
    return [largest_share([cosine(image, text) for text in TEXTS], temperature) for image in IMAGES]


@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.0])
def test_mcm_is_the_largest_softmax_of_cosines(temperature: float) -> None:
    detector = fitted(f"mcm[temperature={temperature}]")
    scores = detector.score(features=IMAGES)
    assert -np.expm1(scores) == pytest.approx(mcm_by_hand(temperature), rel=1e-6)
    assert detector.detector.confidence_of(scores) == pytest.approx(mcm_by_hand(temperature), rel=1e-6)


def test_mcm_leaves_lengths_the_bias_and_the_order_of_classes_alone() -> None:
    scores = fitted("mcm").score(features=IMAGES)
    changed = TEXTS[::-1] * np.linspace(0.5, 100, K, dtype=np.float32)[:, None]
    assert fitted("mcm", (changed, np.arange(K))).score(features=30 * IMAGES) == pytest.approx(scores, rel=1e-6)


def test_mcm_at_the_inverse_logit_scale_is_msp_on_the_logits() -> None:
    unit_images, unit_texts = (a / np.linalg.norm(a.astype(float), axis=1, keepdims=True) for a in (IMAGES, TEXTS))
    scores = fitted("mcm[temperature=0.01]").score(features=IMAGES)
    assert scores == pytest.approx(fit("msp").score(logits=100 * unit_images @ unit_texts.T), rel=1e-5)


def test_mcm_does_not_tie_where_the_softmax_rounds_to_one() -> None:
    images = np.stack([TEXTS[0] + 0.01 * step * TEXTS[1] for step in range(5)])
    scores = fitted("mcm[temperature=0.001]").score(features=images)
    assert len(set(scores)) == 5
    assert (scores < -37).all()


def test_mcm_of_a_black_embedding_is_that_of_equal_cosines() -> None:
    scores = fitted("mcm").score(features=np.zeros((1, D), np.float32))
    assert -math.expm1(scores[0]) == pytest.approx(1 / K, rel=1e-12)


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_temperatures_are_positive(temperature: float) -> None:
    for name in ("mcm", "gl_mcm", "neglabel"):
        with pytest.raises(UserError, match="temperature must be positive"):
            fit(f"{name}[temperature={temperature}]")


@pytest.mark.parametrize("name", ["mcm", "gl_mcm"])
@pytest.mark.parametrize("check", [check for check in DETECTOR_CHECKS if check.__name__ != "check_run"])
def test_the_contract_is_kept_on_planted_features(
    monkeypatch: pytest.MonkeyPatch, name: str, check: Callable[[str], None]
) -> None:
    """`bench check` skips both, because the head of its network is not made of texts; its rows serve as well."""
    monkeypatch.setattr(MCM, "refuses", Detector.refuses)
    check(name)


# GL-MCM


def gl_mcm(settings: str = "", blocks: int | None = None) -> torch.Tensor:
    """Scores of the images and patches above, reduced in blocks of some images as in the shared pass."""
    detector: Detector = create("detector", parse_spec(f"gl_mcm{settings}"))
    network = nn.Module()
    network.head = nn.Linear(D, K)
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(TEXTS))
    empty = Batch(0, {}, "gl_mcm")
    detector.fit(Classifier(network, K), FitData(empty, empty))
    pieces = torch.from_numpy(LOCAL).split(blocks or N)
    reduced = torch.cat([detector.reduce([piece], torch.empty(0), torch.empty(0)).float() for piece in pieces])
    parts = {"features": torch.from_numpy(IMAGES).__getitem__, "maps": reduced.__getitem__}
    return detector.score(Batch(N, parts, "gl_mcm"))


@pytest.mark.parametrize("temperature, weight", [(1.0, 1.0), (0.1, 0.5), (1.0, 0.0)])
def test_gl_mcm_adds_the_best_patch_of_the_best_class(temperature: float, weight: float) -> None:
    expected = []
    for whole, image in zip(mcm_by_hand(temperature), LOCAL.astype(float), strict=True):
        shares = [
            largest_share(image[:, row, column].tolist(), temperature)
            for row in range(PATCHES[0])
            for column in range(PATCHES[1])
        ]
        expected.append(-(whole + weight * max(shares)))
    scores = gl_mcm(f"[temperature={temperature},weight={weight}]")
    assert scores.tolist() == pytest.approx(expected, rel=1e-6)


def test_gl_mcm_does_not_depend_on_the_blocks_of_the_pass() -> None:
    assert torch.equal(gl_mcm(), gl_mcm(blocks=2))


def test_gl_mcm_needs_patches_which_arrays_do_not_have() -> None:
    with pytest.raises(UserError, match="'gl_mcm' needs maps, and arrays of logits and features cannot supply that"):
        fit("gl_mcm", head=(TEXTS, None))


def test_detectors_of_patches_are_skipped_on_other_backbones(tmp_path: Path) -> None:
    result = bench(
        *("run", "--suite", "digits", "--id", "digits[0-1]", "--ood", "uniform", "--detectors", "gl_mcm"),
        *("--results", tmp_path, "--dry-run"),
    )
    assert result.exit_code == 2
    assert (
        "Detector 'gl_mcm' cannot run: it reads cosines of patches with class texts, and the blocks of backbone"
        in " ".join(result.output.split())
    )


# NegLabel


def percentile(values: list[float], percent: float) -> float:
    """A percentile by linear interpolation."""
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def mined_by_hand(words: np.ndarray, share: float, percent: float) -> list[int]:
    """The words in descending order of the paper's distance, a percentile of the negative cosines."""
    distances = [percentile([-cosine(word, text) for text in TEXTS], 100 - percent) for word in words]
    ordered = sorted(range(len(words)), key=lambda word: -distances[word])
    return ordered[: int(share * len(words))]


def neglabel_by_hand(image: np.ndarray, groups: list[list[int]], temperature: float) -> float:
    """1 minus the paper's score of an image."""
    inside = math.fsum(math.exp(cosine(image, text) / temperature) for text in TEXTS)
    shares = []
    for words in groups:
        outside = math.fsum(math.exp(cosine(image, WORDS[word]) / temperature) for word in words)
        shares.append(inside / (inside + outside))
    return 1 - math.fsum(shares) / len(shares)


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    np.save(tmp_path / "words.npy", WORDS)
    return tmp_path / "words.npy"


@pytest.mark.parametrize("share, percent, groups", [(0.5, 95.0, 4), (1.0, 50.0, 1), (0.3, 0.0, 12)])
def test_neglabel_is_the_papers_score(embeddings: Path, share: float, percent: float, groups: int) -> None:
    settings = f"embeddings={embeddings},share={share},percentile={percent},groups={groups},temperature=0.1"
    scores = fitted(f"neglabel[{settings}]").score(features=IMAGES)
    mined = mined_by_hand(WORDS, share, percent)
    order = torch.randperm(len(mined), generator=torch.Generator().manual_seed(0)).tolist()
    size = len(mined) // groups
    divided = [[mined[word] for word in order[size * group : size * (group + 1)]] for group in range(groups)]
    assert scores == pytest.approx([neglabel_by_hand(image, divided, 0.1) for image in IMAGES], rel=1e-6)


def test_words_like_the_classes_are_not_negative(tmp_path: Path) -> None:
    away = -TEXTS.mean(axis=0)
    candidates = np.concatenate([TEXTS + 0.01, np.stack([away + 0.1 * row for row in WORDS[:5]])])
    np.save(tmp_path / "words.npy", candidates)
    detector = fitted(f"neglabel[embeddings={tmp_path / 'words.npy'},share=0.5,groups=1]")
    kept = {tuple(row) for row in detector.detector.negatives_.round(decimals=6).tolist()}
    unit = candidates[5:].astype(float) / np.linalg.norm(candidates[5:].astype(float), axis=1, keepdims=True)
    assert kept == {tuple(row) for row in unit.round(6).tolist()}


def test_neglabel_does_not_round_what_is_almost_certain(embeddings: Path) -> None:
    images = np.stack([TEXTS[0] + 0.02 * step * WORDS[0] for step in range(5)])
    scores = fitted(f"neglabel[embeddings={embeddings},groups=2,temperature=0.002]").score(features=images)
    assert len(set(scores)) == 5
    assert (scores > 0).all()
    assert (scores < 1e-17).any()


def test_neglabel_takes_words_of_the_networks_text_encoder(tmp_path: Path) -> None:
    """Each list has its own prompt and is mined by itself."""
    asked: list[str] = []

    class Network(nn.Module):
        head = nn.Linear(D, K)

        def embed_texts(self, texts: list[str]) -> torch.Tensor:
            asked.extend(texts)
            return torch.from_numpy(WORDS[: len(texts)])

    (tmp_path / "nouns.txt").write_text("owl\n\n lamp \nowl\ncrane\npear\n")
    (tmp_path / "adjectives.txt").write_text("old\nred")
    detector: Any = create(
        "detector",
        parse_spec(f"neglabel[words={tmp_path}/nouns.txt,adjectives={tmp_path}/adjectives.txt,share=0.5,groups=3]"),
    )
    network = Network()
    assert detector.refuses(network) is None
    empty = Batch(0, {}, "neglabel")
    detector.fit(Classifier(network, K), FitData(empty, empty))
    assert asked == [
        *(f"The nice {word}." for word in ("owl", "lamp", "crane", "pear")),
        *(f"This is a {word} photo" for word in ("old", "red")),
    ]
    assert detector.negatives_.shape == (3, D)


def test_a_file_of_words_is_in_keys_by_its_content(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"

    def key(text: str) -> dict[str, Any]:
        words.write_text(text)
        return identity(create("detector", parse_spec(f"neglabel[words={words}]")))

    first = key("owl\nlamp")
    assert key("owl\n\nlamp\n") == first, "the same words"
    assert key("owl\npear") != first
    assert "read" not in identity(create("detector", parse_spec("neglabel")))


@pytest.mark.parametrize(
    "settings, message",
    [
        ("", "It needs negative words, and none are given: neglabel[words=FILE]"),
        ("[embeddings={0}/absent.npy]", "the embeddings of neglabel, cannot be read: No such file or directory."),
        ("[embeddings={0}/wide.npy]", "The negative embeddings have 3 columns and the class texts 16"),
        ("[embeddings={0}/flat.npy]", "holds float64 (4,); expected numbers (M, D)."),
        ("[embeddings={0}/nan.npy]", "holds values that are not finite."),
        ("[embeddings={0}/words.npy]", "neglabel[share=0.15] leaves 6 negative words for 100 groups; give more words"),
        ("[words={0}/nouns.txt]", "The network is asked for, and only arrays of its outputs are given"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(embeddings: Path, settings: str, message: str) -> None:
    folder = embeddings.parent
    np.save(folder / "wide.npy", np.ones((4, 3)))
    np.save(folder / "flat.npy", np.ones(4))
    np.save(folder / "nan.npy", np.full((4, D), np.nan))
    (folder / "nouns.txt").write_text("owl\n")
    with pytest.raises((DataError, UserError, PluginError)) as caught:
        fitted(f"neglabel{settings.format(folder)}")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ("share=0", "share must lie above 0 and at most at 1, got 0"),
        ("percentile=101", "percentile must lie from 0 to 100, got 101"),
        ("groups=0", "groups must be at least 1, got 0"),
        ("template=nice", "template must contain {} in place of the word, got 'nice'"),
        ("words=a.txt,embeddings=b.npy", "embeddings are given in place of words and adjectives"),
    ],
)
def test_settings_are_checked(settings: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        fit(f"neglabel[{settings}]")
    assert message in str(caught.value)


def test_wordnet_is_taken_from_nltk_or_its_absence_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nltk" else found(name))
    with pytest.raises(DataError, match="from the package nltk: pip install nltk, or give a file"):
        identity(create("detector", parse_spec("neglabel[words=wordnet]")))


class WordNet:
    """In place of nltk's corpus."""

    installed = True

    def all_lemma_names(self, pos: str) -> list[str]:
        if not self.installed:
            raise LookupError("Resource wordnet not found.")
        return {"n": ["traffic_light", "owl", "crane", "owl"], "a": ["red"]}[pos]


def test_words_of_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = ModuleType("nltk.corpus")
    wordnet = WordNet()
    vars(corpus)["wordnet"] = wordnet
    package = ModuleType("nltk")
    package.__spec__ = ModuleSpec("nltk", None)
    monkeypatch.setitem(sys.modules, "nltk", package)
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    detector: Any = create("detector", parse_spec("neglabel[words=wordnet,adjectives=wordnet]"))
    assert words_in(detector, "words", "wordnet") == ["crane", "owl", "traffic light"]
    assert words_in(detector, "adjectives", "wordnet") == ["red"]
    assert set(identity(detector)["read"]) == {"words", "adjectives"}
    wordnet.installed = False
    with pytest.raises(
        DataError, match=r"no WordNet here: python -m nltk\.downloader wordnet, or give neglabel a file"
    ):
        words_in(detector, "words", "wordnet")


# In a run, where no image is left to learn from


def test_class_texts_suffice_where_outputs_are_given(tmp_path: Path) -> None:
    head = given_head()
    give_outputs(tmp_path / "given", id={"test": given_arrays(40, "test")}, head=head)
    np.save(tmp_path / "words.npy", np.random.default_rng(0).normal(size=(30, 8)))
    neglabel = f"neglabel[embeddings={tmp_path / 'words.npy'},groups=3,share=0.5]"
    options = ("run", "--outputs", tmp_path / "given", "--results", tmp_path / "results")
    refused = bench(*options, "--detectors", "knn")
    assert "it learns from training images, and 'photos' has none" in " ".join(refused.output.split())
    result = bench(*options, "--detectors", f"mcm,{neglabel}")
    assert result.exit_code == 0, result.output
    scores = fit("mcm", head=head).score(features=given_arrays(40, "test").features)
    stored = [np.load(path) for path in (tmp_path / "results" / "cache" / "scores").glob("mcm*photos*.npy")]
    assert any(np.array_equal(scores, found) for found in stored)
    assert len(list((tmp_path / "results" / "cache" / "fit").glob("neglabel*.safetensors"))) == 1


def test_words_that_change_between_plan_and_run_are_not_used(tmp_path: Path) -> None:
    give_outputs(tmp_path / "given", head=given_head())
    words = tmp_path / "words.npy"
    np.save(words, np.random.default_rng(0).normal(size=(30, 8)))
    prepared = prepare(
        f"neglabel[embeddings={words},groups=2]", outputs=tmp_path / "given", results=tmp_path / "results", threads=1
    )
    np.save(words, np.random.default_rng(1).normal(size=(30, 8)))
    reasons = {record.reason for record in prepared.start().records}
    assert len(reasons) == 1
    assert f"neglabel[embeddings={words}]' reads has been changed since" in reasons.pop()
