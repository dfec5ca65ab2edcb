"""What detectors compute from the same training images is computed once; each gets the bits that it would get alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch
from oodbench.benchmark.plan.jobs import FitJob
from oodbench.benchmark.plugins.inputs import UndeclaredInputError
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.detecting import shared_results
from oodbench.benchmark.stages.detecting.shared_results import SharedResults
from oodbench.benchmark.stages.fit_score import fit
from oodbench.benchmark.stages.similarity_scoring import bank_rows
from oodbench.benchmark.store.store import Key
from oodbench.detectors import _gaussian, _moments, _similarity
from oodbench.detectors._gaussian import covariance, mean_of
from tests.stages.extracted_sets import ContextWith, checkpoint, extracted, labelled, no_tick, noise, outputs
from tests.stages.extracted_sets import stored_network as store_a_network

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT, UNITS = 40, 5
Parts = Mapping[str, Callable[[slice], Tensor]]


class Read(NamedTuple):
    """The inputs of a split, and how many rows of each were read."""

    parts: Parts
    rows: Counter[str]


def split(*names: str, seed: int = 0) -> Read:
    rows: Counter[str] = Counter()
    random = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(COUNT, UNITS, generator=random) for name in ("features", "logits", "maps")}
    drawn["labels"] = torch.arange(COUNT) % 4

    def reader(name: str) -> Callable[[slice], Tensor]:
        def read(where: slice) -> Tensor:
            rows[name] += len(drawn[name][where])
            return drawn[name][where].clone()

        return read

    return Read({name: reader(name) for name in names}, rows)


def batch(shared: SharedResults, read: Read, images: str = "split", owner: str = "one") -> Batch:
    return Batch(COUNT, read.parts, owner, once=shared.of(images, COUNT, read.parts, owner))


def test_a_function_is_called_once_for_the_same_images_and_settings() -> None:
    shared, read = SharedResults(), split("features")
    first, second = (batch(shared, read, owner=owner) for owner in ("one", "two"))
    mean = first.once(mean_of)
    assert torch.equal(mean, mean_of(Batch(COUNT, split("features").parts, "alone")))
    assert read.rows["features"] == COUNT
    assert torch.equal(second.once(mean_of), mean)
    assert read.rows["features"] == COUNT
    spread = second.once(covariance, mean)
    assert read.rows["features"] == 2 * COUNT
    assert torch.equal(first.once(covariance, mean.clone()), spread)
    assert read.rows["features"] == 2 * COUNT


def plain(train: Batch, centre: Tensor) -> Tensor:
    return covariance(train, centre)


@pytest.mark.parametrize("change", ["images", "function", "value", "type"])
def test_other_images_functions_and_settings_are_other_results(change: str) -> None:
    shared, read = SharedResults(), split("features")
    centre = torch.zeros(UNITS, dtype=torch.float64)
    batch(shared, read).once(plain, centre)
    images, settings = "split", centre
    function: Callable[..., Tensor] = plain
    if change == "images":
        images, read = "another", split("features", seed=1)
    elif change == "function":
        function = covariance
    elif change == "value":
        settings = centre + 1
    else:
        settings = centre.float()
    read.rows.clear()
    found = batch(shared, read, images).once(function, settings)
    assert read.rows["features"] == COUNT
    seed = 1 if change == "images" else 0
    assert torch.equal(found, covariance(Batch(COUNT, split("features", seed=seed).parts, "alone"), settings))


def test_every_detector_has_a_copy() -> None:
    shared, read = SharedResults(), split("features")
    mean = batch(shared, read).once(mean_of)
    expected = mean.clone()
    mean.zero_()
    found = batch(shared, read).once(mean_of)
    assert torch.equal(found, expected)
    found.zero_()
    assert torch.equal(batch(shared, read).once(mean_of), expected)


def counts(train: Batch) -> tuple[Tensor, float]:
    return torch.bincount(train.labels), float(train.logits.sum())


def test_a_result_is_no_way_to_inputs_that_are_not_declared() -> None:
    shared = SharedResults()
    batch(shared, split("logits", "labels")).once(counts)
    numbers, total = batch(shared, split("features", "logits", "labels")).once(counts)
    assert numbers.tolist() == [10, 10, 10, 10]
    assert isinstance(total, float)
    with pytest.raises(UndeclaredInputError, match="Detector 'two' asked for 'logits', which it does not declare"):
        batch(shared, split("features", "labels"), owner="two").once(counts)


def largest_map(train: Batch) -> Tensor:
    return train.maps.amax(dim=0)


def test_what_depends_on_the_detector_is_not_kept() -> None:
    shared, read = SharedResults(), split("features", "maps")
    for times in (1, 2):
        batch(shared, read).once(largest_map)
        assert read.rows["maps"] == times * COUNT


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, read = SharedResults(limit=3 * 8 * UNITS), split("features")
    centres = [torch.full((UNITS,), float(k), dtype=torch.float64) for k in range(3)]

    def calls(number: int) -> int:
        """How often the features are read for one of three results."""
        read.rows.clear()
        batch(shared, read).once(row_of_covariance, centres[number])
        return read.rows["features"] // COUNT

    assert [calls(number) for number in (0, 1, 2, 0, 1, 2)] == [1, 1, 1, 0, 0, 0]
    assert batch(shared, read).once(mean_of).shape == (UNITS,)  # drops the one that was not used for longest, 0
    assert [calls(number) for number in (1, 2, 0)] == [0, 0, 1]
    read.rows.clear()
    for _ in range(2):
        batch(shared, read).once(covariance, centres[0])  # 5 x 5: more than the limit
    assert read.rows["features"] == 2 * COUNT
    monkeypatch.setattr(shared_results, "HELD", 1)
    assert [calls(number) for number in (2, 2, 1, 1, 2)] == [0, 0, 1, 0, 1]


def scaled_mean(train: Batch, factors: list[float]) -> Tensor:
    return mean_of(train) * torch.tensor(factors)


def test_settings_without_a_hash_are_accepted() -> None:
    shared, read = SharedResults(), split("features")
    found = [batch(shared, read).once(scaled_mean, [1.0] * 5) for _ in range(2)]
    assert torch.equal(found[0], mean_of(Batch(COUNT, read.parts, "alone")))
    assert torch.equal(found[0], found[1])


def row_of_covariance(train: Batch, centre: Tensor) -> Tensor:
    return covariance(train, centre)[0]


def test_outside_of_a_run_functions_are_simply_called() -> None:
    read = split("features")
    alone = Batch(COUNT, read.parts, "alone")
    assert torch.equal(alone.once(mean_of), alone.once(mean_of))
    assert read.rows["features"] == 2 * COUNT


# In a run

DETECTORS = (
    *("mahalanobis", "relative_mahalanobis", "gmm", "residual", "vim", "neco", "fdbd", "nci", "dice"),
    *("mahalanobis_pp", "rmds_pp", "ssd", "kpca", "pnml"),
)


def fitted(context: JobContext, name: str) -> bytes:
    """What a detector learned, as stored; the record beside it says how long that took."""
    key = Key("fit", ".safetensors", name, {"context": str(id(context))})
    train, validation = (outputs(part, 60) for part in ("train", "validation"))
    given: dict[str, Any] = {"title": "", "makes": (key,), "checkpoint": checkpoint(), "outliers": None, "seed": 0}
    fit(context, FitJob(detector=name, train=train, validation=validation, **given), no_tick)
    return context.store.require(key).read_bytes()


@pytest.fixture
def stored(context_with: ContextWith) -> Callable[[], JobContext]:
    """Makes job contexts of one store with outputs of a training split and a validation split."""

    def make() -> JobContext:
        context = context_with({name: labelled(noise(60, k)) for k, name in enumerate(("train", "validation"))})
        if not context.store.has(checkpoint().key):
            store_a_network(context)
            for name in ("train", "validation"):
                extracted(context, name)
        return context

    return make


def test_detectors_learn_the_same_bytes_alone_and_together(
    stored: Callable[[], JobContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {name: fitted(stored(), name) for name in DETECTORS}
    products = Counter[str]()

    def count(module: ModuleType, name: str) -> None:
        function = getattr(module, name)

        def counted(*given: Any) -> Any:
            products[name] += 1
            return function(*given)

        monkeypatch.setattr(module, name, counted)

    count(_gaussian, "centred_blocks")
    count(_moments, "moments")
    count(torch.linalg, "eigh")
    for order in (DETECTORS, DETECTORS[::-1]):
        together = stored()
        products.clear()
        assert {name: fitted(together, name) for name in order} == alone
        # of features and of directions within classes, and of gmm's classes
        assert products["centred_blocks"] == 3
        assert products["moments"] == 0  # covariances of all images follow from those within classes
        # of features within classes, about their mean, about ViM's origin, and standardised by NECO; of directions
        # within classes, about their mean, about 0
        assert products["eigh"] == 4 + 3


def test_features_are_hashed_once_for_all_banks(
    stored: Callable[[], JobContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, calls = stored(), Counter[int]()
    hashes_of = _similarity.hashes_of

    def counted(train: Batch, seed: int) -> Tensor:
        calls[seed] += 1
        return hashes_of(train, seed)

    monkeypatch.setattr(_similarity, "hashes_of", counted)
    detectors = [
        create("detector", parse_spec(spec))
        for spec in ("knn[fraction=0.5]", "knn[fraction=0.2]", "nnguide[fraction=0.5]", "knn[fraction=0.5,bank_seed=3]")
    ]
    half, fifth, same, other = (bank_rows(context, one, outputs("train", 60)) for one in detectors)
    assert calls == {0: 1, 3: 1}
    assert torch.equal(half, same)
    assert set(fifth.tolist()) < set(half.tolist())
    assert len(half) == len(other)
    assert not torch.equal(half, other)


def test_every_detector_counts_the_seconds_of_what_it_shares(stored: Callable[[], JobContext]) -> None:
    context = stored()
    held = context.shared_results._held

    def seconds(name: str) -> float:
        fitted(context, name)
        return float(context.store.about(Key("fit", ".safetensors", name, {"context": str(id(context))}))["seconds"])

    assert seconds("fdbd") < 1000
    assert all(0 < result.seconds < 1000 for result in held.values())
    held.update({key: result._replace(seconds=1000.0) for key, result in held.items()})
    assert 1000 <= seconds("nci") < 2000
    assert seconds("ssd") < 1000  # shares nothing with them
