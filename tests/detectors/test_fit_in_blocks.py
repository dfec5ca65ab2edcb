"""Fits read training features and logits in blocks, with the same result as from the whole array."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, FitData
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.detectors import _gaussian, _moments, vim, vra
from oodbench.detectors._gaussian import BLOCK, SLAB, class_covariances, class_means, covariance, mean_of
from oodbench.detectors._moments import moments, shared_moments, spread_of_all
from oodbench.detectors.openmax import weibull_of
from oodbench.detectors.vim import mean_largest_logit
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")


IMAGES = 2 * BLOCK + 1234
STREAMED = (
    *("mahalanobis", "relative_mahalanobis", "residual[dim=2]", "vim[dim=2]", "she", "fdbd", "nci"),
    *("caref", "cadref[confidence=msp]", "weiper[repeats=3,images=20000]", "grood"),
    *("mahalanobis_pp", "rmds_pp", "kpca", "neco[dim=2]", "pnml", "cfood[fraction=0.01]"),
    *("react", "vra", "vra[pooled=true]", "ssd", "ssd[clusters=classes]", "gmm", "openmax"),
    *("actsub", "lts", "optfs", "rank_shift", "nnguide", "relation"),
    *("isolation_forest[trees=3]", "kde[images=100]", "ocsvm[images=100]"),
)
"""Detectors whose fit never holds a whole split in memory, with settings for the small world of these tests."""

LONGEST = ("cfood[fraction=0.01]", "weiper[repeats=3,images=20000]")
"""Of these, the ones that slow tests look at."""


class RecordedReads:
    """A part of a batch that records the largest number of rows requested at once."""

    def __init__(self, whole: np.ndarray) -> None:
        self.whole, self.most, self.rows = torch.from_numpy(whole), 0, 0

    def __call__(self, rows: slice) -> Tensor:
        piece = self.whole[rows]
        self.most, self.rows = max(self.most, len(piece)), self.rows + len(piece)
        return piece


@pytest.fixture
def world() -> FeatureWorld:
    return FeatureWorld(images=IMAGES)


def watched(world: FeatureWorld, detector: Detector) -> dict[str, RecordedReads]:
    whole = {"features": world.features, "logits": world.logits(world.features)}
    return {name: RecordedReads(whole[name]) for name in whole if name in detector.needs}


def fitted(world: FeatureWorld, spec: str, parts: dict[str, RecordedReads] | None = None) -> Any:
    detector: Detector = create("detector", parse_spec(spec))
    asked = watched(world, detector) if parts is None else parts
    train = Batch(IMAGES, {**asked, "labels": torch.from_numpy(world.labels).__getitem__}, spec)
    detector.fit(world.classifier(), FitData(train, world.batch(detector, world.validation, world.validation_labels)))
    return detector


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, marks=pytest.mark.slow) if spec in LONGEST else spec for spec in STREAMED]
)
def test_fits_never_read_more_than_a_block_at_once(world: FeatureWorld, spec: str) -> None:
    parts = watched(world, create("detector", parse_spec(spec)))
    fitted(world, spec, parts)
    for what, asked in parts.items():
        assert asked.most <= BLOCK, f"{asked.most} rows of {what} at once"
    read = max(asked.rows for asked in parts.values())
    assert read >= IMAGES, "every image is read"


def features(world: FeatureWorld) -> Batch:
    parts = {"features": torch.from_numpy(world.features), "labels": torch.from_numpy(world.labels)}
    parts["logits"] = torch.from_numpy(world.logits(world.features))
    return Batch(IMAGES, {name: part.__getitem__ for name, part in parts.items()}, "a test")


def test_moments_are_those_of_the_whole_array(world: FeatureWorld) -> None:
    whole = world.features.astype(np.float64)
    means, counts = class_means(features(world), 3)
    by_class = np.stack([whole[world.labels == label].mean(axis=0) for label in range(3)])
    assert counts.tolist() == np.bincount(world.labels).tolist()
    assert means.numpy() == pytest.approx(by_class, rel=1e-12)
    assert mean_of(features(world)).numpy() == pytest.approx(whole.mean(axis=0), rel=1e-12)
    centred = whole - by_class[world.labels]
    spread = centred.T @ centred / IMAGES
    assert covariance(features(world), means).numpy() == pytest.approx(spread, rel=1e-12, abs=1e-12 * spread.max())


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_mean_and_covariance_in_one_read_are_those_of_the_whole_array(world: FeatureWorld, shift: float) -> None:
    """Also far from the origin, where squares minus the square of the mean would have four digits left of 1e-4."""
    world.features = world.features + np.float32(shift)
    whole, read = world.features.astype(np.float64), RecordedReads(world.features)
    found = moments(Batch(IMAGES, {"features": read}, "a test"))
    assert read.rows == IMAGES
    assert found.mean.numpy() == pytest.approx(whole.mean(axis=0), rel=1e-13)
    spread = np.cov(whole.T, bias=True)
    assert found.covariance.numpy() == pytest.approx(spread, rel=1e-11, abs=1e-12 * spread.max())
    origin = np.array([1.0, -2.0, 3.0, 0.0, 5.0]) + shift
    expected = (whole - origin).T @ (whole - origin) / IMAGES
    assert found.about(torch.from_numpy(origin)).numpy() == pytest.approx(expected, rel=1e-11)


def test_the_spread_of_all_images_follows_from_that_within_classes(world: FeatureWorld) -> None:
    kept = (world.labels != 2) | (np.arange(IMAGES) < 90)  # classes of different size
    world.features, world.labels = world.features[kept], np.where(world.labels == 2, 3, world.labels)[kept]
    parts = {"features": torch.from_numpy(world.features), "labels": torch.from_numpy(world.labels)}
    train = Batch(int(kept.sum()), {name: part.__getitem__ for name, part in parts.items()}, "a test")
    means, counts = class_means(train, 5)  # 2 and 4 have no images
    assert counts.tolist()[2] == counts.tolist()[4] == 0
    found, expected = spread_of_all(covariance(train, means), means, counts), moments(train)
    assert found.mean.numpy() == pytest.approx(expected.mean.numpy(), rel=1e-12)
    assert found.covariance.numpy() == pytest.approx(expected.covariance.numpy(), rel=1e-11)
    assert torch.equal(found.covariance, found.covariance.T)
    with_labels, without = (
        shared_moments(one, 5)
        for one in (train, Batch(len(train), {"features": parts["features"].__getitem__}, "a test"))
    )
    assert all(map(torch.equal, with_labels, found))
    assert all(map(torch.equal, without, expected))


@pytest.mark.slow
def test_a_covariance_of_many_units_is_symmetric_and_complete() -> None:
    vectors = torch.from_numpy(np.random.RandomState(0).randn(300, 2 * SLAB + 17) + 3)
    centre = vectors.mean(dim=0)
    found = covariance(Batch(300, {"features": vectors.__getitem__}, "a test"), centre)
    assert torch.equal(found, found.T)
    assert found.numpy() == pytest.approx(
        moments(Batch(300, {"features": vectors.__getitem__}, "a test")).covariance.numpy(), rel=1e-11, abs=1e-13
    )
    assert found.numpy() == pytest.approx(np.cov(vectors.numpy().T, bias=True), rel=1e-11, abs=1e-13)


def test_patterns_of_she_are_those_of_the_whole_array(world: FeatureWorld) -> None:
    right = world.logits(world.features).argmax(axis=1) == world.labels
    assert 0.5 < right.mean() < 1
    whole = world.features.astype(np.float64)
    patterns = [whole[right & (world.labels == label)].mean(axis=0) for label in range(3)]
    assert fitted(world, "she").patterns_.numpy() == pytest.approx(np.stack(patterns), rel=1e-12)


@pytest.mark.parametrize("limit, bound", [(0.0, 1e-12), (vim.SINGLE, 2**-23)], ids=["float64", "float32"])
def test_the_scale_of_vim_is_that_of_the_whole_array(
    world: FeatureWorld, monkeypatch: pytest.MonkeyPatch, limit: float, bound: float
) -> None:
    monkeypatch.setattr(vim, "SINGLE", limit)
    largest = world.logits(world.features).max(axis=1).mean()
    assert mean_largest_logit(features(world)) == pytest.approx(largest, rel=1e-12)
    found = fitted(world, "vim[dim=2]")
    residuals = np.linalg.norm((world.features - found.origin_.numpy()) @ found.residual_.numpy(), axis=1)
    assert found.alpha_ == pytest.approx(largest / residuals.mean(), rel=bound * found.ratio_)
    scored = found.residual_of(torch.from_numpy(world.features)).mean().item()
    assert found.alpha_ * scored == pytest.approx(largest, rel=1e-12)  # of residuals as they are scored
    assert (scored == pytest.approx(residuals.mean(), rel=1e-13)) is not bool(limit)


def test_the_percentile_of_react_is_that_of_the_whole_array(world: FeatureWorld) -> None:
    assert fitted(world, "react").clip_ == pytest.approx(
        np.percentile(world.features.astype(np.float64), 90.0), rel=1e-12
    )


def test_percentiles_of_units_are_those_of_the_whole_array(
    world: FeatureWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vra, "HELD", 2 * IMAGES)  # two of the five units in a pass
    low, high = np.percentile(world.features.astype(np.float64), (60.0, 90.0), axis=0)
    found = fitted(world, "vra")
    np.testing.assert_array_equal(found.low_.numpy(), low)
    np.testing.assert_array_equal(found.high_.numpy(), high)


def test_covariances_of_classes_are_those_of_the_whole_array(world: FeatureWorld) -> None:
    means, counts = class_means(features(world), 3)
    found = class_covariances(features(world), means, counts, lambda part: part.features.double())
    for label in range(3):
        whole = np.cov(world.features[world.labels == label].astype(np.float64).T, bias=True)
        assert found[label].numpy() == pytest.approx(whole, rel=1e-12, abs=1e-12 * whole.max())


@pytest.mark.parametrize(
    "spec", ["ssd", "ssd[clusters=classes]", "gmm", "rmds_pp", "kpca", "neco[max_logit=false]", "pnml"]
)
def test_scores_are_those_of_a_fit_on_one_block(
    world: FeatureWorld, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = torch.from_numpy(world.test)
    batch = Batch(len(test), {"features": test.__getitem__}, spec)
    in_blocks = fitted(world, spec).score(batch)
    monkeypatch.setattr(_gaussian, "BLOCK", IMAGES)
    monkeypatch.setattr(_gaussian, "SUMMED", IMAGES)
    monkeypatch.setattr(_moments, "SUMMED", IMAGES)
    assert in_blocks.numpy() == pytest.approx(fitted(world, spec).score(batch).numpy(), rel=1e-12)


def test_the_tails_of_openmax_are_those_of_the_whole_array(world: FeatureWorld) -> None:
    logits = world.logits(world.features)
    right = logits.argmax(axis=1) == world.labels
    found = fitted(world, "openmax")
    for label in range(3):
        correct = logits[right & (world.labels == label)]
        assert found.means_[label].numpy() == pytest.approx(correct.mean(axis=0), rel=1e-12)
        tail = np.sort(np.linalg.norm(correct - correct.mean(axis=0), axis=1))[-20:]
        shape, scale = weibull_of(tail - tail[0] + 1)
        assert found.weibulls_[:, label].tolist() == pytest.approx([tail[0] - 1, shape, scale], rel=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="anonymous memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """400,000 more images of 256 features are 410 MB in float32, if a detector holds them all, and 819 MB in float64.

    What a process holds at its peak varies by some 75 MB from run to run with what the allocator keeps.
    """
    script = Path(__file__).parents[2] / "perf" / "memory.py"
    options = [
        "--images",
        "100000,500000",
        "--dims",
        "256",
        "--classes",
        "50",
        "--detectors",
        "mahalanobis,vim,she,ssd,openmax",
        "--scored",
        "5000",
    ]
    done = subprocess.run([sys.executable, script, *options], check=True, capture_output=True, text=True)
    peaks: dict[str, list[float]] = {}
    for line in done.stdout.splitlines()[2:]:
        name, *_, in_fit, in_score = (cell.strip() for cell in line.strip("|").split("|"))
        peaks.setdefault(name, []).append(max(float(in_fit), float(in_score)))
    assert len(peaks) == 5
    for name, (few, many) in peaks.items():
        assert many - few < 200, f"{name}: {few} MB and {many} MB"
