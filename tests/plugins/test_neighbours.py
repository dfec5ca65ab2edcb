"""Nearest training images by screening: the bound on bfloat16, the same bits as the float32 product, and the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Detector, FitData, largest, unit
from oodbench.benchmark.plugins import training_bank
from oodbench.benchmark.plugins.neighbours import on_gpu as gpu_screens
from oodbench.benchmark.plugins.neighbours import rounded, searches, shared, tiles
from oodbench.benchmark.plugins.neighbours.hardware import torch_threads
from oodbench.benchmark.plugins.neighbours.on_cpu import CPUScreen
from oodbench.benchmark.plugins.neighbours.on_gpu import GPUScreen, bank_on
from oodbench.benchmark.plugins.neighbours.rounded import RoundedBank
from oodbench.benchmark.plugins.neighbours.screen import Search
from oodbench.benchmark.plugins.neighbours.shared import SharedProduct
from oodbench.benchmark.plugins.neighbours.streamed import StreamedSearch
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays, array_batch
from oodbench.benchmark.stages.detecting.similarities import score_with_bank

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
IMAGES, BANK, DIMS = 96, 1200, 96
SHAPE = tiles.SMALL
HALF = 2.0**-8
"""Largest relative error of a number rounded to bfloat16."""


def normal(random: np.random.RandomState, count: int) -> np.ndarray:
    return random.randn(count, DIMS)


def rectified(random: np.random.RandomState, count: int) -> np.ndarray:
    return np.maximum(0, random.randn(count, DIMS) - 0.5)


def classes(random: np.random.RandomState, count: int) -> np.ndarray:
    centres = np.random.RandomState(1).gamma(0.5, 2, (5, DIMS))
    directions = np.random.RandomState(2).randn(5, 4, DIMS)
    label = np.arange(count) % 5
    scattered: np.ndarray = centres[label] + 0.5 * np.einsum("nr,nrd->nd", random.randn(count, 4), directions[label])
    return scattered


def doubled(random: np.random.RandomState, count: int) -> np.ndarray:
    """Every image occurs six times."""
    return np.tile(np.random.RandomState(3).randn(count // 6 + 1, DIMS), (6, 1))[:count]


def rounded_up(random: np.random.RandomState, count: int) -> np.ndarray:
    """Every number lies just above the middle of two bfloat16 numbers: all of them are rounded up."""
    return np.ldexp(1 + 2.0**-8 * 1.001, random.randint(-2, 2, (count, DIMS)))


def few_zeros(random: np.random.RandomState, count: int) -> np.ndarray:
    found = abs(random.randn(count, DIMS))
    found[3::40] = 0
    return found


def tiny(random: np.random.RandomState, count: int) -> np.ndarray:
    return 1e-30 * random.randn(count, DIMS)


def alike(random: np.random.RandomState, count: int) -> np.ndarray:
    return np.ones((count, DIMS)) + 1e-6 * random.randn(count, DIMS)


def close(random: np.random.RandomState, count: int) -> np.ndarray:
    """Groups of thirty images whose similarities differ by the rounding of float32."""
    centres = np.random.RandomState(7).randn(40, DIMS)
    return np.repeat(centres, -(-count // 40), axis=0)[:count] + 3e-4 * random.randn(count, DIMS)


KINDS = [normal, rectified, classes, doubled, rounded_up, few_zeros, tiny, close, alike]
Kind = Callable[[np.random.RandomState, int], np.ndarray]


def features(kind: Kind, seed: int, count: int) -> Tensor:
    return torch.from_numpy(kind(np.random.RandomState(seed), count).astype(np.float32))


def units(kind: Kind, seed: int, count: int) -> Tensor:
    return unit(features(kind, seed, count)).float()


def bank_of(kind: Kind, seed: int, count: int = BANK, stored: type = np.float32) -> TrainingBank:
    return TrainingBank(kind(np.random.RandomState(seed), count).astype(stored))


def on_cpu(bank: TrainingBank, weights: Tensor | None = None) -> Search:
    return CPUScreen(bank, weights, SHAPE)


def on_gpu(bank: TrainingBank, weights: Tensor | None = None) -> Search:
    """What a GPU does, on the CPU or, in tests with a GPU, there."""
    return GPUScreen(bank, weights, SHAPE, bank_on(bank, torch.device("cuda" if torch.cuda.is_available() else "cpu")))


def streamed(bank: TrainingBank, weights: Tensor | None = None) -> Search:
    return StreamedSearch(bank, weights, SHAPE)


SCREENS = pytest.mark.parametrize("screen", [on_cpu, on_gpu])
SEARCHES = pytest.mark.parametrize("screen", [on_cpu, on_gpu, streamed])
MakeScreen = Callable[..., Search]


def same_bits(images: int = IMAGES, count: int = BANK) -> None:
    """Skip a test where the product gives entries other bits in another shape: there is no screening there."""
    agrees = tiles.agreeing(images, count, DIMS, 1) == SHAPE
    if not (tiles.multiplies_pairs() and rounded.rounds_to_nearest(CPU) and agrees):
        pytest.skip("entries of a matrix product depend on its shape here")


def not_screened() -> list[int]:
    """The last block, of forty images, where entries do not have its bits."""
    return [] if tiles.agreeing(40, BANK, DIMS, 1) == tiles.agreeing(IMAGES, BANK, DIMS, 1) else [40]


# The bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_bfloat16_products_are_within_the_bound(kind: Kind, weighted: bool) -> None:
    bank, directions = units(kind, 0, BANK), units(kind, 1, IMAGES)
    weights = torch.from_numpy(np.random.RandomState(4).randn(BANK).astype(np.float32) * 20) if weighted else None
    products, bound = RoundedBank(bank, weights).products(directions)
    vectors = bank.double() if weights is None else bank.double() * weights.double()[:, None]
    exact = directions.double() @ vectors.T
    centre = (vectors.sum(dim=0) / BANK).float().double()
    constant = directions.double() @ centre - centre @ centre + (vectors @ centre).mean()
    errors = (products.double() - (exact - constant[:, None])).abs()
    last = products.double().abs() * HALF
    assert (errors <= bound[:, None] + last).all()
    largest_norm = float(vectors.norm(dim=1).max())
    assert float(bound.max()) < 0.012 * largest_norm + 1e-20


@pytest.mark.parametrize("part", ["images", "bank", "both"])
def test_the_bound_holds_with_equality_where_errors_add_up(part: str) -> None:
    exact = torch.from_numpy(np.ldexp(1.0, np.random.RandomState(0).randint(-2, 2, (1, DIMS)))).float()
    above = exact * (1 + 2.0**-8 * 1.001)  # rounded up, in every number
    directions, vector = (above if part in names else exact for names in (("images", "both"), ("bank", "both")))
    bank = RoundedBank(torch.cat([vector, -vector]))  # its mean is zero
    multiplied, bound = bank.round(directions)
    found = multiplied.double() @ bank.rounded.double()
    error = float((found - directions.double() @ torch.cat([vector, -vector]).double().T).abs().max())
    assert 0.95 * float(bound) < error <= float(bound)


# The same bits as the product's


@SEARCHES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 7, 20, 300])
def test_the_kth_neighbour_is_that_of_the_product(screen: MakeScreen, kind: Kind, k: int) -> None:
    same_bits()
    bank, images = bank_of(kind, 0), features(kind, 1, IMAGES)
    found = screen(bank).column(unit(images).float(), k)
    if found is None:
        assert kind is alike or (kind is classes and k == 20) or k > 20
    else:
        assert torch.equal(found, largest(bank.similarities(images), k)[1][:, -1])


@SEARCHES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 7, 20])
@pytest.mark.parametrize("weighted", ["no", "positive", "any"])
def test_the_largest_similarities_are_those_of_the_product(
    screen: MakeScreen, kind: Kind, k: int, weighted: str
) -> None:
    same_bits()
    bank, images = bank_of(kind, 0), features(kind, 1, IMAGES)
    drawn = torch.from_numpy(np.random.RandomState(5).randn(BANK).astype(np.float32))
    weights = {"no": None, "positive": 10 + drawn, "any": drawn}[weighted]
    found = screen(bank, weights).values(unit(images).float(), k)
    if found is not None:
        whole = bank.similarities(images)
        assert torch.equal(found, largest(whole if weights is None else whole * weights, k)[0])


@SEARCHES
@pytest.mark.parametrize("seed", range(25))
def test_random_sizes_and_numbers_of_neighbours(screen: MakeScreen, seed: int) -> None:
    random = np.random.RandomState(seed)
    images, count, k = int(random.randint(64, 200)), int(random.randint(600, 2500)), int(random.randint(1, 30))
    same_bits(images, count)
    kind = KINDS[seed % 4]
    bank, compared = bank_of(kind, seed, count), features(kind, seed + 1, images)
    whole, directions = bank.similarities(compared), unit(compared).float()
    column, values = screen(bank).column(directions, k), screen(bank).values(directions, k)
    assert column is None or torch.equal(column, largest(whole, k)[1][:, -1])
    assert values is None or torch.equal(values, largest(whole, k)[0])


@SEARCHES
def test_most_random_features_are_screened(screen: MakeScreen) -> None:
    """The tests above do not pass because nothing is found."""
    same_bits()
    found = [screen(bank_of(normal, 0)).column(units(normal, 1, IMAGES), k) for k in (1, 7, 20)]
    assert all(one is not None for one in found)


@SCREENS
def test_a_bank_that_is_all_the_same_is_left_to_the_product(screen: MakeScreen) -> None:
    made = screen(TrainingBank(np.tile(alike(np.random.RandomState(0), 1), (BANK, 1)).astype(np.float32)))
    assert made.column(units(normal, 1, IMAGES), 5) is None
    assert made.values(units(normal, 1, IMAGES), 5) is None


@SCREENS
@pytest.mark.parametrize("k", [BANK // 3, BANK])
def test_so_many_neighbours_are_left_to_the_product(screen: MakeScreen, k: int) -> None:
    assert screen(bank_of(normal, 0)).column(units(normal, 1, IMAGES), k) is None


@pytest.mark.parametrize("kind", [normal, classes, doubled, few_zeros, close])
@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("chosen", [False, True])
def test_a_bank_that_is_not_held_in_memory_is_screened_on_a_gpu_in_parts(
    kind: Kind, stored: type, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bits()
    monkeypatch.setattr(training_bank, "HELD", 0)
    monkeypatch.setattr(gpu_screens, "ENTRIES", 7 * BANK)  # seven images at a time
    monkeypatch.setattr(gpu_screens, "NUMBERS", 50 * DIMS)
    rows = torch.from_numpy(np.random.RandomState(8).permutation(2 * BANK)[:BANK]) if chosen else None
    bank = TrainingBank(kind(np.random.RandomState(0), BANK * (1 + chosen)).astype(stored), rows)
    assert bank.held is None
    images, screen = features(kind, 1, IMAGES), on_gpu(bank)
    whole = bank.similarities(images)
    column, values = screen.column(unit(images).float(), 3), screen.values(unit(images).float(), 9)
    assert column is not None
    assert torch.equal(column, largest(whole, 3)[1][:, -1])
    assert values is not None
    assert torch.equal(values, largest(whole, 9)[0])


@pytest.mark.parametrize(
    "on, rows, own",
    [
        ("all threads", tiles.SMALL.rows, "as it is"),
        ("all threads", tiles.SMALL.few, "too"),
        ("two threads", tiles.SMALL.rows, "as it is"),
        ("two threads", tiles.SMALL.few, "as it is"),
        ("none", tiles.SMALL.rows, "as it is"),
    ],
)
def test_a_product_whose_entries_depend_on_its_shape_is_noticed(
    on: str, rows: int, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bits()
    multiply = torch.mm

    def other(a: Tensor, b: Tensor, **out: Any) -> Tensor:
        found: Tensor = multiply(a, b, **out)
        differs = on == "all threads" or (on == "two threads" and torch.get_num_threads() == 2)
        if own == "too" and len(a) == IMAGES and "out" not in out:
            differs = True
        elif len(a) != rows:
            differs = False
        return found.mul_(1 + 1e-6) if differs else found

    monkeypatch.setattr(torch, "mm", other)
    with torch_threads(2):
        found = tiles.agreeing.__wrapped__(IMAGES, BANK, DIMS, 2)
        assert torch.get_num_threads() == 2
    whole = None if own == "too" else tiles.Shape(IMAGES, BANK, IMAGES, 2)
    assert found == {"all threads": whole, "two threads": SHAPE, "none": SHAPE._replace(threads=2)}[on]


@pytest.mark.parametrize("gpu_screen", [False, True])
@pytest.mark.parametrize("kind", [normal, doubled, few_zeros, close])
def test_entries_in_the_shape_of_the_product_have_its_bits(
    gpu_screen: bool, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where threads divide small products otherwise: every other shape has other bits here."""
    same_bits()
    monkeypatch.setattr(training_bank, "PIECE", 500)
    shape = tiles.Shape(IMAGES, 500, IMAGES, 1)
    multiply = torch.mm

    def other(a: Tensor, b: Tensor, **out: Any) -> Tensor:
        found: Tensor = multiply(a, b, **out)
        return found if a.dtype != torch.float32 or len(a) == IMAGES else found.mul_(1 + 1e-6)

    monkeypatch.setattr(torch, "mm", other)
    bank, images = bank_of(kind, 0), features(kind, 1, 2 * IMAGES)
    made = GPUScreen(bank, None, shape, bank_on(bank, CPU)) if gpu_screen else CPUScreen(bank, None, shape)
    whole = torch.cat([bank.similarities(part) for part in images.split(IMAGES)])
    column, values = made.column(unit(images).float(), 4), made.values(unit(images).float(), 9)
    assert column is not None
    assert torch.equal(column, largest(whole, 4)[1][:, -1])
    assert values is not None
    assert torch.equal(values, largest(whole, 9)[0])


