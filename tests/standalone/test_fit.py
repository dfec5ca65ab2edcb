"""`fit`: the scores of a run from arrays in memory, what is accepted, and what is refused with which sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData, FittedDetector, fit
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.errors import OodbenchError, PluginError, UserError
from oodbench.benchmark.plan.jobs import FitJob, Outputs, ScoreJob
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.standalone.fit import ON_ARRAYS
from oodbench.benchmark.store.store import Key
from tests.detectors.feature_world import FeatureWorld
from tests.support import draw_no_plots, prepare_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")

Register = Callable[[str, type[Plugin]], None]

MATRIX = """
[[id]]
set = "digits[0-3]"
[[id.ood]]
set = "greek"
group = "far"
"""


DETECTORS = ("msp", "vim", "mahalanobis", "temperature_scaling", "react", "nnguide", "relation", "knn[fraction=0.3]")


def detectors_on_arrays() -> list[str]:
    """The built-in post-hoc detectors that arrays suffice for, on a head that is not made of texts."""
    entries = registry.entries("detector").items()
    found = [registry.get("detector", name) for name, entry in entries if entry.origin.startswith("oodbench.")]
    found = [cls for cls in found if cls.recipe is None and cls.fits_images]
    return [cls.name for cls in found if cls.needs and cls.needs <= ON_ARRAYS]


def arrays_of(prepared: Prepared, outputs: Outputs, labelled: bool = False) -> dict[str, np.ndarray]:
    """The stored arrays of a set, as `fit` and `score` take them."""
    context = prepared.context
    found = {name: context.store.load_array(getattr(outputs, name)) for name in ("features", "logits")}
    return {**found, "labels": context.labels(outputs.data)} if labelled else found


def scores_of_the_run(prepared: Prepared) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """(Detector, set) -> its stored scores, and the scores that `fit` gives for the stored arrays."""
    jobs, store = prepared.work.jobs, prepared.context.store
    fits = {(job.detector, job.checkpoint.key): job for job in jobs if isinstance(job, FitJob)}
    fitted: dict[tuple[str, Key], FittedDetector] = {}
    found = {}
    for job in jobs:
        if not isinstance(job, ScoreJob) or not store.has(job.makes[0]):
            continue
        key = (job.detector, job.checkpoint.key)
        if key not in fitted:
            arrays: dict[str, Any] = {"num_classes": job.checkpoint.num_classes}
            learned = fits.get(key)
            train = learned.train if learned else job.bank
            if train is not None:
                head = prepared.context.classifier(job.checkpoint).network.head
                held_out = learned.validation if learned and learned.validation else train
                validation = arrays_of(prepared, held_out, True)
                arrays |= {**arrays_of(prepared, train, True), "head": head, "validation": validation}
            fitted[key] = fit(job.detector, seed=job.seed, **arrays)
        ours = fitted[key].score(**arrays_of(prepared, job.outputs))
        name = f"{job.outputs.data} under {job.checkpoint.key.digest}"
        found[job.detector, name] = np.array(store.load_array(job.makes[0])), ours
    return found


def test_scores_are_those_of_a_run_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_no_plots(monkeypatch)
    suite = write_suite(tmp_path, MATRIX, backbone="small_cnn[hidden=32,width=4]", training="epochs = 2")
    prepared = prepare_suite(suite, DETECTORS, limit_train=300, limit_test=100)
    prepared.start(None)
    found = scores_of_the_run(prepared)
    assert len(found) == 2 * len(DETECTORS)
    for (detector, images), (stored, ours) in found.items():
        np.testing.assert_array_equal(stored, ours, err_msg=f"{detector} on {images}")
        assert ours.dtype == np.float64


@pytest.mark.slow
def test_scores_are_those_of_the_default_suite_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every detector that arrays suffice for, on every set; on the threads that the suite states."""
    draw_no_plots(monkeypatch)
    names = [*detectors_on_arrays(), "knn[fraction=0.3]", "cosine[to=means]", "vim[dim=20]"]
    prepared = prepare(names, results=tmp_path, epochs=2, device="cpu", stability=False)
    prepared.start(None)
    found = scores_of_the_run(prepared)
    assert {detector for detector, _ in found} == set(names)
    different = [key for key, (stored, ours) in found.items() if not np.array_equal(stored, ours)]
    assert different == []


