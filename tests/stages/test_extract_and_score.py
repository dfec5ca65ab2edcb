"""Forward passes in fixed blocks, fitting, scoring, stored state; and the two small modules beside them."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone, Batch, Classifier, DataError, Dataset, Detector, FitData, ImageSet
from oodbench.benchmark.api import prepare
from oodbench.benchmark.backbones.small_cnn import SmallCNN, SmallCNNNetwork
from oodbench.benchmark.data import pixel_baseline
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.pixel_baseline import (
    CachedStatistics,
    best_statistic,
    best_statistic_of,
    largest_gradient,
    mean,
    standard_deviation,
    statistics,
)
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.metrics import exact
from oodbench.benchmark.plan.jobs import Checkpoint, ExtractJob, FitJob, Outputs, ScoreJob, SetRef
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.runner.runner import run_plan
from oodbench.benchmark.seeds import derive
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.detector_inputs import BATCH, checked_scores
from oodbench.benchmark.stages.detector_state import load_state, save_state
from oodbench.benchmark.stages.extract import BLOCK, extract
from oodbench.benchmark.stages.fit_score import fit, score
from oodbench.benchmark.store.store import Key

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, SHAPE = 4, (3, 8, 8)
BACKBONE = "small_cnn[hidden=16,width=4]"
Register = Callable[[str, type[Plugin]], None]
BenchWith = Callable[[Mapping[str, ImageSet]], JobContext]


def noise(count: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    drawn: np.ndarray = np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)
    return drawn


def labelled(images: np.ndarray) -> ImageSet:
    return ImageSet(images, np.arange(len(images)) % CLASSES, tuple("abcd"))


def nothing(images: int) -> None:
    """Progress that nobody watches."""


# Extraction


def checkpoint(backbone: str = BACKBONE) -> Checkpoint:
    return Checkpoint(
        Key("checkpoint", ".safetensors", "c", {"b": backbone}), "cross_entropy", backbone, CLASSES, SHAPE
    )


def outputs(name: str, count: int) -> Outputs:
    keys = (Key(what, ".npy", name, {"set": name}) for what in ("logits", "features"))
    return Outputs(SetRef(name, "test", count), *keys)


def keep(bench: JobContext, network: nn.Module, trained: Checkpoint) -> None:
    """Store a network as if it had been trained."""
    weights = {f"classifier.{name}": weight for name, weight in network.state_dict().items()}
    bench.store.save_tensors(trained.key, weights, {})


def stored_network(bench: JobContext) -> SmallCNNNetwork:
    torch.manual_seed(0)
    network = SmallCNNNetwork(CLASSES, SHAPE, width=4, hidden=16)
    keep(bench, network, checkpoint())
    return network


def extracted(bench: JobContext, name: str, tick: Callable[[int], None] = nothing) -> tuple[np.ndarray, np.ndarray]:
    """Logits and features of a set of a bench."""
    made = outputs(name, len(bench.images(SetRef(name, "test", 0))))
    job = ExtractJob(title="", makes=(made.logits, made.features), checkpoint=checkpoint(), outputs=made)
    extract(bench, job, tick)
    return np.array(bench.store.load_array(made.logits)), np.array(bench.store.load_array(made.features))


def test_outputs_are_those_of_the_network_in_float32_and_in_order(bench_with: BenchWith) -> None:
    images = noise(BLOCK + 30)
    bench = bench_with({"set": ImageSet(images)})
    network = stored_network(bench)
    logits, features = extracted(bench, "set")
    with torch.inference_mode():
        expected = network.features(torch.from_numpy(images).float() / 255)
        assert features == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)
        assert logits == pytest.approx(network.head(expected).numpy(), rel=1e-4, abs=1e-6)
    assert logits.dtype == features.dtype == np.float32
    assert logits.shape == (BLOCK + 30, CLASSES)
    assert features.shape == (BLOCK + 30, 16)


@pytest.mark.parametrize("last", [1, 88, BLOCK])
def test_a_set_cut_at_blocks_has_the_same_bits(bench_with: BenchWith, last: int) -> None:
    images = noise(2 * BLOCK + last)
    parts = {"whole": images, "tail": images[BLOCK:], "last": images[2 * BLOCK :], "head": images[: 2 * BLOCK]}
    bench = bench_with({name: ImageSet(part) for name, part in parts.items()})
    stored_network(bench)
    results = {name: extracted(bench, name) for name in parts}
    for kind in (0, 1):
        whole = results["whole"][kind]
        assert np.array_equal(results["tail"][kind], whole[BLOCK:])
        assert np.array_equal(results["last"][kind], whole[2 * BLOCK :])
        assert np.array_equal(results["head"][kind], whole[: 2 * BLOCK])


@pytest.mark.parametrize("last", [1, 3, 88])
def test_a_partial_block_has_the_bits_of_a_full_one(bench_with: BenchWith, last: int) -> None:
    images = noise(2 * BLOCK)
    bench = bench_with({"partial": ImageSet(images[: BLOCK + last]), "full": ImageSet(images)})
    stored_network(bench)
    for partial, full in zip(extracted(bench, "partial"), extracted(bench, "full"), strict=True):
        assert np.array_equal(partial, full[: BLOCK + last])


def test_progress_hears_of_images_not_of_padding(bench_with: BenchWith) -> None:
    bench = bench_with({"set": ImageSet(noise(BLOCK + 30))})
    stored_network(bench)
    ticks: list[int] = []
    extracted(bench, "set", ticks.append)
    assert ticks == [BLOCK, 30]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9)])
def test_images_of_another_shape_are_refused(bench_with: BenchWith, shape: tuple[int, int, int]) -> None:
    bench = bench_with({"set": ImageSet(noise(5, shape=shape))})
    stored_network(bench)
    with pytest.raises(DataError) as caught:
        extracted(bench, "set")
    assert str(caught.value) == (
        f"set (test) holds {shape} images, but the classifier was trained on (3, 8, 8); "
        "they must be alike in channels and size."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bench_with: BenchWith, value: float) -> None:
    bench = bench_with({"set": ImageSet(noise(5))})
    network = stored_network(bench)
    with torch.no_grad():
        network.head.bias[2] = value
    keep(bench, network, checkpoint())
    with pytest.raises(PluginError, match=r"set \(test\) have shape \(5, 4\) with 5 non-finite values; expected"):
        extracted(bench, "set")
    assert bench.store.find(outputs("set", 5).logits) is None


class OneTooMany(Backbone):
    """Has one logit more than there are classes."""

    version = "1"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        return SmallCNN(width=4, hidden=16).build(num_classes + 1, image_shape)


def test_logits_of_another_number_of_classes_are_refused(bench_with: BenchWith, register: Register) -> None:
    register("one_too_many", OneTooMany)
    bench = bench_with({"set": ImageSet(noise(5))})
    trained, made = checkpoint("one_too_many"), outputs("set", 5)
    keep(bench, OneTooMany().build(CLASSES, SHAPE), trained)
    job = ExtractJob(title="", makes=(made.logits, made.features), checkpoint=trained, outputs=made)
    with pytest.raises(PluginError, match=r"have shape \(5, 5\) .* expected finite \(5, 4\)"):
        extract(bench, job, nothing)


# One pass for all detectors


class Planted(Dataset):
    """A few images of their own for each name."""

    version = "1"
    splits = ("train", "test")
    classes = ("a", "b")
    seed = 0

    def load(self, split: str, data_dir: Path) -> ImageSet:
        count = 40 if split == "train" else 24
        labels = np.arange(count) % 2
        images = noise(count, 2 * self.seed + (split == "test"), (3, 32, 32)) // 2
        return ImageSet(images + (64 * labels[:, None, None, None]).astype(np.uint8), labels, ("a", "b"))


SUITE = """
schema = 1
[protocol]
backbone = "small_cnn"
recipe = "cross_entropy"
[training]
epochs = 1
batch_size = 20
[recipes.gan]
width = 2
[recipes.joint]
width = 2
[[id]]
set = "planted"
outliers = "planted-outliers"
ood = [{ set = "planted-near", group = "near" }, { set = "planted-far" }]
"""


def suite(register: Register, folder: Path) -> str:
    for seed, name in enumerate(("planted", "planted-outliers", "planted-near", "planted-far")):
        register(name, type(f"Planted{seed}", (Planted,), {"seed": seed, "__module__": __name__}))
    file = folder / "planted.toml"
    file.write_text(SUITE, encoding="utf-8")
    return str(file)


SIX = ("msp", "max_logit", "energy", "confidence", "gan_confidence", "joint")


def test_each_image_passes_once_through_each_classifier(
    tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = suite(register, tmp_path)
    seen: dict[tuple[float, ...], Counter[bytes]] = {}
    original = SmallCNNNetwork.features

    def features(self: SmallCNNNetwork, images: Tensor) -> Tensor:
        if not self.training:
            passed = seen.setdefault(tuple(self.head.bias.tolist()), Counter())
            passed.update((255 * image).round().byte().numpy().tobytes() for image in images if image.any())
        return original(self, images)

    monkeypatch.setattr(SmallCNNNetwork, "features", features)
    options: dict[str, Any] = {"suite": file, "device": "cpu", "threads": 1, "results": tmp_path / "results"}
    made = prepare(SIX, backbone="small_cnn[hidden=4,width=2]", **options)
    run = run_plan(made.plan, made.work, made.context, made.run_dir, made.asked, Quiet())
    assert [record.status for record in run.records] == ["ok"] * 12
    names = ("planted", "planted-near", "planted-far")
    every = [made.context.images(SetRef(name, "test", 24)).images for name in names]
    expected = Counter(image.tobytes() for images in every for image in images)
    assert len(expected) == 72
    assert len(seen) == 4  # cross_entropy, confidence, gan_confidence, joint
    assert all(passed == expected for passed in seen.values())
    assert sum(record.forward_images for record in run.records) == 4 * 72


# Scoring


class Probe(Detector):
    """Does as its test says."""

    version = "1"
    needs = frozenset({"logits", "features", "images"})


def probe(register: Register, needs: set[str], **methods: Any) -> None:
    body = {"needs": frozenset(needs), "version": "1", "__module__": __name__, **methods}
    register("probe", type("Probe", (Detector,), body))


def unasked(self: Detector, batch: Batch) -> Tensor:
    raise AssertionError("score() is not to be called")


def score_job(made: Outputs, fitted: Key | None = None, seed: int = 0) -> ScoreJob:
    key = Key("scores", ".npy", "probe", {"set": made.data.set, "seed": seed})
    return ScoreJob(
        title="", makes=(key,), detector="probe", checkpoint=checkpoint(), outputs=made, fitted=fitted, seed=seed
    )


def scores_of(bench: JobContext, job: ScoreJob) -> np.ndarray:
    score(bench, job, nothing)
    return np.array(bench.store.load_array(job.makes[0]))


def test_scores_are_float64_one_an_image_in_order(bench_with: BenchWith, register: Register) -> None:
    count = BATCH + 40
    bench = bench_with({"set": ImageSet(noise(count))})
    stored_network(bench)
    logits, features = extracted(bench, "set")
    batches: list[Batch] = []

    def on_logits(self: Detector, batch: Batch) -> Tensor:
        batches.append(batch)
        return batch.logits[:, 0] + batch.features[:, 1] + batch.images[:, 0, 0, 0]

    probe(register, {"logits", "features", "images"}, score=on_logits)
    scores = scores_of(bench, score_job(outputs("set", count)))
    pixels = bench.images(SetRef("set", "test", 0)).images[:, 0, 0, 0].astype(np.float32) / np.float32(255)
    assert scores.dtype == np.float64
    assert scores.shape == (count,)
    assert np.array_equal(scores, logits[:, 0].astype(np.float64) + features[:, 1] + pixels)
    sizes = [len(batch) for batch in batches]
    assert (sizes[0], max(sizes), sizes[-1]) == (BATCH, BATCH, 40)
    assert {(batch.logits.dtype, batch.features.dtype, batch.images.dtype) for batch in batches} == {
        (torch.float64, torch.float32, torch.float32)
    }


@pytest.mark.parametrize("needs", [{"logits"}, {"features"}, {"images"}, set()])
@pytest.mark.parametrize("asked", ["logits", "features", "images", "labels", "classifier"])
def test_what_is_not_declared_is_not_supplied(
    bench_with: BenchWith, register: Register, needs: set[str], asked: str
) -> None:
    bench = bench_with({"set": labelled(noise(5))})
    stored_network(bench)
    extracted(bench, "set")

    def ask(self: Detector, batch: Batch) -> Tensor:
        getattr(batch, asked)
        return torch.zeros(len(batch))

    probe(register, needs, score=ask)
    if asked in needs:
        assert not scores_of(bench, score_job(outputs("set", 5))).any()
    else:
        with pytest.raises(PluginError, match=r"Detector 'probe' asked for"):
            scores_of(bench, score_job(outputs("set", 5)))


def test_gradients_reach_the_images_after_an_extraction_in_the_same_process(
    bench_with: BenchWith, register: Register
) -> None:
    bench = bench_with({"set": ImageSet(noise(5))})
    network = stored_network(bench)
    extracted(bench, "set")

    def steepness(self: Detector, batch: Batch) -> Tensor:
        images = batch.images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(batch.classifier(images).logsumexp(dim=1).sum(), images)
        steep: Tensor = slope.flatten(1).norm(dim=1)
        return steep

    probe(register, {"images", "network"}, score=steepness)
    scores = scores_of(bench, score_job(outputs("set", 5)))
    images = torch.from_numpy(noise(5)).float().div(255).requires_grad_()
    network(images).logsumexp(dim=1).sum().backward()
    assert images.grad is not None
    assert scores == pytest.approx(images.grad.flatten(1).norm(dim=1).numpy(), rel=1e-4)
    assert (scores > 0).all()


def test_random_scores_come_from_the_job_seed(bench_with: BenchWith, register: Register) -> None:
    bench = bench_with({"set": ImageSet(noise(5))})
    stored_network(bench)
    probe(register, {"network"}, score=lambda self, batch: torch.rand(len(batch)))
    results = []
    for seed in (0, 0, 1):
        before = torch.get_rng_state()
        results.append(scores_of(bench, score_job(outputs("set", 5), seed=seed)))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "centred": lambda values: values - values.mean(),
    "ranked": lambda values: values.argsort().argsort().double(),
    "own": lambda values: values * 1e6,
    "constant": lambda values: 0 * values,
    "rounded": lambda values: 1e6 + values + 1e-8 * len(values),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("count", [1, 3, 5, 60])
def test_scores_that_depend_on_the_batch_are_refused(
    bench_with: BenchWith, register: Register, name: str, count: int
) -> None:
    bench = bench_with({"set": ImageSet(noise(count))})
    stored_network(bench)
    logits, _ = extracted(bench, "set")
    probe(register, {"logits"}, score=lambda self, batch: SCORES[name](batch.logits[:, 0]))
    job = score_job(outputs("set", count))
    if name in ("centred", "ranked") and count > 5:
        with pytest.raises(PluginError, match=r"The score of detector 'probe' depends on the batch: image \d has"):
            scores_of(bench, job)
    else:
        expected = SCORES[name](torch.from_numpy(logits[:, 0].astype(np.float64)))
        assert scores_of(bench, job).tolist() == expected.tolist()


def returning(result: object) -> tuple[Detector, Batch]:
    made: Any = type("Returning", (Detector,), {"name": "probe", "score": lambda self, batch: result})()
    return made, Batch(3, {}, "probe")


@pytest.mark.parametrize(
    "result",
    [
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
        torch.tensor([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0]).half(),
        np.array([1, 2, 3], dtype=np.uint8),
        np.array([1.0, 2.0, 3.0], dtype=">f4"),
        [1.0, 2.0, 3.0],
    ],
    ids=["tensor", "int tensor", "half tensor", "array", "foreign array", "list"],
)
def test_any_real_numbers_will_do(result: object) -> None:
    scores = checked_scores(*returning(result))
    assert scores.dtype == np.dtype("=f8")
    assert scores.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "result, told",
    [
        (torch.zeros(3, 1), "float32 of shape (3, 1)"),
        (torch.zeros(2), "float32 of shape (2,)"),
        (torch.zeros(()), "float32 of shape ()"),
        (None, "object of shape ()"),
        (np.array(["a", "b", "c"]), "<U1 of shape (3,)"),
        (torch.tensor([True, False, True]), "bool of shape (3,)"),
        (np.zeros(3, dtype=complex), "complex128 of shape (3,)"),
    ],
    ids=["column", "too few", "scalar", "nothing", "words", "truths", "complex"],
)
def test_other_results_are_refused(result: object, told: str) -> None:
    with pytest.raises(PluginError) as caught:
        checked_scores(*returning(result))
    assert str(caught.value) == (
        f"Detector 'probe' returned {told} for 3 images; score() must return one float an image, shape (3,)."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(PluginError) as caught:
        checked_scores(*returning(torch.tensor([1.0, value, value])))
    assert str(caught.value) == (
        "Detector 'probe' returned 2 NaN or infinite scores of 3, the first for image 1 of the batch; "
        "every score must be finite."
    )


# Fitting


def fit_job(count: int = 30, outliers: bool = False, seed: int = 0) -> FitJob:
    made = [outputs(name, count) for name in ("train", "validation", "outliers")]
    return FitJob(
        title="",
        makes=(Key("fit", ".safetensors", "probe", {"seed": seed}),),
        detector="probe",
        checkpoint=checkpoint(),
        train=made[0],
        validation=made[1],
        outliers=made[2] if outliers else None,
        seed=seed,
    )


def bench_to_fit(bench_with: BenchWith) -> JobContext:
    sets = {name: labelled(noise(30, seed)) for seed, name in enumerate(("train", "validation", "test"))}
    bench = bench_with({**sets, "outliers": ImageSet(noise(30, 9))})
    stored_network(bench)
    for name in (*sets, "outliers"):
        extracted(bench, name)
    return bench


@pytest.mark.parametrize("declared", [False, True])
def test_fit_sees_labelled_train_and_validation_and_declared_outliers(
    bench_with: BenchWith, register: Register, declared: bool
) -> None:
    bench = bench_to_fit(bench_with)
    seen: list[FitData] = []
    needs = {"logits", "features", "images", *(["outliers"] if declared else [])}
    probe(register, needs, fit=lambda self, classifier, data: seen.append(data), score=unasked)
    fit(bench, fit_job(outliers=True), nothing)
    (data,) = seen
    assert (data.outliers is not None) == declared
    assert data.bank is None
    for name, batch in (("train", data.train), ("validation", data.validation), ("outliers", data.outliers)):
        if batch is None:
            continue
        made, images = outputs(name, 30), bench.images(SetRef(name, "test", 0))
        assert np.array_equal(batch.logits, bench.store.load_array(made.logits))
        assert np.array_equal(batch.features, bench.store.load_array(made.features))
        assert np.array_equal(batch.images, images.images.astype(np.float32) / np.float32(255))
        if name == "outliers":
            with pytest.raises(PluginError, match="asked for 'labels'"):
                _ = batch.labels
        else:
            assert batch.labels.tolist() == [row % CLASSES for row in range(30)]
            assert batch.labels.dtype == torch.int64
    assert FitData._fields == ("train", "validation", "outliers", "bank")


class Slices:
    """A stored array that remembers the most rows ever read at once."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.most = array, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        piece: np.ndarray = self.array[rows]
        self.most = max(self.most, len(piece))
        return piece


