"""Fitting and scoring: what detectors are given, in which batches, with which seed, and which scores are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, ImageSet
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.jobs import FitJob, Outputs, ScoreJob, SetRef
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.detecting.fit_score import BATCH
from oodbench.benchmark.stages.detecting.score_checks import checked_scores
from oodbench.benchmark.stages.fit_score import fit, score
from oodbench.benchmark.store.store import Key
from tests.stages.extracted_sets import (
    CLASSES,
    ContextWith,
    Register,
    checkpoint,
    extracted,
    labelled,
    no_tick,
    noise,
    outputs,
    stored_network,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class Probe(Detector):
    """Its methods are defined by each test."""

    version = "1"
    needs = frozenset({"logits", "features", "images"})


def probe(register: Register, needs: set[str], **methods: Any) -> None:
    body = {"needs": frozenset(needs), "version": "1", "__module__": __name__, **methods}
    register("probe", type("Probe", (Detector,), body))


def never_called(self: Detector, batch: Batch) -> Tensor:
    raise AssertionError("score() must not be called")


def score_job(made: Outputs, fitted: Key | None = None, seed: int = 0) -> ScoreJob:
    key = Key("scores", ".npy", "probe", {"set": made.data.set, "seed": seed})
    return ScoreJob(
        title="", makes=(key,), detector="probe", checkpoint=checkpoint(), outputs=made, fitted=fitted, seed=seed
    )


def scores_of(context: JobContext, job: ScoreJob) -> np.ndarray:
    score(context, job, no_tick)
    return np.array(context.store.load_array(job.makes[0]))


def test_scores_are_float64_one_per_image_in_order(context_with: ContextWith, register: Register) -> None:
    count = BATCH + 40
    context = context_with({"set": ImageSet(noise(count))})
    stored_network(context)
    logits, features = extracted(context, "set")
    batches: list[Batch] = []

    def on_logits(self: Detector, batch: Batch) -> Tensor:
        batches.append(batch)
        return batch.logits[:, 0] + batch.features[:, 1] + batch.images[:, 0, 0, 0]

    probe(register, {"logits", "features", "images"}, score=on_logits)
    scores = scores_of(context, score_job(outputs("set", count)))
    pixels = context.images(SetRef("set", "test", 0)).images[:, 0, 0, 0].astype(np.float32) / np.float32(255)
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
    context_with: ContextWith, register: Register, needs: set[str], asked: str
) -> None:
    context = context_with({"set": labelled(noise(5))})
    stored_network(context)
    extracted(context, "set")

    def ask(self: Detector, batch: Batch) -> Tensor:
        getattr(batch, asked)
        return torch.zeros(len(batch))

    probe(register, needs, score=ask)
    if asked in needs:
        assert not scores_of(context, score_job(outputs("set", 5))).any()
    else:
        with pytest.raises(PluginError, match=r"Detector 'probe' asked for"):
            scores_of(context, score_job(outputs("set", 5)))


def test_gradients_reach_the_images_after_an_extraction_in_the_same_process(
    context_with: ContextWith, register: Register
) -> None:
    context = context_with({"set": ImageSet(noise(5))})
    network = stored_network(context)
    extracted(context, "set")

    def steepness(self: Detector, batch: Batch) -> Tensor:
        images = batch.images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(batch.classifier(images).logsumexp(dim=1).sum(), images)
        steep: Tensor = slope.flatten(1).norm(dim=1)
        return steep

    probe(register, {"images", "network"}, score=steepness)
    scores = scores_of(context, score_job(outputs("set", 5)))
    images = torch.from_numpy(noise(5)).float().div(255).requires_grad_()
    network(images).logsumexp(dim=1).sum().backward()
    assert images.grad is not None
    assert scores == pytest.approx(images.grad.flatten(1).norm(dim=1).numpy(), rel=1e-4)
    assert (scores > 0).all()


def test_random_scores_come_from_the_job_seed(context_with: ContextWith, register: Register) -> None:
    context = context_with({"set": ImageSet(noise(5))})
    stored_network(context)
    probe(register, {"network"}, score=lambda self, batch: torch.rand(len(batch)))
    results = []
    for seed in (0, 0, 1):
        before = torch.get_rng_state()
        results.append(scores_of(context, score_job(outputs("set", 5), seed=seed)))
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
    context_with: ContextWith, register: Register, name: str, count: int
) -> None:
    context = context_with({"set": ImageSet(noise(count))})
    stored_network(context)
    logits, _ = extracted(context, "set")
    probe(register, {"logits"}, score=lambda self, batch: SCORES[name](batch.logits[:, 0]))
    job = score_job(outputs("set", count))
    if name in ("centred", "ranked") and count > 5:
        with pytest.raises(
            PluginError, match=r"The score of detector 'probe' depends on the batch: image \d gets .* in a batch of 5;"
        ):
            scores_of(context, job)
    else:
        expected = SCORES[name](torch.from_numpy(logits[:, 0].astype(np.float64)))
        assert scores_of(context, job).tolist() == expected.tolist()


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
def test_any_real_numbers_are_accepted(result: object) -> None:
    scores = checked_scores(*returning(result))
    assert scores.dtype == np.dtype("=f8")
    assert scores.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "result, described",
    [
        (torch.zeros(3, 1), "float32 of shape (3, 1)"),
        (torch.zeros(2), "float32 of shape (2,)"),
        (torch.zeros(()), "float32 of shape ()"),
        (None, "object of shape ()"),
        (np.array(["a", "b", "c"]), "<U1 of shape (3,)"),
        (torch.tensor([True, False, True]), "bool of shape (3,)"),
        (np.zeros(3, dtype=complex), "complex128 of shape (3,)"),
    ],
    ids=["column", "too few", "scalar", "nothing", "strings", "booleans", "complex"],
)
def test_other_results_are_refused(result: object, described: str) -> None:
    with pytest.raises(PluginError) as caught:
        checked_scores(*returning(result))
    assert str(caught.value) == (
        f"Detector 'probe' returned {described} for 3 images; score() must return one float per image, shape (3,)."
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


def context_to_fit(context_with: ContextWith) -> JobContext:
    sets = {name: labelled(noise(30, seed)) for seed, name in enumerate(("train", "validation", "test"))}
    context = context_with({**sets, "outliers": ImageSet(noise(30, 9))})
    stored_network(context)
    for name in (*sets, "outliers"):
        extracted(context, name)
    return context


@pytest.mark.parametrize("declared", [False, True])
def test_fit_sees_labelled_train_and_validation_and_declared_outliers(
    context_with: ContextWith, register: Register, declared: bool
) -> None:
    context = context_to_fit(context_with)
    passed: list[FitData] = []
    needs = {"logits", "features", "images", *(["outliers"] if declared else [])}
    probe(register, needs, fit=lambda self, classifier, data: passed.append(data), score=never_called)
    fit(context, fit_job(outliers=True), no_tick)
    (data,) = passed
    assert (data.outliers is not None) == declared
    assert data.bank is None
    for name, batch in (("train", data.train), ("validation", data.validation), ("outliers", data.outliers)):
        if batch is None:
            continue
        made, images = outputs(name, 30), context.images(SetRef(name, "test", 0))
        assert np.array_equal(batch.logits, context.store.load_array(made.logits))
        assert np.array_equal(batch.features, context.store.load_array(made.features))
        assert np.array_equal(batch.images, images.images.astype(np.float32) / np.float32(255))
        if name == "outliers":
            with pytest.raises(PluginError, match="asked for 'labels'"):
                _ = batch.labels
        else:
            assert batch.labels.tolist() == [row % CLASSES for row in range(30)]
            assert batch.labels.dtype == torch.int64
    assert FitData._fields == ("train", "validation", "outliers", "bank")


class Slices:
    """A stored array that records the largest number of rows read at once."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.most = array, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        piece: np.ndarray = self.array[rows]
        self.most = max(self.most, len(piece))
        return piece


