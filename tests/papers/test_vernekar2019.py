"""The toy of confidence far from the data: its points, its classifiers, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import WithOutputs
from oodbench.figures import _vernekar2019_plane as plane
from oodbench.figures import vernekar2019
from oodbench.figures._vernekar2019_plane import Setting, Trained, circle, measured, methods, ring, train_all
from tests.support import bench

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Setting(hidden=8, steps=2, points=50, outliers=60, batch=16)


class Linear(nn.Module):
    """A classifier of points whose features are the points and whose logits are (x, -x)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))

    def features(self, points: Tensor) -> Tensor:
        return points


class Squared(nn.Module):
    """The squared length of points less 25, as a rejecting logit."""

    def forward(self, points: Tensor) -> Tensor:
        return points.square().sum(dim=1, keepdim=True) - 25


def test_points_of_the_ring_and_of_circles_lie_where_they_should() -> None:
    s = Setting(outliers=3000)
    distances = s.plane.distance(ring(s, np.random.default_rng(0)))
    assert len(distances) == 3000
    assert 3 <= distances.min() < 3.01
    assert 3.99 < distances.max() <= 4
    on_circle = circle(s.plane, 100.0)
    assert np.linalg.norm(on_circle, axis=1) == pytest.approx(100)
    assert np.abs(on_circle.mean(axis=0)).max() < 1e-9


def test_a_linear_classifier_stays_confident_far_away_and_rejection_ends_that() -> None:
    """Along x the logits differ by 2 x: all directions but those near the other axis become confident."""
    s = Setting()
    alone = measured(s, Trained({"classifier": Linear()}), 0)
    needed = np.log(3) / 2  # p > 0.75 from a difference of log 3 on
    for radius, found in zip(plane.RADII, alone.confident, strict=True):
        assert found == pytest.approx(1 - 2 * np.arcsin(needed / radius) / np.pi, abs=2 / 720)
    assert alone.accuracy > 0.98
    assert max(alone.auroc) < 0.5
    rejecting = measured(s, Trained({"classifier": WithOutputs(Linear(), reject=Squared())}), 0)
    assert rejecting.accuracy == alone.accuracy
    assert rejecting.confident == (0, 0, 0)
    assert rejecting.auroc == (1, 1, 1)


def test_probabilities_with_a_reject_class_are_of_one_class_more() -> None:
    points = np.array([[0.5, 1.0], [-4.0, 3.5]])
    confidence, score, best = Trained({"classifier": WithOutputs(Linear(), reject=Squared())}).judged(points)
    for point, p, odds, k in zip(points, confidence, score, best, strict=True):
        powers = np.exp([-point[0], point[0], (point**2).sum() - 25])
        shares = powers / powers.sum()
        assert p == pytest.approx(shares[:2].max(), rel=1e-6)
        assert odds == pytest.approx(np.log(shares[2] / (1 - shares[2])), rel=1e-6)
        assert k == shares[:2].argmax()


def test_every_method_is_trained_on_what_it_says() -> None:
    made = train_all(TINY, 0)
    assert made.keys() == methods(TINY).keys()
    given = {name for name, one in made.items() if "generator" in one.networks}
    assert given == {"joint", "gan_entropy"}
    for one in made.values():
        confidence, _, _ = one.judged(np.zeros((3, 2)))
        assert ((confidence > 0) & (confidence <= 1)).all()
        assert not any(weight.requires_grad for weight in one.networks["classifier"].parameters())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_the_same_seed_draws_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(vernekar2019, "Setting", lambda: TINY)
    monkeypatch.setattr(vernekar2019, "CELLS", 9)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        done = bench("figures", "vernekar2019", "--seed", seed, "--results", folder)
        assert done.exit_code == 0, done.output
    files = [{path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} for folder in folders]
    assert files[0] == files[1]
    assert {"figure1_maps.png", "figure1_distance.svg", "captions.md"} <= files[0].keys()
    captions = files[0]["captions.md"].decode()
    assert captions.count("accuracy") == 1 + len(methods(TINY))
    assert f"Seed {seed}." in captions
