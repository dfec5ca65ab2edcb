"""Every check of detectors finds a detector that breaks the contract, and correct detectors pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, check_detector, run_checks
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.training_bank import SharedBlock
from oodbench.benchmark.verify import detector_checks
from oodbench.benchmark.verify.check_error import CheckError
from oodbench.benchmark.verify.detector_checks import DETECTOR_CHECKS, fitted
from oodbench.benchmark.verify.engine_check import check_run
from oodbench.benchmark.verify.toy_world import planted_network, toy_batch, toy_world
from tests.support import short_id
from tests.verify.wrong_detectors import (
    WRONG_DETECTORS,
    AsksForMuchMore,
    ClipsWeights,
    Good,
    KeepsMaps,
    LearnsUnderAPlainName,
    LeavesAHook,
    NormalisesWeightsInScore,
    UpsideDown,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Register = Callable[[str, type[Plugin]], None]


@pytest.mark.parametrize("plugin, check, message", WRONG_DETECTORS, ids=short_id)
def test_a_wrong_detector_is_caught(register: Register, plugin: type[Detector], check: str, message: str) -> None:
    register("checks_wrong", plugin)
    with pytest.raises((CheckError, OodbenchError), match=message):
        getattr(detector_checks, check)("checks_wrong")
    detector_checks.check_oriented("max_logit")  # it leaves the toy world intact for others


@pytest.mark.parametrize("plugin", [ClipsWeights, NormalisesWeightsInScore, LeavesAHook, UpsideDown], ids=short_id)
def test_earlier_checks_do_not_hide_what_is_wrong(register: Register, plugin: type[Detector]) -> None:
    """Clipped weights do not change when they are clipped again."""
    register("checks_wrong", plugin)
    expected = {check for wrong, check, _ in WRONG_DETECTORS if wrong is plugin}
    assert expected <= {result.check for result in run_checks(["checks_wrong"], Path()) if result.status == "failed"}


def test_one_function_raises_at_the_first_check_that_fails(register: Register) -> None:
    register("checks_wrong", UpsideDown)
    with pytest.raises(CheckError, match="AUROC on planted features"):
        check_detector("checks_wrong")


def test_a_right_detector_passes(register: Register) -> None:
    for right in (Good, KeepsMaps):
        register("checks_right", right)
        check_detector("checks_right")
    assert {result.status for result in run_checks(["checks_right"], Path())} == {"ok"}


def test_every_detector_check_has_a_detector_that_it_catches() -> None:
    assert {check for _, check, _ in WRONG_DETECTORS} == {check.__name__ for check in DETECTOR_CHECKS}


def test_a_detector_that_raises_is_reported_and_the_other_checks_run(register: Register) -> None:
    register("checks_raises", LearnsUnderAPlainName)
    results = {result.check: result for result in run_checks(["checks_raises"], Path())}
    assert len(results) == len(DETECTOR_CHECKS)
    assert results["check_declarations"].status == "ok"
    assert results["check_scores"].status == "failed"
    assert results["check_scores"].reason.startswith(
        "AttributeError: LearnsUnderAPlainName.mean: the name of a learned"
    )


class NeedsAllOfIt(Good):
    """Reads each declared input somewhere: some only in fit, one in pieces."""

    needs = frozenset({"logits", "features", "images", "network", "outliers"})
    passes = 1

    def fit(self, classifier: Classifier, data: FitData) -> None:
        assert data.outliers is not None
        self.mean_ = data.train.features.mean(dim=0)
        self.shift_ = float(data.outliers.images.mean() + data.validation.labels.float().mean())

    def score(self, batch: Batch) -> Tensor:
        recomputed = torch.cat([piece.classifier(piece.images) for piece in batch.batches(7)]).double()
        return -batch.logits.amax(dim=1) - 1e-3 * recomputed.amax(dim=1) + 1e-6 * self.shift_


def test_needs_that_are_read_anywhere_pass(register: Register) -> None:
    register("checks_all", NeedsAllOfIt)
    check_detector("checks_all")


class Gradients(Good):
    """Needs gradients through the toy world's tensors, as a run's tensors allow."""

    needs = frozenset({"features", "network"})
    passes = 1

    def score(self, batch: Batch) -> Tensor:
        features = batch.features.requires_grad_(True)
        logits = batch.classifier.head(features)
        (gradient,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), features)
        scores: Tensor = gradient.norm(dim=1).double() - logits.detach().amax(dim=1).double()
        return scores


def test_the_toy_world_lets_gradients_flow(register: Register) -> None:
    register("checks_gradients", Gradients)
    check_detector("checks_gradients")


class Uninformative(Good):
    is_sanity_baseline = True
    needs = frozenset({"logits"})

    def score(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch))


def test_a_sanity_baseline_need_not_detect_anything(register: Register) -> None:
    register("checks_constant", Uninformative)
    check_detector("checks_constant")


# The toy world


def test_the_toy_world_is_the_same_twice() -> None:
    first = toy_world()
    toy_world.cache_clear()
    second = toy_world()
    assert [part.checksum for part in first[1:]] == [part.checksum for part in second[1:]]
    for one, other in ((first.classifier.network, second.classifier.network), (planted_network(), planted_network())):
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


def test_the_toy_classifier_classifies(register: Register) -> None:
    register("checks_right", Good)
    batch = toy_batch(fitted("checks_right"), toy_world().test, labelled=True)
    assert (batch.logits.argmax(dim=1) == batch.labels).all()
    assert batch.logits.dtype == torch.float64


class NearestUnderInferenceMode(Detector):
    """Reads shared cosines, and learns, under inference mode, whose tensors nothing else can use."""

    needs = frozenset({"features", "similarities"})

    def fit(self, classifier: Classifier, data: FitData) -> None:
        with torch.inference_mode():
            self.mean_ = data.train.features.mean(dim=0)

    def score(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            nearest = -batch.similarities.topk(5, dim=1).values.mean(dim=1)
        with torch.enable_grad():
            shift = torch.ones_like(self.mean_, requires_grad=True)
            (gradient,) = torch.autograd.grad((shift * self.mean_).sum(), shift)  # saves the mean
        return nearest + 0 * gradient.sum()


def test_a_detector_may_score_and_learn_under_inference_mode(register: Register) -> None:
    register("checks_inference", NearestUnderInferenceMode)
    assert {result.status for result in run_checks(["checks_inference"], Path())} == {"ok"}


def test_what_is_read_under_inference_mode_serves_everyone() -> None:
    """A block is shared: whoever changes it in place changes it for himself only, and gradients may save it."""
    shared = SharedBlock(lambda rows: torch.arange(6.0).reshape(2, 3))
    with torch.inference_mode():
        shared(slice(0, 2))
    weight = torch.ones(3, requires_grad=True)
    (shared(slice(0, 2)) @ weight).sum().backward()
    with torch.inference_mode():
        shared(slice(0, 2)).mul_(2)
    assert torch.equal(shared(slice(0, 2)), torch.arange(6.0).reshape(2, 3))


def test_one_mistake_is_reported_once(register: Register) -> None:
    register("checks_raises", LearnsUnderAPlainName)
    failed = [result.reason for result in run_checks(["checks_raises"], Path()) if result.status == "failed"]
    assert failed
    assert len(failed) == len(set(failed))
    register("checks_much", AsksForMuchMore)
    results = list(run_checks(["checks_much"], Path()))
    assert [result.status for result in results] == ["failed", *["skipped"] * (len(results) - 1)]


def test_the_tiny_suite_leaves_no_plugin_behind(register: Register) -> None:
    kinds = ("dataset", "backbone", "recipe")
    names = {kind: set(registry.entries(kind)) for kind in kinds}
    register("checks_right", Good)
    check_detector("checks_right")
    assert {kind: set(registry.entries(kind)) for kind in kinds} == names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "vim", "openmax", "mahalanobis", "she"])
def test_the_tiny_suite_has_what_detectors_learn_from(name: str) -> None:
    """Its network learns features that vary in several directions and gets images of every class right."""
    check_run(name)