def test_a_detector_reads_only_the_rows_it_asks_for_and_in_its_own_type(
    context_with: ContextWith, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, made = context_to_fit(context_with), outputs("train", 30)
    half = {key: context.store.load_array(key).astype(np.float16) for key in (made.logits, made.features)}
    for key, array in half.items():
        context.store.save_array(key, array, {})
    read = {key: Slices(array) for key, array in half.items()}
    load = context.store.load_array
    monkeypatch.setattr(context.store, "load_array", lambda key: read.get(key, load(key)))
    passed: list[FitData] = []
    probe(register, {"logits", "features"}, fit=lambda self, classifier, data: passed.append(data), score=never_called)
    fit(context, fit_job(), no_tick)
    pieces = list(passed[0].train.batches(7))
    features, logits = (torch.cat([getattr(p, name) for p in pieces]) for name in ("features", "logits"))
    assert (features.dtype, logits.dtype) == (torch.float32, torch.float64)
    assert np.array_equal(features, half[made.features])
    assert np.array_equal(logits, half[made.logits])
    assert [rows.most for rows in read.values()] == [7, 7]


def test_fit_gets_the_frozen_classifier(context_with: ContextWith, register: Register) -> None:
    context = context_to_fit(context_with)
    passed: list[Classifier] = []
    probe(register, {"logits"}, fit=lambda self, classifier, data: passed.append(classifier), score=never_called)
    fit(context, fit_job(), no_tick)
    (classifier,) = passed
    images = torch.from_numpy(noise(4)).float() / 255
    assert torch.allclose(classifier(images), stored_network(context)(images), atol=1e-6)
    assert not any(module.training for module in classifier.network.modules())
    assert not any(weight.requires_grad for weight in classifier.network.parameters())


@pytest.mark.parametrize("kind", ["int32", "uint16", ">i8"])
def test_labels_are_int64_whatever_the_data_set_holds(context_with: ContextWith, register: Register, kind: str) -> None:
    labels = (np.arange(30) % CLASSES).astype(kind)
    held = ImageSet(noise(30), labels, tuple("abcd"))
    context = context_with({"train": held, "validation": held})
    stored_network(context)
    passed: list[Tensor] = []
    probe(register, set(), fit=lambda self, classifier, data: passed.append(data.train.labels), score=never_called)
    fit(context, fit_job(), no_tick)
    assert passed[0].dtype == torch.int64
    assert passed[0].tolist() == labels.tolist()


@pytest.mark.parametrize("change", ["read-only", "mirrored"])
def test_memory_layout_of_images_does_not_matter(context_with: ContextWith, register: Register, change: str) -> None:
    images = noise(5)
    if change == "read-only":
        images.flags.writeable = False
    else:
        images = images[..., ::-1]
    context = context_with({"set": ImageSet(images)})
    probe(register, {"images"}, score=lambda self, batch: batch.images[:, 0, 0, 0])
    scores = scores_of(context, score_job(outputs("set", 5)))
    assert scores.tolist() == (images[:, 0, 0, 0].astype(np.float32) / np.float32(255)).tolist()


def test_what_fit_learned_reaches_score(context_with: ContextWith, register: Register) -> None:
    context = context_to_fit(context_with)

    def learn(self: Any, classifier: Classifier, data: FitData) -> None:
        self.center_ = data.train.logits.mean(dim=0)

    def distance(self: Any, batch: Batch) -> Tensor:
        gaps: Tensor = (batch.logits - self.center_).norm(dim=1)
        return gaps

    probe(register, {"logits"}, fit=learn, score=distance)
    fit(context, fit_job(), no_tick)
    scores = scores_of(context, score_job(outputs("test", 30), fit_job().makes[0]))
    train, test = (np.array(context.store.load_array(outputs(name, 30).logits), float) for name in ("train", "test"))
    assert scores == pytest.approx(np.linalg.norm(test - train.mean(axis=0), axis=1), rel=1e-12)


def probe_with_a_rule(register: Register, chosen: object) -> None:
    def learn(self: Any, classifier: Classifier, data: FitData) -> None:
        if self.width is None:
            self.chosen_ = chosen

    probe(register, set(), fit=learn, score=never_called, width=None, __annotations__={"width": "int | None"})


@pytest.mark.parametrize("chosen", [{"width": 7}, {"width": 0.5}, {"width": [3, 5]}])
def test_a_setting_that_fit_chose_is_recorded(
    context_with: ContextWith, register: Register, chosen: dict[str, Any]
) -> None:
    context = context_to_fit(context_with)
    probe_with_a_rule(register, chosen)
    fit(context, fit_job(), no_tick)
    assert context.store.about(fit_job().makes[0])["chosen"] == chosen


def test_nothing_is_recorded_of_settings_that_are_given(context_with: ContextWith, register: Register) -> None:
    context = context_to_fit(context_with)
    probe(register, set(), fit=lambda self, classifier, data: None, score=never_called)
    fit(context, fit_job(), no_tick)
    assert "chosen" not in context.store.about(fit_job().makes[0])


@pytest.mark.parametrize(
    "chosen, message",
    [
        ({"height": 7}, "names 'height', which is no setting of the detector"),
        ({"width": torch.ones(2)}, r"chosen_\['width'\] must be a number, a string or a list of them, got tensor"),
        ({"width": {"a": 1}}, "must be a number, a string or a list of them, got {'a': 1}"),
    ],
)
def test_other_things_that_fit_chose_are_refused(
    context_with: ContextWith, register: Register, chosen: dict[str, Any], message: str
) -> None:
    context = context_to_fit(context_with)
    probe_with_a_rule(register, chosen)
    with pytest.raises(PluginError, match=message):
        fit(context, fit_job(), no_tick)


def test_random_fits_come_from_the_job_seed(context_with: ContextWith, register: Register) -> None:
    context = context_to_fit(context_with)

    def learn(self: Any, classifier: Classifier, data: FitData) -> None:
        self.drawn_ = torch.rand(3)

    probe(register, set(), fit=learn, score=never_called)
    results = []
    for seed in (0, 0, 1):
        fit(context, fit_job(seed=seed), no_tick)
        results.append(context.store.require(fit_job(seed=seed).makes[0]).read_bytes())
        torch.rand(1)
    assert results[0] == results[1]
    assert results[0] != results[2]