def test_a_detector_reads_only_the_rows_it_asks_for_and_in_its_own_type(
    bench_with: BenchWith, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, made = bench_to_fit(bench_with), outputs("train", 30)
    half = {key: bench.store.load_array(key).astype(np.float16) for key in (made.logits, made.features)}
    for key, array in half.items():
        bench.store.save_array(key, array, {})
    read = {key: Slices(array) for key, array in half.items()}
    load = bench.store.load_array
    monkeypatch.setattr(bench.store, "load_array", lambda key: read.get(key, load(key)))
    seen: list[FitData] = []
    probe(register, {"logits", "features"}, fit=lambda self, classifier, data: seen.append(data), score=unasked)
    fit(bench, fit_job(), nothing)
    pieces = list(seen[0].train.batches(7))
    features, logits = (torch.cat([getattr(p, name) for p in pieces]) for name in ("features", "logits"))
    assert (features.dtype, logits.dtype) == (torch.float32, torch.float64)
    assert np.array_equal(features, half[made.features])
    assert np.array_equal(logits, half[made.logits])
    assert [rows.most for rows in read.values()] == [7, 7]


def test_fit_gets_the_frozen_classifier(bench_with: BenchWith, register: Register) -> None:
    bench = bench_to_fit(bench_with)
    seen: list[Classifier] = []
    probe(register, {"logits"}, fit=lambda self, classifier, data: seen.append(classifier), score=unasked)
    fit(bench, fit_job(), nothing)
    (classifier,) = seen
    images = torch.from_numpy(noise(4)).float() / 255
    assert torch.allclose(classifier(images), stored_network(bench)(images), atol=1e-6)
    assert not any(module.training for module in classifier.network.modules())
    assert not any(weight.requires_grad for weight in classifier.network.parameters())


@pytest.mark.parametrize("kind", ["int32", "uint16", ">i8"])
def test_labels_are_int64_whatever_the_data_set_holds(bench_with: BenchWith, register: Register, kind: str) -> None:
    labels = (np.arange(30) % CLASSES).astype(kind)
    held = ImageSet(noise(30), labels, tuple("abcd"))
    bench = bench_with({"train": held, "validation": held})
    stored_network(bench)
    seen: list[Tensor] = []
    probe(register, set(), fit=lambda self, classifier, data: seen.append(data.train.labels), score=unasked)
    fit(bench, fit_job(), nothing)
    assert seen[0].dtype == torch.int64
    assert seen[0].tolist() == labels.tolist()


@pytest.mark.parametrize("change", ["read-only", "mirrored"])
def test_memory_layout_of_images_does_not_matter(bench_with: BenchWith, register: Register, change: str) -> None:
    images = noise(5)
    if change == "read-only":
        images.flags.writeable = False
    else:
        images = images[..., ::-1]
    bench = bench_with({"set": ImageSet(images)})
    probe(register, {"images"}, score=lambda self, batch: batch.images[:, 0, 0, 0])
    scores = scores_of(bench, score_job(outputs("set", 5)))
    assert scores.tolist() == (images[:, 0, 0, 0].astype(np.float32) / np.float32(255)).tolist()


def test_what_fit_learned_reaches_score(bench_with: BenchWith, register: Register) -> None:
    bench = bench_to_fit(bench_with)

    def learn(self: Any, classifier: Classifier, data: FitData) -> None:
        self.center_ = data.train.logits.mean(dim=0)

    def distance(self: Any, batch: Batch) -> Tensor:
        gaps: Tensor = (batch.logits - self.center_).norm(dim=1)
        return gaps

    probe(register, {"logits"}, fit=learn, score=distance)
    fit(bench, fit_job(), nothing)
    scores = scores_of(bench, score_job(outputs("test", 30), fit_job().makes[0]))
    train, test = (np.array(bench.store.load_array(outputs(name, 30).logits), float) for name in ("train", "test"))
    assert scores == pytest.approx(np.linalg.norm(test - train.mean(axis=0), axis=1), rel=1e-12)


def test_random_fits_come_from_the_job_seed(bench_with: BenchWith, register: Register) -> None:
    bench = bench_to_fit(bench_with)

    def learn(self: Any, classifier: Classifier, data: FitData) -> None:
        self.drawn_ = torch.rand(3)

    probe(register, set(), fit=learn, score=unasked)
    results = []
    for seed in (0, 0, 1):
        fit(bench, fit_job(seed=seed), nothing)
        results.append(bench.store.require(fit_job(seed=seed).makes[0]).read_bytes())
        torch.rand(1)
    assert results[0] == results[1]
    assert results[0] != results[2]


# State


def through_a_file(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    one, two = Probe(), Probe()
    one.load_state(state)
    save_state(one, folder / "state.safetensors")
    load_state(two, folder / "state.safetensors")
    return two.state()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 4),
        torch.rand(3, 4, dtype=torch.float64).T,
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.tensor([1, 2]),
        torch.tensor([True, False]),
        torch.rand(2, requires_grad=True),
    ],
    ids=["matrix", "transposed", "scalar", "empty", "integers", "truths", "with gradient"],
)
def test_tensors_survive_storage(tmp_path: Path, tensor: Tensor) -> None:
    back = through_a_file({"t_": tensor}, tmp_path)["t_"]
    assert isinstance(back, Tensor)
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor.detach())


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "uint8", "bool"])
def test_arrays_survive_storage(tmp_path: Path, dtype: str) -> None:
    for array in (np.arange(6).reshape(2, 3).astype(dtype), np.array(1, dtype), np.arange(4).astype(dtype)[::-2]):
        back = through_a_file({"a_": array}, tmp_path)["a_"]
        assert isinstance(back, np.ndarray)
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)


