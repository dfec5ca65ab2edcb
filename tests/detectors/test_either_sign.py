"""Detectors that shape features of either sign, against float64 loops over their formulas."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from oodbench.benchmark import Batch
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._rectified import EITHER_SIGN
from tests.detectors.feature_world import FeatureWorld, signed_world

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = 12


def rectified_world(units: int = UNITS, classes: int = 3, images: int = 60) -> FeatureWorld:
    """Features after a ReLU, many of them exactly 0."""
    world = signed_world(units, classes, images)
    for field in ("features", "validation", "test"):
        setattr(world, field, np.maximum(getattr(world, field), 0))
    return world


WORLDS = {"signed": signed_world, "rectified": rectified_world}


def energy(world: FeatureWorld, shaped: list[float]) -> float:
    logits = [sum(w * z for w, z in zip(row, shaped, strict=True)) for row in world.weight]
    return -float(logsumexp(logits + world.bias))


def lts(world: FeatureWorld, f: list[float], percentile: float = 95.0) -> float:
    positive = sorted((max(z, 0.0) for z in f), reverse=True)
    kept = sum(positive[: len(f) - round(len(f) * percentile / 100)])
    factor = (sum(positive) / kept) ** 2 if kept > 0 else 1.0
    return -float(logsumexp([factor * logit for logit in world.logits(np.array([f]))[0]]))


def rank_shift(world: FeatureWorld, f: list[float]) -> float:
    rows = [sorted(row) for row in world.features.astype(np.float64).tolist()]
    profile = [sum(row[rank] for row in rows) / len(rows) for rank in range(len(f))]
    shaped = []
    for z in f:
        ranks = [rank for rank, other in enumerate(sorted(f)) if other == z]
        shaped.append(sum(profile[rank] for rank in ranks) / len(ranks))
    return energy(world, shaped)


def optfs(world: FeatureWorld, f: list[float], bins: int = 100, statistic: str = "logit") -> float:
    known = world.features.astype(np.float64)
    low, high = np.percentile(known, 0.1), np.percentile(known, 99.9)

    def place(z: float) -> int | None:
        return int((z - low) / ((high - low) / bins)) if low <= z < high else None

    factors = [0.0] * bins
    for row, k in zip(known.tolist(), world.logits(known).argmax(axis=1), strict=True):
        for w, z in zip(world.weight[k], row, strict=True):
            if (b := place(z)) is not None:
                factors[b] += w * z / len(known)
    length = sum(factor**2 for factor in factors) ** 0.5
    shaped = [z * 1000 / length * factors[b] if (b := place(z)) is not None else 0.0 for z in f]
    if statistic == "energy":
        return energy(world, shaped)
    return -float(world.weight[world.logits(np.array([f]))[0].argmax()] @ shaped)


def decisive(world: FeatureWorld, f: list[float], dim: int) -> np.ndarray:
    """The projection on the first right singular vectors, one after the other."""
    projected = np.zeros(len(f))
    for direction in np.linalg.svd(world.weight, full_matrices=False)[2][:dim]:
        projected += (direction @ f) * direction
    return projected


def actsub(
    world: FeatureWorld,
    f: list[float],
    percentile: float = 90.0,
    dim: int = 1,
    power: float = 2.0,
    fraction: float = 1.0,
) -> float:
    d = decisive(world, f, dim).tolist()
    some = sum(sorted(d, reverse=True)[: len(d) - round(len(d) * percentile / 100)])
    factor = np.exp(sum(d) / some) if some > 0 else 1.0
    rows = world.bank_rows(registry.get("detector", "actsub")(fraction=fraction))
    known = world.features.astype(np.float64) if rows is None else world.features.astype(np.float64)[rows.numpy()]
    labels = world.labels if rows is None else world.labels[rows.numpy()]
    rest, cosines = np.array(f) - d, []
    for other in known.tolist():
        away = np.array(other) - decisive(world, other, dim)
        cosines.append(rest @ away / (np.linalg.norm(rest) * np.linalg.norm(away)))
    count = min(10, len(labels) // len(set(labels.tolist())))
    nearest = sum(sorted(cosines, reverse=True)[:count]) / count
    similarity = -np.log(1 - nearest)
    return energy(world, [z * factor for z in d]) * float(np.sign(similarity) * abs(similarity) ** power)


FORMULAS: list[tuple[str, Callable[..., float], dict[str, Any]]] = [
    *[("lts", lts, {"percentile": percentile}) for percentile in (90.0, 65.0, 0.0)],
    ("rank_shift", rank_shift, {}),
    *[("optfs", optfs, {"bins": bins, "statistic": s}) for bins in (100, 7) for s in ("logit", "energy")],
    ("actsub", actsub, {"percentile": 90.0, "dim": 1, "fraction": 1.0}),
    ("actsub", actsub, {"percentile": 65.0, "dim": 2, "fraction": 0.4, "power": 0.5}),
]
WHOLE: dict[str, dict[str, Any]] = {"actsub": {"fraction": 1.0}}
"""Settings with which no bank is drawn: another order of units draws another one."""
NAMES = list(dict.fromkeys(name for name, _, _ in FORMULAS))
CASES = pytest.mark.parametrize("name, formula, settings", FORMULAS, ids=lambda v: str(v).split(" at ")[0])


@pytest.mark.parametrize("kind", WORLDS)
@CASES
def test_equals_a_loop_over_its_formula(kind: str, name: str, formula: Callable[..., float], settings: Any) -> None:
    world = WORLDS[kind]()
    found = world.score(name, **settings)
    assert found == pytest.approx([formula(world, f, **settings) for f in world.test.tolist()], rel=1e-6)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("units", [8, 64, 2048])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_defaults_work_at_every_width_and_with_two_classes(name: str, classes: int, units: int) -> None:
    world = signed_world(units, classes)
    found = world.score(name)
    assert len(np.unique(found)) == len(found)
    formula = next(formula for key, formula, _ in FORMULAS if key == name)
    expected = [formula(world, f, **world.fit(name).chosen_) for f in world.test[:2].tolist()]
    assert found[:2] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("name", NAMES)
def test_orders_of_images_units_and_classes_do_not_matter(kind: str, name: str) -> None:
    world = WORLDS[kind]()
    settings = WHOLE.get(name, {})
    before = world.score(name, **settings)
    world.reorder()
    assert world.score(name, **settings) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_of_features_does_not_matter(name: str) -> None:
    world, settings = signed_world(), WHOLE.get(name, {})
    before = world.score(name, **settings)
    for field in ("features", "validation", "test"):
        setattr(world, field, 4 * getattr(world, field))
    world.weight = world.weight / 4
    assert world.score(name, **settings) == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_block_that_an_image_is_in(name: str) -> None:
    world = signed_world()
    world.test = np.random.RandomState(8).randn(300, UNITS).astype(np.float32)
    fitted = world.fit(name)
    parts = [fitted.score(world.batch(fitted, piece)).numpy() for piece in np.split(world.test, [1, 140])]
    assert np.concatenate(parts) == pytest.approx(world.score(name), rel=1e-6)


@pytest.mark.parametrize("name, settings", [("rank_shift", {}), ("optfs", {"statistic": "energy"})])
def test_a_constant_added_to_the_biases_is_taken_from_the_energy(name: str, settings: Any) -> None:
    world = signed_world()
    before = world.score(name, **settings)
    world.bias = world.bias + 2.5
    assert world.score(name, **settings) == pytest.approx(before - 2.5, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_a_class_and_a_class_without_images(name: str) -> None:
    world = signed_world(images=3)
    assert len(np.unique(world.score(name))) == 9
    world.features, world.labels = world.features[:2], world.labels[:2]
    assert np.isfinite(world.score(name)).all()


# lts


def test_lts_of_a_feature_without_a_positive_unit_is_energy() -> None:
    world = signed_world()
    world.test = -abs(world.test)
    world.test[1] = 0
    assert world.score("lts") == pytest.approx(world.score("energy"), rel=1e-12)


def test_lts_that_counts_every_unit_is_energy() -> None:
    world = signed_world()
    assert world.score("lts", percentile=0.0) == pytest.approx(world.score("energy"), rel=1e-12)


@pytest.mark.parametrize("units, kept", [(8, 2), (64, 16), (128, 17), (341, 17), (342, 17), (512, 26), (2048, 102)])
def test_lts_counts_the_largest_twentieth_and_more_of_a_narrow_network(units: int, kept: int) -> None:
    world = FeatureWorld(units=units)
    world.features[:, ::2] *= -1  # half of the units are above 0
    fitted = world.fit("lts")
    assert fitted.count_ == kept
    assert fitted.chosen_["percentile"] == 95.0 or units < 342
    assert np.array_equal(world.score("lts", **fitted.chosen_), world.score("lts"))
    assert world.fit("lts", percentile=50.0).chosen_ == {}


def test_lts_that_counts_no_unit_is_refused() -> None:
    with pytest.raises(DataError, match="Of 12 features none is above the 99th percentile"):
        signed_world().score("lts", percentile=99.0)


# rank_shift


@pytest.mark.parametrize("change", [lambda z: 3 * z + 2, np.exp, np.cbrt])
def test_rank_shift_of_an_increasing_function_of_the_feature_is_the_same(change: Callable[[Any], Any]) -> None:
    world = signed_world()
    before = world.score("rank_shift")
    world.test = change(world.test)
    assert np.array_equal(world.score("rank_shift"), before)


def test_rank_shift_of_a_feature_with_the_mean_profile_is_energy() -> None:
    world = signed_world()
    profile = world.fit("rank_shift").profile_.numpy()
    world.test = np.stack([np.random.RandomState(k).permutation(profile) for k in range(9)])
    assert world.score("rank_shift") == pytest.approx(world.score("energy"), rel=1e-12)


def test_rank_shift_of_constant_features_is_the_energy_of_the_profile_s_mean() -> None:
    world = signed_world()
    world.test[:] = np.arange(9)[:, None]
    mean = world.features.astype(np.float64).mean()
    assert world.score("rank_shift") == pytest.approx(energy(world, [mean] * UNITS), rel=1e-6)


# actsub


def test_actsub_divides_features_into_parts_of_equal_mean_length() -> None:
    world = signed_world(units=30, classes=8, images=200)
    lengths = []
    for dim in range(1, 8):  # the weights' mean over classes is 0: their rank is 7
        parts = [decisive(world, f, dim) for f in world.features.astype(np.float64).tolist()]
        outside = world.features - np.array(parts)
        lengths.append(abs(np.linalg.norm(parts, axis=1).mean() - np.linalg.norm(outside, axis=1).mean()))
    fitted = world.fit("actsub", fraction=1.0)
    assert fitted.chosen_["dim"] == 1 + int(np.argmin(lengths))
    assert 1 < fitted.chosen_["dim"] < 7
    assert np.array_equal(world.score("actsub"), world.score("actsub", **world.fit("actsub").chosen_))


@pytest.mark.parametrize("images, fraction", [(600, 0.25), (150, 1.0), (15_000, 0.1), (3, 1.0)])
def test_actsub_keeps_at_least_fifty_images_of_a_class(images: int, fraction: float) -> None:
    world = signed_world(images=images)
    fitted = world.fit("actsub")
    assert fitted.chosen_["fraction"] == pytest.approx(fraction)
    assert len(fitted.bank_) == round(images * fraction)


def test_actsub_of_images_that_are_in_the_bank_is_finite() -> None:
    world = signed_world(images=42)
    world.features[:] = world.features[:3].repeat(14, axis=0)
    world.test = world.features[:9].astype(np.float64)
    found = world.score("actsub", power=1.0)
    assert found / -world.fit("actsub")._energies(torch.from_numpy(world.test)).numpy() == pytest.approx(np.log(1e-12))


def test_actsub_of_a_feature_that_is_zero_or_all_decisive_is_zero() -> None:
    world = signed_world()
    world.test[0] = 0
    world.test[1:] = np.arange(1, 9)[:, None] * np.linalg.svd(world.weight)[2][0]
    assert world.score("actsub").tolist() == [0] * 9


def test_actsub_counts_dissimilar_images_as_dissimilar_whatever_the_power() -> None:
    world = signed_world()
    world.features = (abs(world.features) + 5).astype(np.float32)
    world.test = -world.features[:9].astype(np.float64)
    energies = world.fit("actsub")._energies(torch.from_numpy(world.test)).numpy()
    for power in (0.5, 1.0, 2.0):
        assert np.array_equal(np.sign(world.score("actsub", power=power)), -np.sign(energies))


def test_actsub_refuses_what_it_cannot_divide() -> None:
    world = signed_world()
    with pytest.raises(DataError, match="of which 2 leave something: 3 were asked for"):
        world.score("actsub", dim=3)
    world.features[:] = np.linalg.svd(world.weight)[2][0]
    with pytest.raises(DataError, match="leave nothing of the training features"):
        world.score("actsub")
    world = signed_world()
    world.bias = world.bias - 1000
    with pytest.raises(DataError, match="must be positive for the product to rank"):
        world.score("actsub")


# optfs


def test_optfs_gives_no_other_factors_of_the_same_length_a_larger_mean_score() -> None:
    world = signed_world()
    fitted = world.fit("optfs", bins=20)
    known = Batch(
        len(world.features),
        {
            "features": torch.from_numpy(world.features).double().__getitem__,
            "logits": torch.from_numpy(world.logits(world.features)).__getitem__,
        },
        "optfs",
    )
    best, random = fitted.score(known).mean(), np.random.RandomState(0)
    assert float(fitted.factors_.norm()) == pytest.approx(1000)
    for _ in range(20):
        other = fitted.factors_.clone()
        other[:-1] += torch.from_numpy(20 * random.randn(20))
        fitted.factors_ = 1000 * other / other.norm()
        assert fitted.score(known).mean() > best


def test_optfs_sets_units_outside_of_the_range_to_zero() -> None:
    world = signed_world()
    world.test[:, :] = 1000
    world.test[:4] = -1000
    assert world.score("optfs").tolist() == [0] * 9
    assert world.score("optfs", statistic="energy") == pytest.approx(-logsumexp(world.bias))


def test_optfs_refuses_what_it_cannot_learn_from() -> None:
    world = signed_world()
    world.features[:] = 0.5
    with pytest.raises(DataError, match=re.escape("0.1th and their 99.9th percentile are both 0.5")):
        world.score("optfs")
    world = signed_world()
    world.weight[:] = 0
    with pytest.raises(DataError, match="contribute to the logits of the training images, which is 0"):
        world.score("optfs")


# All


@pytest.mark.parametrize("refusing", ["ash", "scale"])
def test_detectors_that_refuse_signed_features_name_those_that_take_them(refusing: str) -> None:
    world = signed_world()
    with pytest.raises(DataError, match=f"features of either sign: {', '.join(EITHER_SIGN[:-1])} or {EITHER_SIGN[-1]}"):
        world.score(refusing)
    for name in EITHER_SIGN:
        cls = registry.get("detector", name)
        assert "either sign" in " ".join((cls.__doc__ or "").split())
        if "network" not in cls.needs:
            assert len(np.unique(world.score(name))) == 9


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("lts", {"percentile": 100.0}, "percentile"),
        ("actsub", {"dim": 0}, "dim is a number of directions from 1"),
        ("actsub", {"fraction": 0.0}, "fraction"),
        ("actsub", {"percentile": -1.0}, "percentile"),
        ("actsub", {"power": -1.0}, "power must be finite and not negative"),
        ("optfs", {"bins": 0}, "bins must be at least 1"),
        ("optfs", {"statistic": "msp"}, "statistic must be 'logit' or 'energy'"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*got"):
        registry.get("detector", name)(**settings)
