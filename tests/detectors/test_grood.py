"""GROOD, against gradients by autograd and a float64 loop over training images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from tests.detectors.feature_world import FeatureWorld, signed_world

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = 12


def prototypes_of(world: FeatureWorld, own: float, prototype: str) -> tuple[list[np.ndarray], np.ndarray]:
    known = world.features.astype(np.float64)
    means = {k: known[world.labels == k].mean(axis=0) for k in sorted(set(world.labels.tolist()))}
    if prototype == "mean":
        return list(means.values()), np.mean(list(means.values()), axis=0)
    mixed = []
    for f, logits in zip(known, world.logits(known), strict=True):
        likely = sorted(means, key=lambda k, logits=logits: -logits[k])  # type: ignore[misc]
        mixed.append(own * f + (1 - own) * means[likely[min(1, len(likely) - 1)]])
    return list(means.values()), np.mean(mixed, axis=0)


def grood(world: FeatureWorld, tests: np.ndarray, own: float = 0.5, prototype: str = "mixup") -> list[float]:
    means, outlier = prototypes_of(world, own, prototype)
    fixed = torch.from_numpy(np.stack(means))

    def gradient(f: np.ndarray) -> np.ndarray:
        """Of the cross-entropy at any class; the gradient is the same for all of them."""
        movable = torch.from_numpy(outlier.copy()).requires_grad_()
        distances = (torch.from_numpy(f) - torch.cat([fixed, movable[None]])).norm(dim=1)
        loss = F.cross_entropy(-distances[None], torch.tensor([0]))
        return torch.autograd.grad(loss, movable)[0].numpy()

    known = world.features.astype(np.float64)
    right = world.logits(known).argmax(axis=1) == world.labels
    bank = [gradient(f) for f in known[right]]
    return [min(float(np.linalg.norm(gradient(f) - other)) for other in bank) for f in tests]


@pytest.mark.parametrize("settings", [{}, {"own": 0.9}, {"own": 0.0}, {"prototype": "mean"}], ids=str)
def test_equals_gradients_by_autograd_and_a_loop(settings: dict[str, Any]) -> None:
    world = signed_world()
    found = world.score("grood", **settings)
    assert found == pytest.approx(grood(world, world.test, **settings), rel=1e-6)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("units", [8, 64, 2048])
@pytest.mark.parametrize("classes", [2, 5])
def test_at_every_width_and_with_two_classes(classes: int, units: int) -> None:
    world = signed_world(units, classes, images=30)
    for field in ("features", "test"):  # distances of the same size at every width
        setattr(world, field, (getattr(world, field) / units**0.5).astype(getattr(world, field).dtype))
    world.weight = world.weight * units**0.5
    found = world.score("grood")
    assert found[:3] == pytest.approx(grood(world, world.test[:3]), rel=1e-6)
    assert len(np.unique(found)) == len(found)


def test_orders_of_images_units_and_classes_do_not_matter() -> None:
    world = signed_world()
    before = world.score("grood")
    world.reorder()
    assert world.score("grood") == pytest.approx(before, rel=1e-6)


def test_moving_all_features_does_not_matter() -> None:
    """Distances stay; similarities do not."""
    world = signed_world()
    before = world.score("grood")
    world.features, world.test = world.features + np.float32(0.5), world.test + 0.5
    world.bias = world.bias - 0.5 * world.weight.sum(axis=1)
    assert world.score("grood") == pytest.approx(before, rel=1e-5)


def test_scores_do_not_depend_on_the_block_that_an_image_is_in() -> None:
    world = signed_world()
    world.test = np.random.RandomState(8).randn(300, UNITS).astype(np.float32)
    fitted = world.fit("grood")
    parts = [fitted.score(world.batch(fitted, piece)).numpy() for piece in np.split(world.test, [1, 140])]
    assert np.concatenate(parts) == pytest.approx(world_score(world, fitted), rel=1e-6)


def world_score(world: FeatureWorld, fitted: Any) -> np.ndarray:
    scores: np.ndarray = fitted.score(world.batch(fitted, world.test)).numpy()
    return scores


def test_a_correctly_classified_training_image_scores_zero_and_others_do_not_count() -> None:
    world = signed_world()
    right = world.logits(world.features).argmax(axis=1) == world.labels
    world.labels[right.argmax()] = (world.labels[right.argmax()] + 1) % 3  # one image is no longer right
    right = world.logits(world.features).argmax(axis=1) == world.labels
    fitted = world.fit("grood")
    world.test = world.features.astype(np.float64)
    found = world_score(world, fitted)
    assert found[right].max() < 1e-9 * found[~right].min()
    assert found[~right].min() > 0


def test_a_feature_at_the_ood_prototype_has_a_gradient_of_zero() -> None:
    world = signed_world()
    fitted = world.fit("grood")
    world.test[0] = fitted.outlier_.numpy()
    assert world.score("grood")[0] == pytest.approx(float(fitted.sizes_[fitted.usable_].min()), rel=1e-9)


def test_a_class_without_images_has_no_prototype() -> None:
    world = signed_world()
    kept = world.labels != 1
    world.features, world.labels = world.features[kept], world.labels[kept]
    assert len(world.fit("grood").prototypes_) == 2
    assert world.score("grood") == pytest.approx(grood(world, world.test), rel=1e-6)
    kept = world.labels == 0
    world.features, world.labels = world.features[kept], world.labels[kept]
    assert world.score("grood") == pytest.approx(grood(world, world.test), rel=1e-6)


def test_one_image_a_class_and_features_that_do_not_vary() -> None:
    world = signed_world(images=3)
    right = world.logits(world.features).argmax(axis=1)
    world.labels = right
    assert np.isfinite(world.score("grood")).all()
    world.features[:], world.test[:] = 0.5, 0.5
    assert world.score("grood") == pytest.approx(0, abs=1e-6)


def test_no_image_that_is_classified_correctly_is_refused() -> None:
    world = signed_world()
    world.labels = (world.logits(world.features).argmax(axis=1) + 1) % 3
    with pytest.raises(DataError, match="grood compares images with training images that are classified correctly"):
        world.score("grood")


def test_a_share_of_the_bank() -> None:
    world = signed_world()
    rows = world.bank_rows(world.fit("grood", fraction=0.25))
    assert rows is not None
    found, whole = world.score("grood", fraction=0.25), world.score("grood")
    assert len(rows) == 15
    assert (found >= whole).all()
    assert (found > whole).any()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"own": 1.5}, r"own is the share of an image's own feature and must lie in \[0, 1\], got 1.5"),
        ({"prototype": "noise"}, "prototype must be 'mixup' or 'mean', got 'noise'"),
        ({"fraction": 0.0}, "fraction must lie above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.get("detector", "grood")(**settings)
