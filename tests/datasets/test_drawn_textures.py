"""`drawn-textures`: exact arithmetic, independent groups, variety, and primitives that do what they say."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from oodbench.benchmark import ImageSet
from oodbench.benchmark.plugins.registry import registry
from oodbench.datasets import _texture_noise, _texture_patterns, drawn_textures
from oodbench.datasets._texture_noise import cells, edge, fraction, hashed, noise, smooth, triangle, turbulence, wave
from oodbench.datasets._texture_patterns import PATTERNS, Random
from oodbench.datasets.drawn_textures import CROPS, SIDE, DrawnTextures, draw, plane

TEXTURES = 100

EXACT = {
    *("abs", "arange", "asarray", "ascontiguousarray", "clip", "concatenate", "floor", "full_like", "maximum"),
    *("minimum", "ones_like", "repeat", "sqrt", "stack", "where", "zeros", "zeros_like"),
    *("float64", "int64", "ndarray", "random", "uint8", "uint32"),
}
"""What of NumPy may be used: nothing whose result differs between processors or versions."""


@cache
def textures() -> ImageSet:
    return DrawnTextures().load("test", Path("/nowhere"))


def grey(images: np.ndarray) -> np.ndarray:
    mean: np.ndarray = images.astype(float).mean(axis=1)
    return mean


@pytest.mark.parametrize("module", [_texture_noise, _texture_patterns, drawn_textures])
def test_only_arithmetic_that_is_the_same_everywhere_is_used(module: object) -> None:
    tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
    }
    assert used
    assert used <= EXACT
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.MatMult)]
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    named = {node.id for power in powers for node in ast.walk(power.left) if isinstance(node, ast.Name)}
    assert named <= {"SAMPLES"}  # powers of whole numbers only
    methods = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) if isinstance(node.func, ast.Attribute)
    }
    assert not methods & {"sum", "mean", "std", "dot", "prod", "cumsum", "normal", "randn"}


def test_random_numbers_are_those_that_numpy_promises_to_keep() -> None:
    random = Random(3)
    assert type(random.state) is np.random.RandomState
    assert random.between(0, 1) == 0.5507979025745755
    assert [random.whole(0, 9) for _ in range(3)] == [9, 3, 8]


@pytest.mark.parametrize("number", [0, 37, 99])
def test_a_texture_does_not_depend_on_the_others(number: int) -> None:
    assert np.array_equal(draw(number), textures().images[CROPS * number : CROPS * (number + 1)])


def test_every_texture_is_a_group() -> None:
    groups = textures().groups
    assert groups is not None
    assert list(np.bincount(groups)) == [CROPS] * TEXTURES
    assert len(PATTERNS) * drawn_textures.TEXTURES_PER_KIND == TEXTURES


def test_the_crops_of_a_texture_do_not_overlap() -> None:
    across, down = (axis.reshape(CROPS, -1) for axis in plane())
    for one in range(CROPS):
        for other in range(one):
            gap = max(abs(axis[one].min() - axis[other].min()) for axis in (across, down))
            assert gap >= SIDE


def test_the_card_names_every_kind() -> None:
    card = registry.get("dataset", "drawn-textures")
    assert len({pattern.__name__ for pattern in PATTERNS}) == 25
    assert all(pattern.__name__ in card.origin for pattern in PATTERNS)
    assert "MIT" in card.licence


def test_no_texture_is_flat_and_brightness_contrast_and_colour_vary() -> None:
    images = textures().images
    mean, spread = grey(images).mean(axis=(1, 2)), grey(images).std(axis=(1, 2))
    assert spread.min() > 4
    assert np.percentile(mean, 5) < 70
    assert np.percentile(mean, 95) > 190
    assert np.percentile(spread, 5) < 18
    assert np.percentile(spread, 95) > 70
    colour = np.ptp(images.astype(int), axis=1).mean(axis=(1, 2))
    assert np.percentile(colour, 10) < 12
    assert np.percentile(colour, 90) > 45
    assert np.mean((images == 0) | (images == 255)) < 0.1


def test_crops_of_one_texture_are_more_alike_than_those_of_two() -> None:
    features = np.stack([grey(textures().images).mean(axis=(1, 2)), grey(textures().images).std(axis=(1, 2))], axis=1)
    by_texture = features.reshape(TEXTURES, CROPS, 2)
    within = by_texture.var(axis=1, ddof=1).mean(axis=0)
    between = by_texture.mean(axis=1).var(axis=0, ddof=1)
    assert (between > 2 * within).all()


@pytest.mark.parametrize("first", range(0, TEXTURES, drawn_textures.TEXTURES_PER_KIND))
def test_the_textures_of_a_kind_differ(first: int) -> None:
    crops = grey(textures().images[CROPS * first :: CROPS][: drawn_textures.TEXTURES_PER_KIND])
    for one in range(len(crops)):
        for other in range(one):
            assert np.sqrt(np.mean((crops[one] - crops[other]) ** 2)) > 12


@pytest.mark.parametrize("id_set", ["digits", "glyphs"])
@pytest.mark.parametrize("statistic", ["mean", "largest gradient"])
def test_brightness_and_edges_do_not_solve_the_pair(id_set: str, statistic: str) -> None:
    def score(images: np.ndarray) -> np.ndarray:
        values = grey(images)
        if statistic == "mean":
            return values.mean(axis=(1, 2))  # type: ignore[no-any-return]
        largest: np.ndarray = np.maximum(*(abs(np.diff(values, axis=axis)).max(axis=(1, 2)) for axis in (1, 2)))
        return largest

    known = registry.get("dataset", id_set)().load("test", Path("/nowhere")).images
    scores = np.concatenate([score(known), score(textures().images)])
    is_texture = np.repeat([0, 1], [len(known), len(textures())])
    assert 0.15 < roc_auc_score(is_texture, scores) < 0.88


# the primitives


def random_points(count: int = 4000, span: float = 50.0) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.random.RandomState(0).uniform(-span, span, (2, count))
    return x, y


def test_hashes_are_uniform_and_change_with_every_input() -> None:
    column, row = np.meshgrid(np.arange(-100.0, 100), np.arange(-100.0, 100))
    values = hashed(5, column, row)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, 20, (0, 1))[0]
    assert np.sum((counts - 2000) ** 2 / 2000) < 44  # chi-square, 19 degrees of freedom: 0.999
    for neighbour in (values[1:] - values[:-1], values[:, 1:] - values[:, :-1], hashed(6, column, row) - values):
        assert np.var(neighbour) == pytest.approx(2 / 12, rel=0.03)


@pytest.mark.parametrize(
    "function, lowest, highest", [(fraction, 0, 1), (triangle, 0, 1), (wave, 0, 1), (smooth, 0, 1)]
)
def test_waves_stay_in_their_range(function: object, lowest: float, highest: float) -> None:
    values = function(np.linspace(-3, 3, 2001))  # type: ignore[operator]
    assert values.min() == pytest.approx(lowest, abs=1e-9)
    assert values.max() == pytest.approx(highest, abs=2e-3)


def test_a_wave_is_nearly_a_sine() -> None:
    x = np.linspace(-2, 2, 1001)
    assert np.abs(wave(x) - (1 - np.cos(2 * np.pi * x)) / 2).max() < 0.02


def test_an_edge_is_a_ramp() -> None:
    assert edge(np.array([0.0, 0.45, 0.5, 0.55, 1.0]), 0.5, 0.2).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_noise_takes_the_lattice_values_and_is_continuous() -> None:
    column, row = np.meshgrid(np.arange(-5.0, 5), np.arange(-5.0, 5))
    assert np.array_equal(noise(9, column, row), hashed(9, column, row))
    x, y = random_points()
    assert np.abs(noise(9, x + 1e-6, y - 1e-6) - noise(9, x, y)).max() < 1e-5


@pytest.mark.parametrize("folded", [False, True])
def test_turbulence_stays_between_0_and_1(folded: bool) -> None:
    values = turbulence(2, *random_points(), folded=folded)
    assert 0 <= values.min() < 0.3
    assert 0.6 < values.max() <= 1


def test_cells_find_the_nearest_points() -> None:
    """Against a search over all points of the lattice."""
    x, y = random_points(300, 3)
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(-8.0, 8), np.arange(-8.0, 8)))
    at_x = column + 0.5 + 0.6 * (hashed(4, column, row) - 0.5)
    at_y = row + 0.5 + 0.6 * (hashed(5, column, row) - 0.5)
    distance = np.hypot(at_x - x[:, None], at_y - y[:, None])
    order = np.argsort(distance, axis=1)
    first, second, owner = cells(4, x, y, 0.6)
    rows = np.arange(len(x))
    assert first == pytest.approx(distance[rows, order[:, 0]])
    assert second == pytest.approx(distance[rows, order[:, 1]], abs=0.05)
    assert np.array_equal(owner, hashed(6, column, row)[order[:, 0]])


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: str(pattern.__name__))
def test_a_pattern_stays_on_its_palette(pattern: object) -> None:
    x, y = random_points(3000, 20)
    for seed in range(6):
        values = pattern(Random(seed), x, y)  # type: ignore[operator]
        assert values.shape == x.shape
        assert values.min() >= -1e-9
        assert values.max() <= 1 + 1e-9
        assert values.std() > 0.05