# The choice


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Banks and sets of the tests' sizes are screened, on any processor and however long it takes."""
    monkeypatch.setattr(training_bank, "MOST", IMAGES)
    monkeypatch.setattr(training_bank, "ENTRIES", IMAGES * BANK)
    monkeypatch.setattr(searches, "FEWEST_IN_BANK", 100)
    monkeypatch.setattr(searches, "FEWEST_IMAGES", 100)
    monkeypatch.setattr(searches, "FEWEST_BLOCKS", 6)
    monkeypatch.setattr(shared, "PATIENCE", 1e9)
    monkeypatch.setattr(searches, "multiplies_bfloat16", lambda device: True)


def fitted(name: str, train: SetArrays) -> Detector:
    detector: Detector = registry.get("detector", name)(k=7) if name != "relation" else registry.get("detector", name)()
    batch = array_batch(detector, train, labelled=True)
    detector.fit(None, FitData(batch, batch))  # type: ignore[arg-type]  # none of them reads the network
    return detector


@pytest.fixture
def scored(small: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[bytes], list[int]]]:
    """Scores of a set of seven and a half blocks by detectors that share a bank; images multiplied in full."""
    random = np.random.RandomState(0)
    train, images = (
        SetArrays(
            count,
            random.randn(count, 5) + 3,
            abs(random.randn(count, DIMS)).astype(np.float32),
            np.arange(count) % 5,
        )
        for count in (BANK, IMAGES * 7 + 40)
    )
    multiplied: list[int] = []
    original = TrainingBank.similarities

    def counted(self: TrainingBank, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        multiplied.append(len(features))
        return original(self, features, dtype)

    monkeypatch.setattr(TrainingBank, "similarities", counted)

    def score(*names: str, device: torch.device = CPU) -> tuple[list[bytes], list[int]]:
        multiplied.clear()
        assert train.features is not None
        outcomes = score_with_bank(
            [fitted(name, train) for name in names],
            TrainingBank(train.features),
            images,
            lambda detector, bank, product: array_batch(detector, images, bank=bank, similarities=product),
            0,
            device,
        )
        found = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            found.append(outcome.scores.tobytes())
        return found, [count for count in multiplied if count != 5]  # five images are scored once more, by themselves

    return score


@pytest.mark.parametrize("names", [("knn",), ("nnguide",), ("knn", "nnguide")])
def test_scores_have_the_same_bytes_screened_and_in_full(
    scored: Callable[..., tuple[list[bytes], list[int]]], names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bits()
    found, multiplied = scored(*names)
    assert multiplied == [IMAGES, *not_screened()]  # the first block
    monkeypatch.setattr(searches, "multiplies_bfloat16", lambda device: False)
    expected, multiplied = scored(*names)
    assert multiplied == [IMAGES] * 7 + [40]
    assert found == expected


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("names", [("knn",), ("nnguide",), ("knn", "nnguide")])
def test_scores_have_the_same_bytes_screened_on_a_gpu(
    scored: Callable[..., tuple[list[bytes], list[int]]],
    gpu: str,
    names: tuple[str, ...],
    held: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same_bits()
    monkeypatch.setattr(searches, "multiplies_bfloat16", lambda device: device.type == "cuda")
    if not held:
        monkeypatch.setattr(training_bank, "HELD", 0)
        monkeypatch.setattr(training_bank, "LARGEST", IMAGES * BANK)
    with monkeypatch.context() as patch:
        patch.setattr(shared, "searches_of", lambda *given: None)
        expected, multiplied = scored(*names)
    assert multiplied == [IMAGES] * 7 + [40]
    emptied = Mock()
    monkeypatch.setattr(torch.cuda, "empty_cache", emptied)
    found, multiplied = scored(*names, device=torch.device("cuda"))
    assert multiplied == [IMAGES, *not_screened()]
    assert found == expected
    assert emptied.call_count == 1


@pytest.mark.parametrize("names", [("knn",), ("nnguide",), ("knn", "nnguide")])
@pytest.mark.parametrize("numbers", [2**24, 3 * IMAGES * DIMS])
def test_a_bank_that_is_not_held_in_memory_is_read_once_for_many_blocks(
    scored: Callable[..., tuple[list[bytes], list[int]]],
    names: tuple[str, ...],
    numbers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same_bits()
    monkeypatch.setattr(training_bank, "HELD", 0)
    monkeypatch.setattr(training_bank, "LARGEST", IMAGES * BANK)
    monkeypatch.setattr(training_bank, "PIECE", 250)
    with monkeypatch.context() as patch:
        patch.setattr(shared, "searches_of", lambda *given: None)
        expected, multiplied = scored(*names)
    assert multiplied == [IMAGES] * 7 + [40]
    monkeypatch.setattr(searches.Streamed, "NUMBERS", numbers)
    read: list[int] = []
    original = TrainingBank.features

    def counted(self: TrainingBank, columns: Tensor) -> Tensor:
        read.append(len(columns))
        return original(self, columns)

    monkeypatch.setattr(TrainingBank, "features", counted)
    found, multiplied = scored(*names)
    assert multiplied == [IMAGES, *not_screened()]
    assert found == expected
    whole = read.count(250)  # pieces; the neighbours themselves are read as well
    groups = 1 if numbers == 2**24 else 3
    assert whole == 4 * (1 + len(not_screened()) + groups * len(names))


def test_pieces_in_memory_of_their_own_are_compared_with_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiles.pieces_agree.__wrapped__(IMAGES, 300, DIMS, 1)
    monkeypatch.setattr(training_bank, "PIECE", 100)
    multiply = torch.mm

    def other(a: Tensor, b: Tensor, **out: Any) -> Tensor:
        found: Tensor = multiply(a, b, **out)
        return found if out else found.mul_(1 + 1e-6)

    monkeypatch.setattr(torch, "mm", other)
    assert not tiles.pieces_agree.__wrapped__(IMAGES, 350, DIMS, 1)


@pytest.mark.parametrize("when", ["before", "bank", "search"])
def test_a_gpu_with_too_little_memory_is_not_used(
    scored: Callable[..., tuple[list[bytes], list[int]]], gpu: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bits()
    monkeypatch.setattr(searches, "multiplies_bfloat16", lambda device: device.type == "cuda")
    expected, _ = scored("knn")

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    if when == "before":
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2**40))
    elif when == "bank":
        monkeypatch.setattr(searches, "bank_on", full)
    else:
        monkeypatch.setattr(GPUScreen, "_of_block", full)
    found, multiplied = scored("knn", device=torch.device("cuda"))
    assert multiplied == [IMAGES] * 7 + [40]
    assert found == expected


def test_nothing_is_screened_while_a_detector_reads_all_similarities(
    scored: Callable[..., tuple[list[bytes], list[int]]],
) -> None:
    alone, _ = scored("knn")
    found, multiplied = scored("knn", "relation")
    assert multiplied == [IMAGES] * 7 + [40]
    assert found[0] == alone[0]


def test_a_last_block_with_other_bits_is_not_screened(
    scored: Callable[..., tuple[list[bytes], list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bits()
    expected, _ = scored("knn")
    agrees = tiles.agreeing
    monkeypatch.setattr(searches, "agreeing", lambda images, *shape: None if images == 40 else agrees(images, *shape))
    assert scored("knn") == (expected, [IMAGES, 40])


@pytest.mark.parametrize("change", ["slow", "other bits", "no memory", "short set"])
def test_screening_ends_where_it_does_not_pay_or_could_change_bits(
    scored: Callable[..., tuple[list[bytes], list[int]]], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_bits()
    expected, _ = scored("knn")
    if change == "slow":
        monkeypatch.setattr(shared, "PATIENCE", 0)
    elif change == "other bits":
        monkeypatch.setattr(searches, "agreeing", lambda *shape: None)
    elif change == "no memory":
        monkeypatch.setattr(training_bank, "HELD", 4 * BANK * DIMS + 100)
    else:
        monkeypatch.setattr(searches, "FEWEST_BLOCKS", 8)
    found, multiplied = scored("knn")
    assert multiplied == ([IMAGES] * 4 + [40] if change == "slow" else [IMAGES] * 7 + [40])
    assert found == expected


def test_neighbours_of_a_screen_are_kept_for_one_set_and_weighting(small: None) -> None:
    same_bits()
    bank, images = bank_of(normal, 0), features(normal, 1, IMAGES * 8)
    product = SharedProduct(bank, images.__getitem__, len(images))
    weights = torch.from_numpy(np.random.RandomState(6).rand(BANK).astype(np.float32))
    for start in range(0, len(images), IMAGES):
        rows = slice(start, start + IMAGES)
        whole, found = bank.similarities(images[rows]), product.neighbours(rows)
        assert torch.equal(found.largest(4), largest(whole, 4)[0])
        assert torch.equal(found.largest(4, weights), largest(whole * weights, 4)[0])
        assert torch.equal(found.largest(4, 2 * weights), largest(whole * (2 * weights), 4)[0])
        assert torch.equal(found.column(4), largest(whole, 4)[1][:, -1])
        assert torch.equal(found.column(9), largest(whole, 9)[1][:, -1])
    assert product.seconds > 0
