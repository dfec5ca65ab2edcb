"""Defaults that follow the network's width and the size of the classes: the authors' where they use them."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plan.tuning_protocols import candidates
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import canonical
from oodbench.detectors._rules import percentile_of, principal_dim, tail_of
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")

RULED = {
    "actsub": "percentile",
    "ash": "percentile",
    "cfood": "fraction",
    "dice": "percentile",
    "knn": "k",
    "kpca": "ratio",
    "lts": "percentile",
    "neco": "dim",
    "nnguide": "k",
    "openmax": "tail",
    "residual": "dim",
    "scale": "percentile",
    "vim": "dim",
    "weiper": "repeats",
}
"""Every built-in detector with a default that follows a rule of the network's width or the classes, and its setting."""
CHOSEN = {
    ("actsub", "dim"),
    ("actsub", "fraction"),
    *(("adascale", setting) for setting in ("high", "largest", "low", "shifted")),
    ("catalyst", "clip"),
    ("godin", "epsilon"),
    ("kde", "bandwidth"),
    ("kpca", "gamma"),
    ("kpca", "mapped"),
    ("nac", "alpha"),
    ("neco", "max_logit"),
    ("ocsvm", "gamma"),
}
"""Detectors with other defaults that are found on ID images, each with the setting."""
INHERITED = {"cider": "k", "supcon": "k"}
"""Detectors with a setting of a detector above."""
OFF = {"isolation_forest": "variance", "kde": "variance", "ocsvm": "variance"}
"""Settings whose None is no rule of its own: no principal components of features."""
BUILT_IN: dict[str, type[Detector]] = {
    name: entry.load() for name, entry in registry.entries("detector").items() if entry.origin.startswith("oodbench.")
}


def defaults(plugin: type[Detector]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(plugin)}


def sparse_world(units: int = 128, alive: int = 80, images: int = 300, seed: int = 0) -> FeatureWorld:
    """Features of a narrow network after a ReLU: units from `alive` on are never active, others half of the time."""
    world = FeatureWorld(units=units, images=images, seed=seed)
    random = np.random.RandomState(seed + 1)
    for field in ("features", "validation", "test"):
        values = getattr(world, field)
        values[random.rand(*values.shape) < 0.5] = 0
        values[:, alive:] = 0
    world.test = world.test.astype(np.float64)
    return world


# The rules


@pytest.mark.parametrize(
    "features, spanned, dim",
    [
        (768, 768, 512),  # ViT-B in the paper
        (1024, 1024, 512),
        (1024, 768, 512),
        (2048, 2048, 1000),  # ResNet-50 and BiT in the paper
        (2048, 1500, 1000),
        (512, 512, 256),  # OpenOOD's ResNet-18
        (640, 640, 320),
        (128, 77, 38),  # the network of the default suite
        (128, 128, 64),
        (2048, 1200, 800),
        (768, 600, 400),
        (2, 2, 1),
        (1, 1, 0),
    ],
)
def test_the_principal_space_of_networks(features: int, spanned: int, dim: int) -> None:
    assert principal_dim(features, spanned) == dim


@given(st.integers(2, 4096), st.floats(0, 1), st.integers(0, 2048))
@settings(deadline=None)
def test_a_principal_space_always_leaves_a_residual(features: int, share: float, more: int) -> None:
    spanned = 2 + round(share * (features - 2))
    dim = principal_dim(features, spanned)
    assert dim >= 1
    assert 3 * dim <= 2 * spanned
    assert dim <= principal_dim(features, min(features, spanned + more))
    assert dim <= principal_dim(features + more, spanned)


@pytest.mark.parametrize("usual, narrowest", [(90.0, 342), (85.0, 512)])
@pytest.mark.parametrize("active", [0.0, 1.0, 50.0, 4096.0])
@pytest.mark.parametrize("units", [512, 640, 768, 1024, 1280, 2048])
def test_percentiles_of_wide_networks_are_the_authors(units: int, active: float, usual: float, narrowest: int) -> None:
    assert percentile_of(units, active, usual, narrowest) == usual
    assert percentile_of(narrowest, active, usual, narrowest) == usual


@pytest.mark.parametrize(
    "units, active, usual, narrowest, kept",
    [
        (128, 50.0, 90.0, 342, 25.0),  # half of the active units
        (128, 50.0, 85.0, 512, 25.0),
        (128, 77, 90.0, 342, 34.2),  # as many as of 342 units
        (256, 256.0, 90.0, 342, 34.2),
        (256, 256.0, 85.0, 512, 76.8),
        (256, 20.0, 90.0, 342, 25.6),  # never fewer than the usual percentile keeps
        (64, 0.0, 90.0, 342, 6.4),
        (4, 1.0, 90.0, 342, 1.0),
        (1, 0.0, 90.0, 342, 1.0),
    ],
)
def test_percentiles_of_narrow_networks_keep_enough_units(
    units: int, active: float, usual: float, narrowest: int, kept: float
) -> None:
    assert units * (1 - percentile_of(units, active, usual, narrowest) / 100) == pytest.approx(kept, rel=1e-12)


