"""Normalised Mahalanobis distances, kernel PCA, NECO, pNML and CF-OOD against loops over their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.linalg import norm

from oodbench.benchmark import Batch
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages.detector_state import stored_and_loaded
from oodbench.detectors import cfood as cfood_module
from oodbench.detectors._rules import collapsed_dim, kernel_pca_settings, reference_share
from oodbench.detectors.cfood import neighbourhoods
from oodbench.detectors.kpca import RandomFourier
from tests.detectors.feature_world import FeatureWorld

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("mahalanobis_pp", "rmds_pp", "kpca", "neco", "pnml", "cfood")
UNTIED = NAMES[:-1]
"""Detectors whose scores have no ties; those of cfood are counts."""
Array = np.ndarray


def wide(classes: int = 3, units: int = 8, images: int = 90, signed: bool = False) -> FeatureWorld:
    """Features whose directions vary in all units, scored in float64; signed ones are as after no ReLU."""
    world = FeatureWorld(classes=classes, units=units, images=images)
    if signed:
        random = np.random.RandomState(5)
        for field in ("features", "validation", "test"):
            values = getattr(world, field)
            setattr(world, field, values * random.choice([-1, 1], size=values.shape, p=(0.2, 0.8)).astype(np.float32))
    world.test = world.test.astype(np.float64)
    return world


def scaled(f: Array, power: float = 1.0) -> Array:
    """f / |f|^power, the length summed one unit after the other."""
    length = math.sqrt(sum(v * v for v in f.astype(np.float64).tolist()))
    return np.asarray(f.astype(np.float64) / length**power)


def moments(vectors: list[Array]) -> tuple[Array, Array]:
    """Mean and covariance, summed one vector after the other."""
    mean = sum(vectors[1:], vectors[0]) / len(vectors)
    outer = [np.outer(v - mean, v - mean) for v in vectors]
    return mean, sum(outer[1:], outer[0]) / len(vectors)


def mahalanobis_pp(world: FeatureWorld, f: Array, power: float = 1.0) -> float:
    z = [scaled(g, power) for g in world.features]
    classes = [[v for v, label in zip(z, world.labels, strict=True) if label == k] for k in np.unique(world.labels)]
    means = [moments(own)[0] for own in classes]
    within = sum(len(own) * moments(own)[1] for own in classes) / len(z)
    away = [scaled(f, power) - mean for mean in means]
    return min(float(d @ np.linalg.solve(within, d)) for d in away)


def rmds_pp(world: FeatureWorld, f: Array, power: float = 1.0) -> float:
    mean, covariance = moments([scaled(g, power) for g in world.features])
    d = scaled(f, power) - mean
    return mahalanobis_pp(world, f, power) - float(d @ np.linalg.solve(covariance, d))


def outside(vectors: list[Array], ratio: float, x: Array) -> float:
    """Length of x - mean outside the fewest principal directions that hold a share of the variance, from an SVD."""
    mean = sum(vectors[1:], vectors[0]) / len(vectors)
    _, values, directions = np.linalg.svd(np.stack(vectors) - mean)
    q = next(i for i in range(1, len(values)) if (values[:i] ** 2).sum() >= ratio * (values**2).sum())
    c = x - mean
    return float(norm(c - sum(float(c @ d) * d for d in directions[:q])))


def cop(world: FeatureWorld, f: Array, ratio: float = 0.85) -> float:
    return outside([scaled(g) for g in world.features], ratio, scaled(f))


def neco(world: FeatureWorld, f: Array, dim: int = 3, max_logit: bool = False) -> float:
    whole = world.features.astype(np.float64)
    h = (whole - whole.mean(axis=0)) / whole.std(axis=0)
    own = (f - whole.mean(axis=0)) / whole.std(axis=0)
    directions = np.linalg.svd(h)[2][:dim]
    ratio = math.sqrt(sum(float(d @ own) ** 2 for d in directions)) / norm(own)
    return float(-ratio * (max(world.logits(f)) if max_logit else 1))


def pnml(world: FeatureWorld, f: Array) -> float:
    z = np.stack([scaled(g) for g in world.features])
    own = scaled(f)
    leverage = float(own @ np.linalg.inv(z.T @ z) @ own)
    g = leverage / (1 + leverage)
    odds = [math.exp(v) for v in world.logits(own).tolist()]
    p = [v / sum(odds) for v in odds]
    return math.log(sum(v / (v + (1 - v) * v**g) for v in p)) / math.log(len(p))


def cfood(world: FeatureWorld, f: Array, quorum: float = 0.01) -> float:
    """The authors' code, image by image, with squared distances, and m / n instead of their list's share."""
    reference = [scaled(g) for g in world.features]
    count = len(reference)
    ranked = [sorted(float(((v - w) ** 2).sum()) for w in reference) for v in reference]
    for m in neighbourhoods(count).tolist():
        near = [float(((scaled(f) - v) ** 2).sum()) <= own[m] for v, own in zip(reference, ranked, strict=True)]
        if sum(near) / count >= quorum:
            return float(m / count)
    return 1.0


FORMULAS: list[tuple[str, Callable[..., float], dict[str, Any]]] = [
    ("mahalanobis_pp", mahalanobis_pp, {}),
    ("mahalanobis_pp", mahalanobis_pp, {"power": 0.5}),
    ("rmds_pp", rmds_pp, {}),
    ("rmds_pp", rmds_pp, {"power": 1.5}),
    ("kpca", cop, {}),
    *[("kpca", cop, {"ratio": ratio}) for ratio in (0.3, 0.7)],
    ("neco", neco, {"dim": 3}),
    ("neco", neco, {"dim": 1, "max_logit": True}),
    ("pnml", pnml, {}),
    ("cfood", cfood, {}),
    *[("cfood", cfood, {"quorum": share}) for share in (0.1, 0.5)],
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name, formula, settings", FORMULAS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_equals_a_loop_over_its_formula(
    name: str, formula: Callable[..., float], settings: dict[str, Any], signed: bool
) -> None:
    world = wide(signed=signed)
    if name == "pnml":
        world.weight = world.weight / 3  # the head is applied to unit vectors: no prediction should be certain
    found = world.score(name, **({"max_logit": False, **settings} if name == "neco" else settings))
    assert found == pytest.approx([formula(world, f, **settings) for f in world.test], rel=1e-8)
    assert len(np.unique(found)) == len(found) if name in UNTIED else len(np.unique(found)) > 2


def test_random_features_give_the_residual_of_their_kernel_pca() -> None:
    world = wide()
    torch.manual_seed(3)
    fitted = world.fit("kpca", kernel="cosine_gaussian", ratio=0.6, mapped=40)
    frequencies, phases = (part.double().numpy() for part in fitted.fourier_)

    def mapped(f: Array) -> Array:
        return np.array(
            [math.sqrt(2 / 40) * math.cos(w @ scaled(f) + u) for w, u in zip(frequencies, phases, strict=True)]
        )

    vectors = [mapped(g) for g in world.features]
    found = fitted.score(world.batch(fitted, world.test)).numpy()
    assert found == pytest.approx([outside(vectors, 0.6, mapped(f)) for f in world.test], rel=1e-8)


def test_random_features_approximate_the_gaussian_kernel_of_directions() -> None:
    torch.manual_seed(0)
    world = wide(units=5)
    fourier = RandomFourier.drawn(gamma=2.0, mapped=20_000, features=5)
    z = torch.from_numpy(world.features)
    products = fourier.of(z) @ fourier.of(z).T
    directions = np.stack([scaled(g) for g in world.features])
    kernel = np.exp(-2 * ((directions[:, None] - directions) ** 2).sum(axis=2))
    assert kernel.min() < 0.5
    assert abs(products.numpy() - kernel).max() < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("name, plain", [("mahalanobis_pp", "mahalanobis"), ("rmds_pp", "relative_mahalanobis")])
def test_names_are_the_setting_of_the_plain_detectors(name: str, plain: str) -> None:
    world = wide()
    for settings in ({}, {"power": 0.5}):
        assert np.array_equal(world.score(name, **settings), world.score(plain, normalise=True, **settings))
    assert np.array_equal(world.score(name, power=0.0), world.score(plain))
    assert not np.allclose(world.score(name), world.score(plain))
    with pytest.raises(ValueError, match=f"ask for `{plain}` instead"):
        registry.get("detector", name)(normalise=False)
    with pytest.raises(ValueError, match="set normalise=true with it"):
        registry.get("detector", plain)(power=0.5)


def test_what_random_features_have_learned_can_be_stored() -> None:
    world = wide()
    torch.manual_seed(1)
    fitted = world.fit("kpca", kernel="cosine_gaussian", mapped=64)
    loaded = stored_and_loaded(fitted)
    batch = world.batch(fitted, world.test)
    assert torch.equal(loaded.score(batch), fitted.score(batch))
    torch.manual_seed(2)
    assert not np.allclose(world.score("kpca", kernel="cosine_gaussian", mapped=64), fitted.score(batch))


# Invariances


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_training_images_does_not_matter(name: str) -> None:
    world = wide()
    before, order = world.score(name), np.random.RandomState(1).permutation(len(world.labels))
    world.features, world.labels = world.features[order], world.labels[order]
    assert world.score(name) == pytest.approx(before, rel=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_units_does_not_matter(name: str) -> None:
    world = wide()
    before, order = world.score(name), np.random.RandomState(1).permutation(8)
    for field in ("features", "validation", "test", "weight"):
        setattr(world, field, getattr(world, field)[:, order].copy())
    assert world.score(name) == pytest.approx(before, rel=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_classes_do_not_matter(name: str) -> None:
    world = wide()
    before, new = world.score(name), np.array([2, 0, 1])
    world.labels = new[world.labels]
    world.weight, world.bias = world.weight[np.argsort(new)], world.bias[np.argsort(new)]
    assert world.score(name) == pytest.approx(before, rel=1e-8)


@pytest.mark.parametrize("name", ["mahalanobis_pp", "rmds_pp", "kpca", "pnml", "cfood"])
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_only_the_direction_of_a_feature_matters(name: str, factor: float) -> None:
    world = wide()
    before, images = world.score(name), np.arange(len(world.labels))
    world.features = world.features * np.where(images % 2, factor, 1).astype(np.float32)[:, None]
    world.test = world.test * 8
    assert world.score(name) == pytest.approx(before, rel=1e-8)


def test_neco_does_not_depend_on_the_unit_or_the_shift_of_a_unit() -> None:
    world = wide()
    before = world.score("neco", max_logit=False)
    factors, shift = np.geomspace(0.01, 100, 8), np.linspace(-3, 3, 8)
    for field in ("features", "test"):
        setattr(world, field, getattr(world, field).astype(np.float64) * factors + shift)
    assert world.score("neco", max_logit=False) == pytest.approx(before, rel=1e-8)


def test_pnml_does_not_depend_on_a_constant_added_to_the_logits() -> None:
    world = wide()
    before = world.score("pnml")
    world.bias = world.bias + 300
    assert world.score("pnml") == pytest.approx(before, rel=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_other_images(name: str) -> None:
    world = wide()
    world.test = np.concatenate([world.test, world.features]).astype(np.float64)
    fitted = world.fit(name)
    whole = fitted.score(world.batch(fitted, world.test)).numpy()
    parts = [fitted.score(world.batch(fitted, part)).numpy() for part in np.split(world.test, [1, 2, 30])]
    assert np.concatenate(parts) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize("name", UNTIED)
def test_float32_is_good_to_five_digits(name: str) -> None:
    world = FeatureWorld(units=40, images=400)
    fitted = world.fit(name)
    single = fitted.score(world.batch(fitted, world.test)).numpy()
    double = fitted.score(world.batch(fitted, world.test.astype(np.float64))).numpy()
    assert single == pytest.approx(double, rel=1e-5)
    assert len(np.unique(single)) == len(single)


# Rules


@pytest.mark.parametrize("units, classes", [(8, 2), (64, 2), (64, 5), pytest.param(2048, 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_every_width_and_two_classes_are_served(units: int, classes: int, name: str) -> None:
    world = FeatureWorld(classes=classes, units=units, images=60)
    found = world.score(name)
    assert len(np.unique(found)) > (len(found) - 1 if name in UNTIED else 0)


@pytest.mark.parametrize(
    "features, cosine, gaussian",
    [
        (8, 0.85, (0.8, 2.0, 2048)),
        (64, 0.85, (0.8, 2.0, 2048)),
        (512, 0.85, (0.8, 2.0, 2048)),  # ResNet-18 in the authors' scripts
        (1280, 0.99, (0.5, 3.0, 2560)),  # the number of random features of their MobileNet
        (2048, 0.99, (0.5, 3.0, 4096)),  # ResNet-50 in their scripts
    ],
)
def test_kernel_pca_has_the_authors_settings(features: int, cosine: float, gaussian: tuple[float, ...]) -> None:
    assert kernel_pca_settings(features, gaussian=False)["ratio"] == cosine
    assert tuple(kernel_pca_settings(features, gaussian=True).values()) == gaussian


def test_what_kernel_pca_has_chosen_is_recorded() -> None:
    world = wide()
    assert world.fit("kpca").chosen_ == {"ratio": 0.85}
    assert world.fit("kpca", ratio=0.5).chosen_ == {}
    torch.manual_seed(0)
    chosen = world.fit("kpca", kernel="cosine_gaussian", mapped=16).chosen_
    assert chosen == {"ratio": 0.8, "gamma": 2.0}
    with pytest.raises(ValueError, match="gamma and mapped belong to kernel=cosine_gaussian"):
        registry.get("detector", "kpca")(gamma=2.0)


@pytest.mark.parametrize("signed", [False, True])
def test_neco_multiplies_by_the_largest_logit_where_features_are_signed(signed: bool) -> None:
    world = wide(signed=signed)
    chosen = world.fit("neco").chosen_
    assert chosen["max_logit"] is signed
    assert np.array_equal(world.score("neco"), world.score("neco", max_logit=signed))
    assert not np.allclose(world.score("neco"), world.score("neco", max_logit=not signed))
    correlation = np.corrcoef(world.features.astype(np.float64).T)
    shares = np.cumsum(np.linalg.eigvalsh(correlation)[::-1]) / 8
    assert shares[1] < 0.9
    assert chosen["dim"] == 2  # three classes collapse to a plane
    assert world.fit("neco", max_logit=False).needs == {"features"}


@pytest.mark.parametrize(
    "features, classes, explained, spanned, dim",
    [
        (768, 1000, 100, 768, 100),  # ViT-B in the authors' code
        (768, 10, 60, 768, 60),
        (2048, 1000, 300, 1500, 300),
        (768, 10, 40, 41, 40),
        (768, 10, 40, 40, 39),
        (512, 100, 60, 512, 60),
        (512, 10, 60, 512, 9),
        (128, 10, 8, 77, 8),  # the network of the default suite
        (64, 2, 20, 64, 1),
        (8, 2, 5, 8, 1),
        (8, 10, 7, 8, 7),
        (8, 10, 8, 8, 7),
        (8, 1, 5, 8, 1),
    ],
)
def test_neco_keeps_the_directions_of_the_classes(
    features: int, classes: int, explained: int, spanned: int, dim: int
) -> None:
    assert collapsed_dim(features, classes, explained, spanned) == dim


@pytest.mark.parametrize(
    "images, reference", [(1_281_167, 128_117), (50_000, 5000), (45_000, 5000), (6000, 5000), (5000, 5000), (3, 3)]
)
def test_cfood_compares_with_a_tenth_but_at_least_5000_images(images: int, reference: int) -> None:
    assert round(images * reference_share(images)) == reference


def test_cfood_compares_with_the_same_share_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    world = wide(images=60)
    detector = registry.get("detector", "cfood")(fraction=0.5)
    assert np.bincount(world.labels[world.bank_rows(detector)]).tolist() == [10, 10, 10]
    assert world.bank_rows(registry.get("detector", "cfood")()) is None
    assert world.fit("cfood").chosen_ == {"fraction": 1.0}
    half = world.fit("cfood", fraction=0.5)
    assert half.nearest_.shape[1] == 30
    monkeypatch.setattr(cfood_module, "ENTRIES", 7 * 30)  # seven reference images at a time, not all
    # some processors round products of other shapes differently
    torch.testing.assert_close(world.fit("cfood", fraction=0.5).nearest_, half.nearest_, rtol=1e-6, atol=0)


@pytest.mark.parametrize("images", [2, 3, 10, 99, 100, 1000, 5000])
def test_the_neighbourhoods_are_those_of_the_authors(images: int) -> None:
    """Their positions in a list of distances without the image itself, one less than the number of neighbours."""
    kept: list[int] = []
    shares = [*np.linspace(0.001, 0.1, 100), *np.linspace(0.105, 0.5, 81), *np.linspace(0.51, 0.99, 49)]
    for share in shares:
        position = int(share * images - 1)
        if not kept or position > kept[-1]:
            kept.append(position)
    assert neighbourhoods(images).tolist() == [position + 1 for position in kept]
    assert neighbourhoods(images).max() < images


# Degenerate cases


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_that_do_not_vary_have_scores_or_a_reason(name: str, value: float) -> None:
    world = wide()
    world.features[:] = value
    if name == "cfood":  # the cosines among reference images are all 1, or all 0
        assert world.score(name).tolist() == [1.0 if value else 1 / 90] * len(world.test)
        world.test[:] = value
        assert world.score(name).max() == 1 / 90
    elif name == "pnml" and value:
        assert len(np.unique(world.score(name))) == len(world.test)  # the probabilities still differ
    else:
        reason = "vary in 0 of 8" if name in ("kpca", "neco") else "do not vary"
        with pytest.raises(DataError, match=reason):
            world.score(name)


@pytest.mark.parametrize("name", NAMES)
def test_classes_without_images_and_with_one(name: str) -> None:
    world = wide()
    kept = (world.labels == 0) | (np.arange(len(world.labels)) == 2)  # image 2 is the first of class 2
    world.features, world.labels = world.features[kept], world.labels[kept]
    assert np.isfinite(world.score(name)).all()


@pytest.mark.parametrize("name", ["kpca", "neco", "pnml", "cfood"])
def test_one_image_a_class(name: str) -> None:
    world = wide(classes=6, images=6)
    assert np.isfinite(world.score(name)).all()


def test_reasons_for_too_few_images_and_directions() -> None:
    with pytest.raises(DataError, match="within classes, so that mahalanobis_pp has no covariance"):
        wide(classes=6, images=6).score("mahalanobis_pp")
    with pytest.raises(DataError, match="needs two; there is 1"):
        wide(images=1).score("cfood")
    with pytest.raises(DataError, match=r"kpca leaves out directions .* vary in 1 of 8"):
        wide(images=2).score("kpca")
    with pytest.raises(DataError, match=r"neco needs a principal space smaller .* 8 directions were .* from 1 to 7"):
        wide().score("neco", dim=8)


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_of_zeros_has_a_score(name: str) -> None:
    world = wide()
    world.features[0], world.test[0] = 0, 0
    found = world.score(name)
    assert np.isfinite(found).all()
    if name == "cfood":
        assert found[0] > np.median(found[1:]) or found[0] == found.max()


@pytest.mark.parametrize("name", NAMES)
def test_units_that_are_never_active_change_nothing(name: str) -> None:
    world = wide()
    before = world.score(name)
    for field in ("features", "validation", "test", "weight"):
        setattr(world, field, np.insert(getattr(world, field), [1, 5], 0, axis=1))
    assert world.score(name) == pytest.approx(before, rel=1e-8)


def test_an_image_at_the_training_mean_has_no_direction_for_neco() -> None:
    world = wide(images=60)
    world.features = np.round(world.features)
    world.features[30:] = 8 - world.features[:30]
    world.test = np.full((1, 8), 4.0)
    assert world.score("neco", max_logit=False).tolist() == [0.0]


def test_a_unit_that_is_constant_in_training_counts_unscaled_for_neco() -> None:
    world = wide()
    world.features[:, 3], world.test[:, 3] = 0.1, float(np.float32(0.1))
    before = world.score("neco", max_logit=False)
    world.test[:, 3] += 1000
    assert np.abs(world.score("neco", max_logit=False)).max() < 0.1 < np.abs(before).min()


def test_certain_predictions_do_not_tie_in_pnml() -> None:
    world = wide(classes=2)
    world.weight = 40 * world.weight
    found = world.score("pnml")
    assert found.min() < 1e-20
    assert found.min() >= 0
    assert len(np.unique(found)) == len(found)


def test_a_copy_of_a_training_image_is_among_the_neighbours_of_its_neighbours() -> None:
    """Float32 cosines of equal features may differ in the last bits between two products: equal ones count."""
    world = wide(images=200)
    world.features[:100] = world.features[0]
    world.test = world.features[:1].astype(np.float64)
    assert world.score("cfood", quorum=0.5).tolist() == [1 / 200]


@pytest.mark.parametrize(
    "name, settings",
    [
        ("mahalanobis_pp", {"power": math.inf}),
        ("kpca", {"kernel": "linear"}),
        ("kpca", {"ratio": 1.0}),
        ("kpca", {"gamma": 0.0, "kernel": "cosine_gaussian"}),
        ("kpca", {"mapped": 1, "kernel": "cosine_gaussian"}),
        ("neco", {"dim": 0}),
        ("pnml", {"cutoff": 0.0}),
        ("cfood", {"quorum": 0.0}),
        ("cfood", {"fraction": 1.5}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*got"):
        registry.get("detector", name)(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_declared_is_read(name: str) -> None:
    world = wide()
    fitted = world.fit(name)
    assert fitted.passes == 0
    assert "images" not in fitted.needs
    if name not in ("neco", "cfood"):
        assert isinstance(
            fitted.score(Batch(9, {"features": torch.from_numpy(world.test).__getitem__}, name)), torch.Tensor
        )