def test_plain_and_nested_values_survive_storage(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "number_": 1 / 3,
        "whole_": 10**20,
        "truth_": False,
        "nothing_": None,
        "word_": "été",
        "numpy_": np.float64(1 / 3),
        "single_": np.float32(0.1),
        "integer_": np.int64(7),
        "list_": [1, [2.5, "x"], []],
        "dict_": {1: "one", "two": {"tensor": [3]}, 0.5: {}, None: 4},
    }
    assert through_a_file(state, tmp_path) == {**state, "single_": float(np.float32(0.1))}


def test_tensors_inside_lists_and_dicts_survive_storage(tmp_path: Path) -> None:
    shared = torch.rand(2)
    state = {"per_class_": {0: shared, 1: [np.arange(3), shared]}, "again_": shared}
    back = through_a_file(state, tmp_path)
    assert torch.equal(back["per_class_"][0], shared)
    assert np.array_equal(back["per_class_"][1][0], np.arange(3))
    assert torch.equal(back["per_class_"][1][1], shared)
    assert torch.equal(back["again_"], shared)


def test_nothing_learned_survives_storage(tmp_path: Path) -> None:
    assert through_a_file({}, tmp_path) == {}


@pytest.mark.parametrize(
    "value",
    [object(), nn.Linear(1, 1), {1, 2}, float("nan"), [np.float64("inf")], np.array(["a"]), lambda: 0, 1j],
    ids=["object", "network", "set", "NaN", "infinity", "words", "function", "complex"],
)
def test_what_cannot_be_stored_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(PluginError, match=r"What detector 'probe' learned cannot be stored: .*Attributes that end in"):
        save_state(returning_state(value), tmp_path / "state.safetensors")
    assert not (tmp_path / "state.safetensors").exists()