@pytest.fixture
def world() -> FeatureWorld:
    return FeatureWorld(classes=4, units=20, images=400)


@pytest.fixture
def arrays(world: FeatureWorld) -> dict[str, Any]:
    """What `fit` takes."""
    logits, head = world.logits(world.features), (world.weight, world.bias)
    return {"features": world.features, "logits": logits, "labels": world.labels, "head": head}


@pytest.fixture
def images(world: FeatureWorld) -> dict[str, np.ndarray]:
    """What `score` takes."""
    return {"features": world.test, "logits": world.logits(world.test)}


# What is accepted


@pytest.mark.parametrize("name", ["vim[dim=5]", "knn", "nnguide", "relation", "msp", "react", "knn[fraction=0.5]"])
def test_tensors_give_tensors_with_the_same_numbers(
    name: str, arrays: dict[str, Any], images: dict[str, np.ndarray]
) -> None:
    expected = fit(name, **arrays).score(**images)
    head = tuple(torch.from_numpy(part) for part in arrays.pop("head"))
    tensors: dict[str, Any] = {key: torch.from_numpy(value) for key, value in arrays.items()}
    fitted = fit(name, head=head, **tensors)
    found = fitted.score(**{key: torch.from_numpy(value).requires_grad_() for key, value in images.items()})
    assert isinstance(found, Tensor)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_name_a_class_and_an_instance_are_the_same(arrays: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    vim = registry.get("detector", "vim")
    instance = vim(dim=5)
    by_name, by_instance = fit("vim[dim=5]", **arrays), fit(instance, **arrays)
    np.testing.assert_array_equal(by_name.score(**images), by_instance.score(**images))
    assert instance.state() == {}
    assert by_instance.detector is not instance
    np.testing.assert_array_equal(fit(vim, **arrays).score(**images), fit("vim", **arrays).score(**images))


class Centroid(Detector):
    """Is not registered anywhere."""

    needs = frozenset({"features"})
    power: float = 2.0

    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.centre_ = data.train.features.double().mean(dim=0)

    def score(self, batch: Batch) -> Tensor:
        distances: Tensor = (batch.features - self.centre_).norm(dim=1) ** self.power
        return distances


def test_a_class_of_a_notebook_needs_no_registration(world: FeatureWorld) -> None:
    fitted = fit(Centroid(power=1.0), features=world.features)
    train = world.features[:360].astype(np.float64)  # without labels, the last tenth of all images is held out
    expected = np.linalg.norm(world.test - train.mean(axis=0), axis=1)
    np.testing.assert_allclose(fitted.score(features=world.test), expected, rtol=1e-9)
    assert (fitted.name, fitted.train_images, fitted.validation_images) == ("Centroid[power=1.0]", 360, 40)


def test_what_learns_nothing_needs_no_arrays() -> None:
    logits = np.array([[4.0, 0.0], [1.0, 0.9]])
    fitted = fit("msp")
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(fitted.score(logits=logits), np.log1p(-np.exp(log_p.max(axis=1))), rtol=1e-12)
    np.testing.assert_array_equal(fitted.score(logits=logits.tolist()), fitted.score(logits=logits))
    assert fitted.score(logits=logits[:1]).shape == (1,)


def test_what_learns_nothing_reads_no_training_arrays() -> None:
    logits = np.array([[4.0, 0.0], [1.0, 0.9]])
    broken = np.full((3, 2), np.nan)
    np.testing.assert_array_equal(fit("msp", logits=broken).score(logits=logits), fit("msp").score(logits=logits))
    with pytest.raises(UserError, match=r"^logits has NaN in row 0"):
        fit("kl_matching", logits=broken, labels=[0, 1, 1])
    with pytest.raises(UserError, match=r"^logits has shape"):
        fit("msp", logits=broken[0])


def test_only_what_is_read_must_be_given(world: FeatureWorld, arrays: dict[str, Any]) -> None:
    head = arrays["head"]
    np.testing.assert_array_equal(
        fit("cosine", head=head).score(features=world.test), fit("cosine", **arrays).score(features=world.test)
    )
    assert fit("mahalanobis", features=world.features, labels=world.labels).num_classes == 4
    assert fit("kl_matching", logits=arrays["logits"]).needs == ("logits",)


def test_validation_is_held_out_as_in_a_run(arrays: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    """The last tenth of each class, unless validation images are given."""
    labels = arrays["labels"]
    held_out = np.zeros(len(labels), bool)
    for k in range(4):
        held_out[np.flatnonzero(labels == k)[-10:]] = True
    head = arrays.pop("head")
    parts = [{name: array[rows] for name, array in arrays.items()} for rows in (~held_out, held_out)]
    for name in ("temperature_scaling", "vim", "knn", "relation"):
        carved = fit(name, head=head, **arrays)
        given = fit(name, head=head, validation=parts[1], **parts[0])
        np.testing.assert_array_equal(carved.score(**images), given.score(**images))
        assert (carved.train_images, carved.validation_images) == (360, 40)


def test_the_head_is_recovered(arrays: dict[str, Any], images: dict[str, np.ndarray], logged: list[str]) -> None:
    expected = fit("react", **arrays).score(**images)
    assert logged == []
    del arrays["head"]
    np.testing.assert_allclose(fit("react", **arrays).score(**images), expected, rtol=1e-6)
    assert logged == ["The head was recovered from features and logits of 360 images."]
    fit("knn", **arrays)  # does not read it
    assert len(logged) == 1


def test_a_detector_of_trained_networks_says_which(logged: list[str]) -> None:
    logits = np.array([[4.0, 0.0], [1.0, 0.9]])
    np.testing.assert_array_equal(fit("joint").score(logits=logits), fit("msp").score(logits=logits))
    assert logged == ["'joint' scores networks trained with the recipe 'joint'; the arrays should be those of one."]


def test_a_linear_module_is_a_head(arrays: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    weight, bias = arrays["head"]
    module = nn.Linear(20, 4).double()
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
        module.bias.copy_(torch.from_numpy(bias))
    expected = fit("vim", **arrays).score(**images)
    np.testing.assert_array_equal(fit("vim", **{**arrays, "head": module}).score(**images), expected)


def test_precision_is_that_of_a_run(arrays: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    """Features are float32 whatever was given, logits float64; half precision is read as it is."""
    single = fit("knn", **arrays).score(**images)
    double = fit("knn", **{**arrays, "features": arrays["features"].astype(np.float64)})
    np.testing.assert_array_equal(double.score(features=images["features"].astype(np.float64)), single)
    half = images["logits"].astype(np.float16)
    expected = fit("energy").score(logits=half.astype(np.float64))
    np.testing.assert_array_equal(fit("energy").score(logits=half), expected)
    bfloat = torch.from_numpy(half).bfloat16()
    np.testing.assert_array_equal(fit("energy").score(logits=bfloat), fit("energy").score(logits=bfloat.double()))


def test_scores_do_not_depend_on_what_was_scored_before(arrays: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    fitted = fit("knn", **arrays)
    first = fitted.score(**images)
    fitted.score(features=images["features"][:2])
    np.testing.assert_array_equal(fitted.score(**images), first)


class Draws(Centroid):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        self.centre_ = torch.rand(data.train.features.shape[1])


def test_random_numbers_follow_the_seed(world: FeatureWorld) -> None:
    before = torch.get_rng_state()
    scores = [fit(Draws, features=world.features, seed=seed).score(features=world.test) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])


def test_it_shows_itself(arrays: dict[str, Any]) -> None:
    fitted = fit("vim", **arrays)
    assert fitted.chosen == {"dim": 10}
    assert repr(fitted) == (
        "<FittedDetector 'vim': learned from 360 images, 40 more for validation; chosen dim = 10; scores features and "
        "logits; classes 4>"
    )
    html = fitted._repr_html_()
    assert "<h4>ViM</h4>" in html
    assert "dim = 10" in html
    assert html.count("<tr>") == html.count("</tr>") == 5


def test_memory_mapped_arrays_are_read_where_they_are(tmp_path: Path, arrays: dict[str, Any]) -> None:
    np.save(tmp_path / "features.npy", arrays["features"])
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    expected = fit("knn", **arrays).score(features=arrays["features"][:9])
    arrays["features"] = mapped
    np.testing.assert_array_equal(fit("knn", **arrays).score(features=mapped[:9]), expected)


# What is refused


def changed(arrays: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {**arrays, **others}


def with_value(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array = array.copy()
    array[row, 1] = value
    return array


REFUSED: list[tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    ("unknown", "vmi", dict, r"Unknown detector 'vmi'. Did you mean 'vim'\?"),
    ("setting", "vim[dims=3]", dict, "Unknown setting of the detector 'vim': 'dims'"),
    ("recipe", "msp@joint", dict, "names a recipe after the @.* Give 'msp'"),
    ("network", "odin", dict, "'odin' needs images and network, and arrays of logits and features cannot supply"),
    ("lengths", "vim", lambda a: changed(a, labels=a["labels"][:-1]), "features 400 and logits 400 and labels 399"),
    ("one image", "vim", lambda a: changed(a, features=a["features"][0]), r"For a single image, give features\[None\]"),
    ("maps", "vim", lambda a: changed(a, features=np.zeros((4, 20, 2, 2))), "look like feature maps"),
    ("empty", "vim", lambda a: changed(a, features=np.zeros((0, 20))), "which holds nothing"),
    ("NaN", "vim", lambda a: changed(a, features=with_value(a["features"], 17, np.nan)), "features has NaN in row 17;"),
    ("inf", "vim", lambda a: changed(a, logits=with_value(a["logits"], 3, np.inf)), "infinite value in row 3"),
    (
        "float16", "vim", lambda a: changed(a, features=with_value(a["features"].astype(np.float16), 9, np.inf)),
        "infinite value in row 9; .* float16 ends at 65,504",
    ),
    ("text", "vim", lambda a: changed(a, features=[["a"]]), "features holds text; expected numbers"),
    ("names", "vim", lambda a: changed(a, labels=list("abcd") * 100), "labels holds text, such as 'a'"),
    ("one-hot", "vim", lambda a: changed(a, labels=np.eye(4)[a["labels"]]), r"as if one-hot; .*labels.argmax\(1\)"),
    ("floats", "vim", lambda a: changed(a, labels=a["labels"] / 1), "values of type float64; expected int"),
    ("negative", "vim", lambda a: changed(a, labels=a["labels"] - 1), "labels has -1 in row 0"),
    ("too large", "vim", lambda a: changed(a, labels=a["labels"] + 1), "labels has 4 in row 3; .* from 0 to 3"),
    ("classes", "vim", lambda a: changed(a, num_classes=7), "num_classes: 7, the logits' columns: 4, the rows of the"),
    ("no head", "cosine", lambda a: {"features": a["features"]}, r"head is asked for .* head=\(weight, bias\)"),
    ("no labels", "she", lambda a: {"features": a["features"], "logits": a["logits"]}, "learns from the labels of"),
    ("no features", "knn", lambda a: {"logits": a["logits"]}, r"features of the .* features=\.\.\., \(N"),
    ("no logits", "vim", lambda a: changed(a, logits=None), "learns from the logits"),
    ("bank", "knn[fraction=0.5]", lambda a: {"features": a["features"]}, "learns from the labels"),
    ("transposed", "vim", lambda a: changed(a, head=(a["head"][0].T, a["head"][1])), "shape .* bias of shape"),
    ("width", "vim", lambda a: changed(a, head=(a["head"][0][:, 1:], a["head"][1])), r"weight has shape \(4, 19\)"),
    ("other head", "vim", lambda a: changed(a, head=(2 * a["head"][0], a["head"][1])), "head does not belong to"),
    ("no pair", "vim", lambda a: changed(a, head=a["head"][0]), "head is not a pair"),
    ("not linear", "react", lambda a: changed(a, head=None, logits=a["logits"] ** 3), "are no linear function"),
    ("few", "react", lambda a: {"features": a["features"][:9], "logits": a["logits"][:9]}, "8 images are too few"),
    ("validation", "kl_matching", lambda a: changed(a, validation={"logit": a["logits"]}), "has 'logit'; exp"),
    ("validation lacks", "kl_matching", lambda a: changed(a, validation={"labels": [0]}), "logits of the validation"),
    (
        "validation width", "kl_matching", lambda a: changed(a, validation={"logits": a["logits"][:, 1:]}),
        r"validation\['logits'\] has 3 columns and logits 4",
    ),
    ("alone", "mahalanobis", lambda a: {"features": a["features"][:4], "labels": [0, 0, 1, 0]}, "class 1 has a single"),
]  # fmt: skip


@pytest.mark.parametrize("detector, change, message", [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_wrong_input_is_one_sentence(
    arrays: dict[str, Any], detector: str, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        fit(detector, **change(arrays))
    assert "\n" not in str(raised.value)


def test_what_is_no_detector_is_refused() -> None:
    with pytest.raises(UserError, match="is no detector; give a name such as"):
        fit(3)  # type: ignore[arg-type]


def test_wrong_images_are_refused(arrays: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    vim = fit("vim", **arrays)
    with pytest.raises(UserError, match=r"'vim' scores features and logits, and logits are missing: score\(features="):
        vim.score(features=images["features"])
    with pytest.raises(UserError, match=r"features has 19 columns, and fit\(\) got 20"):
        vim.score(features=images["features"][:, 1:], logits=images["logits"])
    with pytest.raises(UserError, match=r"logits has 3 columns, and fit\(\) got 4"):
        vim.score(features=images["features"], logits=images["logits"][:, 1:])
    with pytest.raises(UserError, match="NaN in row 2"):
        vim.score(**{**images, "logits": with_value(images["logits"], 2, np.nan)})
    with pytest.raises(UserError, match="got no images to score"):
        fit("constant").score()


def test_nan_is_found_in_every_block(world: FeatureWorld, arrays: dict[str, Any]) -> None:
    many = np.tile(world.features, (6, 1))
    for name in ("mahalanobis", "knn"):
        fitted = fit(name, **arrays)
        assert len(fitted.score(features=many)) == 2400
        for row in (0, 1023, 1024, 2399):
            with pytest.raises(UserError, match=rf"^features has NaN in row {row:,}; expected finite numbers.$"):
                fitted.score(features=with_value(many, row, np.nan))
        with pytest.raises(UserError, match="an infinite value in row 3"):
            fitted.score(features=with_value(many, 3, -np.inf))
        extreme = np.full((10, 20), 3e38, np.float32)  # finite, with an infinite sum
        assert np.isfinite(fit("cosine", **arrays).score(features=extreme)).all()


def test_a_class_without_images_is_named_where_it_matters(world: FeatureWorld) -> None:
    with pytest.raises(OodbenchError, match=r"IndexError.*; 1 of the 5 classes have no training images \(4\)"):
        fit(Careless, features=world.features, labels=world.labels, num_classes=5)


class Careless(Centroid):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        first = [data.train.features[data.train.labels == k][0] for k in range(classifier.num_classes)]
        self.centre_ = torch.stack(first).mean(dim=0)


class LearnsAModule(Centroid):
    def fit(self, classifier: Classifier, data: FitData) -> None:
        super().fit(classifier, data)
        self.module_ = nn.Linear(2, 2)


class RanksTheBatch(Centroid):
    def score(self, batch: Batch) -> Tensor:
        return batch.features[:, 0].argsort().argsort().double()


def test_the_contract_is_that_of_a_run(world: FeatureWorld) -> None:
    with pytest.raises(PluginError, match="learned cannot be stored"):
        fit(LearnsAModule, features=world.features)
    with pytest.raises(PluginError, match="depends on the batch"):
        fit(RanksTheBatch, features=world.features).score(features=world.test)


class CountsCalls(Centroid):
    calls = 0

    def score(self, batch: Batch) -> Tensor:
        type(self).calls += 1
        return super().score(batch)


def test_dependence_on_the_batch_is_looked_for_once(world: FeatureWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountsCalls, "calls", 0)
    fitted = fit(CountsCalls, features=world.features)
    counts = []
    for images in (3, 400, 400):  # of three images, a smaller batch would be the same one
        fitted.score(features=world.features[:images])
        counts.append(CountsCalls.calls)
    assert counts == [1, 3, 4]
    ranks = fit(RanksTheBatch, features=world.features)
    for _ in range(2):
        with pytest.raises(PluginError, match="depends on the batch"):
            ranks.score(features=world.test)


def test_a_head_is_not_read_by_what_does_not_need_it(arrays: dict[str, Any], images: dict[str, np.ndarray]) -> None:
    broken = with_value(arrays["head"][0], 1, np.nan), arrays["head"][1]
    np.testing.assert_array_equal(
        fit("knn", **{**arrays, "head": broken}).score(**images), fit("knn", **arrays).score(**images)
    )
    with pytest.raises(UserError, match=r"head\[0\] has NaN in row 1"):
        fit("vim", **{**arrays, "head": broken})
