"""`HeadOnly`, the classifier without a network, and which built-in detectors get on without a head."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from oodbench.benchmark import FitData
from oodbench.benchmark.errors import OodbenchError, PluginError
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.networks.head_only import HeadOnly
from oodbench.benchmark.plugins.registry import registry
from tests.detectors.feature_world import FeatureWorld

ON_ARRAYS = {"logits", "features", "similarities", "head"}

NEED_FILES = {"neglabel"}
"""Detectors that cannot be fitted without a file that the user names."""


def all_on_arrays() -> list[type[Detector]]:
    """The built-in detectors that arrays suffice for."""
    entries = registry.entries("detector").items()
    found = [registry.get("detector", name) for name, entry in entries if entry.origin.startswith("oodbench.")]
    usable = [cls for cls in found if cls.needs and cls.needs <= ON_ARRAYS and not cls.reads]
    return [cls for cls in usable if cls.name not in NEED_FILES]


@pytest.fixture
def world() -> FeatureWorld:
    return FeatureWorld(classes=4, units=40, images=160)


def fit(world: FeatureWorld, cls: type[Detector], classifier: HeadOnly) -> np.ndarray:
    torch.manual_seed(0)  # as a job does
    detector = cls()
    train = world.batch(detector, world.features, world.labels)
    validation = world.batch(detector, world.validation, world.validation_labels)
    detector.fit(classifier, FitData(train, validation, bank=world.bank_rows(detector)))
    scores: np.ndarray = detector.score(world.batch(detector, world.test)).numpy()
    return scores


@pytest.mark.parametrize("cls", all_on_arrays(), ids=lambda cls: cls.name)
def test_a_detector_reads_the_head_exactly_if_it_declares_it(world: FeatureWorld, cls: type[Detector]) -> None:
    head = HeadOnly(4, torch.from_numpy(world.weight), torch.from_numpy(world.bias))
    with_head = fit(world, cls, head)
    assert np.isfinite(with_head).all()
    if "head" in cls.needs:
        with pytest.raises(PluginError, match=r"head is asked for and not known here: give its weight \(K, D\)"):
            fit(world, cls, HeadOnly(4))
    else:
        np.testing.assert_array_equal(fit(world, cls, HeadOnly(4)), with_head)


def test_most_detectors_of_arrays_declare_the_head_or_do_without() -> None:
    declared = {cls.name for cls in all_on_arrays() if "head" in cls.needs}
    assert {"react", "ash", "scale", "dice", "vra", "cosine", "fdbd", "nci", "residual", "vim"} <= declared
    assert {"msp", "knn", "mahalanobis", "she", "gradnorm"}.isdisjoint(declared)


def test_cosines_with_class_means_need_no_head(world: FeatureWorld) -> None:
    cosine = registry.get("detector", "cosine")
    assert "head" in cosine().needs
    assert "head" not in cosine(to="means").needs


def test_the_head_is_that_of_the_network(world: FeatureWorld) -> None:
    ours = HeadOnly(4, torch.from_numpy(world.weight), torch.from_numpy(world.bias))
    features = torch.from_numpy(world.test)
    assert ours.has_head
    np.testing.assert_allclose(ours.head(features.double()).numpy(), world.logits(world.test), rtol=1e-12)
    assert ours.head(features).dtype == torch.float32
    assert copy.copy(ours).without_blocks().bias is ours.bias
    assert torch.equal(HeadOnly(4, ours.weight).bias, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("read", [
    lambda c: c.network, lambda c: c.blocks, lambda c: c(torch.zeros(1)), lambda c: c.features(torch.zeros(1)),
    lambda c: c.forward_with_maps(torch.zeros(1)),
])  # fmt: skip
def test_what_takes_a_network_says_so(read: object) -> None:
    assert callable(read)
    with pytest.raises(OodbenchError, match="needs the network itself, with images"):
        read(HeadOnly(3))


@pytest.mark.parametrize("weight, bias, message", [
    (torch.zeros(3), None, r"weight has shape \(3,\); expected \(K, D\) with K = 4"),
    (torch.zeros(5, 7), None, r"weight has shape \(5, 7\)"),
    (torch.zeros(4, 7), torch.zeros(7), r"bias has shape \(7,\); expected \(K,\) with K = 4"),
    (None, torch.zeros(4), "needs a weight"),
])  # fmt: skip
def test_a_head_of_the_wrong_shape_is_refused(weight: torch.Tensor, bias: torch.Tensor, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        HeadOnly(4, weight, bias)