def returning_state(value: object) -> Detector:
    made, _ = returning(None)
    made.load_state({"learned_": value})
    return made


# Trivial statistics


def naive_auroc(ours: list[float], theirs: list[float]) -> float:
    wins = sum((b > a) + 0.5 * (a == b) for a in ours for b in theirs)
    return wins / (len(ours) * len(theirs))


def naive_statistics(image: np.ndarray) -> dict[str, float]:
    values = [float(value) for value in image.ravel()]
    average = sum(values) / len(values)
    steps = [
        abs(int(channel[y, x]) - int(channel[y + dy, x + dx]))
        for channel in image
        for dy, dx in ((0, 1), (1, 0))
        for y in range(channel.shape[0] - dy)
        for x in range(channel.shape[1] - dx)
    ]
    spread = (sum((value - average) ** 2 for value in values) / len(values)) ** 0.5
    return {"pixel mean": average, "pixel std": spread, "pixel gradient": float(max(steps))}


def test_statistics_are_those_of_naive_loops() -> None:
    images = noise(6, shape=(2, 4, 5))
    naive = [naive_statistics(image) for image in images]
    assert mean(images).tolist() == pytest.approx([row["pixel mean"] for row in naive], rel=1e-12)
    assert standard_deviation(images).tolist() == pytest.approx([row["pixel std"] for row in naive], rel=1e-12)
    assert largest_gradient(images).tolist() == [row["pixel gradient"] for row in naive]