@given(st.integers(1, 4096), st.floats(0, 1), st.sampled_from([(90.0, 342), (85.0, 512)]), st.integers(0, 2048))
@settings(deadline=None)
def test_a_percentile_is_in_range_and_keeps_no_fewer_units_of_a_wider_network(
    units: int, share: float, authors: tuple[float, int], more: int
) -> None:
    active = share * units

    def kept(width: int) -> float:
        return width * (100 - percentile_of(width, active, *authors)) / 100

    chosen = percentile_of(units, active, *authors)
    assert 0 <= chosen <= authors[0]
    assert chosen >= 50 or units == 1
    assert round(units - units * chosen / 100) >= 1
    assert kept(units) <= kept(units + more) + 1e-9
    assert chosen >= percentile_of(units, units, *authors)  # more active units, more kept


@pytest.mark.parametrize(
    "images, tail",
    [(5000, 20), (1300, 20), (1224, 20), (732, 20), (400, 20), (399, 19), (115, 5), (60, 3), (59, 3), (1, 3), (0, 3)],
)
def test_the_tail_is_a_twentieth_of_a_class(images: int, tail: int) -> None:
    assert tail_of(images) == tail
    assert tail_of(images + 1) >= tail


# Detectors


@pytest.mark.parametrize("name", ["residual", "vim"])
def test_half_of_the_spanned_directions_are_principal(name: str) -> None:
    world = sparse_world()
    fitted = world.fit(name)
    origin = -np.linalg.pinv(world.weight) @ world.bias
    spanned = np.linalg.matrix_rank(world.features.astype(np.float64) - origin)
    assert 80 <= spanned <= 81
    assert fitted.chosen_ == {"dim": spanned // 2}
    assert np.array_equal(world.score(name), world.score(name, dim=int(spanned) // 2))
    assert world.fit(name, dim=64).chosen_ == {}


@pytest.mark.parametrize("name, kept", [("ash", 20), ("scale", 20)])
def test_half_of_the_active_units_are_kept(name: str, kept: int) -> None:
    world = sparse_world()
    active = (world.features > 0).sum(axis=1).mean()
    assert round(active / 2) == kept
    fitted = world.fit(name)
    assert fitted.chosen_["percentile"] == pytest.approx(100 * (1 - active / 2 / 128), rel=1e-12)
    assert fitted._kept(128) == kept
    assert np.array_equal(world.score(name), world.score(name, percentile=fitted.chosen_["percentile"]))
    assert not np.array_equal(world.score(name), world.score(name, percentile=85.0 if name == "scale" else 90.0))


def test_dice_keeps_as_many_weights_of_a_class_as_of_342_units() -> None:
    world = sparse_world()
    fitted = world.fit("dice")
    assert fitted.chosen_ == {"percentile": pytest.approx(100 * (1 - 34.2 / 128))}
    assert int((fitted.weight_ != 0).sum()) == pytest.approx(3 * 34.2, abs=1)
    assert int((world.fit("dice", percentile=90.0).weight_ != 0).sum()) == pytest.approx(3 * 12.8, abs=1)


@pytest.mark.parametrize(
    "name, units, authors",
    [
        ("ash", 342, {"percentile": 90.0}),
        ("ash", 2048, {"percentile": 90.0}),
        ("lts", 342, {"percentile": 95.0}),
        ("lts", 2048, {"percentile": 95.0}),
        ("scale", 512, {"percentile": 85.0}),
        ("scale", 2048, {"percentile": 85.0}),
        ("dice", 342, {"percentile": 90.0}),
        ("dice", 2048, {"percentile": 90.0}),
        ("residual", 768, {"dim": 512}),
        ("vim", 768, {"dim": 512}),
        ("residual", 512, {"dim": 256}),
        ("knn", 16, {"k": 50}),
        ("nnguide", 16, {"k": 10}),
    ],
)
def test_scores_at_the_widths_of_the_papers_are_those_of_the_authors_settings(
    name: str, units: int, authors: dict[str, Any]
) -> None:
    world = FeatureWorld(units=units, images=800 if name in ("residual", "vim") else 150)
    assert world.fit(name).chosen_ == authors
    assert np.array_equal(world.score(name), world.score(name, **authors))


def test_openmax_fits_the_outer_twentieth_of_each_class() -> None:
    world = FeatureWorld(images=1500)
    world.labels[world.labels == 2] = np.where(np.arange(500) < 115, 2, 0)
    right = world.logits(world.features).argmax(axis=1) == world.labels
    counts = np.bincount(world.labels[right], minlength=3)
    expected = [min(20, max(3, count // 20)) for count in counts]
    assert expected[0] == expected[1] == 20
    assert expected[2] in (4, 5)
    fitted, apart = world.fit("openmax"), {tail: world.fit("openmax", tail=tail) for tail in set(expected)}
    assert fitted.chosen_ == {"tail": sorted(set(expected))}
    for label, tail in enumerate(expected):
        assert np.array_equal(fitted.weibulls_[:, label], apart[tail].weibulls_[:, label])
    assert not np.array_equal(fitted.weibulls_[:, 2], apart[20].weibulls_[:, 2])


@pytest.mark.parametrize("name, usual", [("knn", 50), ("nnguide", 10)])
@pytest.mark.parametrize(
    "images, fraction, k", [(42, 1.0, 14), (150, 1.0, 50), (150, 0.1, 5), (9, 0.01, 1), (3, 1.0, 1)]
)
def test_neighbours_are_at_most_a_class(name: str, usual: int, images: int, fraction: float, k: int) -> None:
    world = FeatureWorld(images=images)
    fitted = world.fit(name, fraction=fraction)
    assert fitted.chosen_ == {"k": min(usual, k)}
    assert np.array_equal(world.score(name, fraction=fraction), world.score(name, fraction=fraction, k=min(usual, k)))


def test_classes_without_images_do_not_count_for_the_number_of_neighbours() -> None:
    world = FeatureWorld(images=42)
    kept = world.labels != 1
    world.features, world.labels = world.features[kept], world.labels[kept]
    assert world.fit("knn").chosen_ == {"k": 14}


# Extremes


FEW = {
    **dict.fromkeys(("residual", "vim"), r"span [01] of \d, and need to span two"),
    **dict.fromkeys(("kpca", "neco"), r"needs two of them; these features vary in [01] of \d"),
    "cfood": "compares with neighbours of reference images, and needs two",
    "dice": "No weight of the head contributes more",
    "actsub": "of which 0 leave something|leave nothing of the training features",
    "openmax": "needs a class with three correctly classified training images",
    "nnguide": "must be positive",
    "weiper": r"histograms of the features of images, which are all [01] in training",
}
"""How a detector refuses training features from which it can learn nothing."""


@pytest.mark.parametrize("name", RULED)
@pytest.mark.parametrize(
    "units, images, value", [(1, 42, None), (2, 42, None), (5, 3, None), (5, 1, None), (5, 42, 0.0), (5, 42, 1.0)]
)
def test_rules_at_extremes_give_scores_or_a_sentence(name: str, units: int, images: int, value: float | None) -> None:
    """One unit, two units, one image a class, one image in all, and features that do not vary."""
    world = FeatureWorld(units=units, images=images)
    if value is not None:
        world.features[:] = value
    try:
        world.fit(name)
    except DataError:
        with pytest.raises(DataError, match=FEW[name]):
            world.score(name)
    else:
        assert len(world.score(name)) == 9


@pytest.mark.parametrize("name", ["ash", "scale", "knn", "nnguide"])
@pytest.mark.parametrize("units, images", [(1, 42), (2, 3), (5, 1)])
def test_the_smallest_networks_and_classes_are_not_refused(name: str, units: int, images: int) -> None:
    assert len(FeatureWorld(units=units, images=images).score(name)) == 9


@pytest.mark.parametrize("name", ["residual", "vim"])
def test_one_direction_leaves_no_residual(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} measures what lies outside .* which span 1 of 1, and need to span"):
        FeatureWorld(units=1).score(name)


# Settings and documentation


@pytest.mark.parametrize("name", [name for name, plugin in BUILT_IN.items() if plugin.grid])
def test_every_grid_contains_the_default(name: str) -> None:
    plugin = BUILT_IN[name]
    for setting, values in plugin.grid.items():
        assert defaults(plugin)[setting] in values


def test_defaults_by_rule_are_tuned_and_documented() -> None:
    """A default of None is a rule; it is in the grid beside numbers, and its paragraph has all parts of the table."""
    found = {(name, s) for name, plugin in BUILT_IN.items() for s, v in defaults(plugin).items() if v is None}
    ruled = RULED.items() | CHOSEN
    assert found == ruled | INHERITED.items() | OFF.items()
    for name, setting in INHERITED.items():
        assert any((base.name, setting) in ruled for base in BUILT_IN[name].__mro__[1:] if issubclass(base, Detector))
    for name, setting in ruled:
        if (name, setting) in RULED.items() or setting in BUILT_IN[name].grid:
            assert len([value for value in BUILT_IN[name].grid[setting] if value is not None]) >= 3
        text = " ".join((inspect.getdoc(BUILT_IN[name]) or "").split())
        assert re.search(rf"Default of `{setting}`(?: \w)?: .+\. Authors: .+\. Default suite: ", text)


@pytest.mark.parametrize("name, setting", RULED.items())
def test_tuning_tries_the_rule_first_and_once(name: str, setting: str) -> None:
    tried = [str(canonical(candidate)) for candidate in candidates(BUILT_IN[name]())]
    assert tried[0] == name
    assert len(set(tried)) == len(tried) == math.prod(map(len, BUILT_IN[name].grid.values()))
    given = BUILT_IN[name](**{setting: next(value for value in BUILT_IN[name].grid[setting] if value is not None)})
    assert all(candidate.settings[setting] == given.settings[setting] for candidate in candidates(given))


@pytest.mark.parametrize("name, setting", RULED.items())
def test_some_candidates_suit_a_narrow_network(name: str, setting: str) -> None:
    world, usable = sparse_world(), 0
    for value in BUILT_IN[name].grid[setting]:
        try:
            usable += bool(np.isfinite(world.score(name, **{setting: value})).all())
        except DataError:
            continue
    assert usable >= 3