@pytest.mark.parametrize("block", [1, 3 * 31 * 33, 5 * 3 * 31 * 33 + 7, 1 << 20])
def test_blocks_change_no_bit_of_a_statistic(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    images = noise(23, shape=(3, 31, 33))
    monkeypatch.setattr(pixel_baseline, "BLOCK", block)
    for flipped in (images, images[:, :, ::-1]):
        whole = [mean(flipped), standard_deviation(flipped), largest_gradient(flipped)]
        assert [part.tobytes() for part in statistics(flipped).values()] == [array.tobytes() for array in whole]


def test_temporaries_of_big_images_are_small() -> None:
    images = np.zeros((40, 3, 256, 256), np.uint8)
    tracemalloc.start()
    statistics(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * pixel_baseline.BLOCK, "computed at once, the standard deviation alone takes 60 MiB"


def test_a_set_is_measured_once_and_a_pair_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (ImageSet(noise(12, seed)) for seed in range(3))
    measured: list[int] = []

    def counted(images: np.ndarray) -> dict[str, np.ndarray]:
        measured.append(len(images))
        return statistics(images)

    monkeypatch.setattr(pixel_baseline, "statistics", counted)
    for expected in (3, 3):
        results = CachedStatistics(DataCache(tmp_path))
        found = [results.best(one, other) for other in (two, three, two)]
        assert len(measured) == expected
    direct = [best_statistic_of(*(statistics(s.images) for s in (one, other))) for other in (two, three, two)]
    assert found == direct, "the same floats, through the file as well"
    (tmp_path / "statistics.json").write_text("[not JSON")
    assert CachedStatistics(DataCache(tmp_path)).best(one, two) == direct[0]


def blocks(count: int, low: int, high: int, seed: int) -> np.ndarray:
    """Images of one shade each, so that only the mean varies."""
    shades = np.random.RandomState(seed).randint(low, high, (count, 1, 1, 1))
    return np.broadcast_to(shades, (count, 1, 4, 5)).astype(np.uint8)


def stripes(count: int, low: int, high: int, seed: int) -> np.ndarray:
    """Images of mean 128 whose rows alternate by a random contrast."""
    contrast = np.random.RandomState(seed).randint(low, high, (count, 1, 1, 1))
    sign = np.array([1, -1, 1, -1]).reshape(1, 1, 4, 1)
    return np.broadcast_to(128 + sign * contrast, (count, 1, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize(
    "id_images, ood_images, statistic, direction",
    [
        (blocks(20, 0, 120, 0), blocks(15, 100, 255, 1), "pixel mean", "higher is OOD"),
        (blocks(20, 100, 255, 0), blocks(15, 0, 120, 1), "pixel mean", "lower is OOD"),
        (stripes(20, 0, 60, 0), stripes(15, 50, 120, 1), "pixel std", "higher is OOD"),
        (stripes(20, 50, 120, 0), stripes(15, 0, 60, 1), "pixel std", "lower is OOD"),
    ],
)
def test_best_statistic_and_its_direction_are_found(
    id_images: np.ndarray, ood_images: np.ndarray, statistic: str, direction: str
) -> None:
    best = best_statistic(id_images, ood_images)
    assert (best["statistic"], best["direction"]) == (statistic, direction)
    sign = 1 if direction == "higher is OOD" else -1
    ours, theirs = ([sign * naive_statistics(i)[statistic] for i in images] for images in (id_images, ood_images))
    assert best["auroc"] == pytest.approx(naive_auroc(ours, theirs), rel=1e-12)
    assert best == {"statistic": statistic, "direction": direction, **exact.evaluate(ours, theirs)}


@pytest.mark.parametrize("seed", range(6))
def test_no_statistic_beats_the_best(seed: int) -> None:
    id_images, ood_images = noise(12, seed, (1, 3, 3)), noise(9, seed + 100, (1, 3, 3))
    naive = [[naive_statistics(image) for image in images] for images in (id_images, ood_images)]
    values = {}
    for name in naive[0][0]:
        area = naive_auroc([row[name] for row in naive[0]], [row[name] for row in naive[1]])
        values.update({(name, "higher is OOD"): area, (name, "lower is OOD"): 1 - area})
    best = best_statistic(id_images, ood_images)
    assert best["auroc"] == pytest.approx(max(values.values()), rel=1e-12)
    assert values[str(best["statistic"]), str(best["direction"])] == pytest.approx(max(values.values()), rel=1e-12)


def test_steepest_edge_alone_can_tell_sets_apart() -> None:
    one = np.tile(np.array([0, 100, 100, 200], np.uint8), (5, 1, 4, 1))
    two = np.tile(np.array([0, 200, 100, 100], np.uint8), (5, 1, 4, 1))
    best = best_statistic(one, two)
    assert (best["statistic"], best["direction"], best["auroc"]) == ("pixel gradient", "higher is OOD", 1.0)


# Seeds


def test_derived_seed_is_a_known_hash() -> None:
    assert derive(0, "training", "order") == 417_515_840_968_064_620
    first = hashlib.sha256(b"0\x00training\x00order").hexdigest()[:16]
    assert derive(0, "training", "order") == int(first, 16) // 2


def test_derived_seeds_differ_and_fit_a_generator() -> None:
    names = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("b", "a"), ("a", 1), ("a", 11), ("fit", "msp"), ("score", "msp")]
    seeds = [derive(seed, *name) for seed in (0, 1, 10) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    for seed in seeds:
        torch.Generator().manual_seed(seed)
