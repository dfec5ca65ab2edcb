"""The bank of training images: its similarities, their one product for all detectors, and the detectors' scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, FitData
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.plan.jobs import FitJob, ScoreJob
from oodbench.benchmark.plugins import training_bank
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.neighbours.largest import GROUP, largest
from oodbench.benchmark.plugins.training_bank import SharedBlock, TrainingBank
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.runner.earlier_cells import NONE
from oodbench.benchmark.runner.runner import run_plan
from oodbench.detectors.knn import CLOSE
from tests.detectors.feature_world import FeatureWorld
from tests.support import prepare_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")

Register = Callable[[str, type[Plugin]], None]


def random_features(images: int, units: int = 7, seed: int = 0) -> np.ndarray:
    features: np.ndarray = abs(np.random.RandomState(seed).randn(images, units)).astype(np.float32)
    return features


def cosines(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    a, b = features.astype(np.float64), others.astype(np.float64)
    table: np.ndarray = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    return table


# The product


@pytest.mark.parametrize("rows", [None, [3, 4, 90, 199]])
def test_similarities_are_cosines(rows: list[int] | None) -> None:
    features, others = random_features(5), random_features(200, seed=1)
    bank = TrainingBank(others, None if rows is None else torch.tensor(rows))
    expected = cosines(features, others if rows is None else others[rows])
    single, double = (bank.similarities(torch.from_numpy(features), kind) for kind in (torch.float32, torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert single.numpy() == pytest.approx(expected, abs=2e-7)
    assert double.numpy() == pytest.approx(expected, abs=1e-14)
    assert len(bank) == expected.shape[1]
    assert np.array_equal(bank.features(torch.tensor([2, 0])), others[[90, 3]] if rows else others[[2, 0]])


def test_a_bank_that_is_not_held_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training_bank, "PIECE", 64)
    halves = random_features(300).astype(np.float16)
    np.save(tmp_path / "features.npy", halves)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    features = torch.from_numpy(random_features(9, seed=1))
    held = TrainingBank(halves).similarities(features)
    monkeypatch.setattr(training_bank, "HELD", 0)
    assert torch.equal(TrainingBank(mapped).similarities(features), held)
    assert held.numpy() == pytest.approx(cosines(features.numpy(), halves), abs=2e-7)


def test_a_feature_that_is_all_zero_is_similar_to_nothing() -> None:
    table = TrainingBank(np.eye(3, dtype=np.float32)).similarities(torch.tensor([[0.0, 0, 0], [0, 2, 0]]))
    assert table.tolist() == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    "images, dims, block",
    [
        (1, 2, 1024),
        (10_000, 512, 419),  # 16 MB of similarities
        (45_000, 512, 256),
        (1_281_167, 64, 104),  # 512 MB of similarities
        (300_000, 2048, 447),  # too large to be held: as many as 512 MB allow
        (1_281_167, 2048, 104),
    ],
)
def test_only_the_bank_decides_how_many_images_a_block_has(images: int, dims: int, block: int) -> None:
    bank = TrainingBank(np.empty((0, dims), dtype=np.float32))
    bank._rows = torch.empty(images, dtype=torch.int8)
    assert bank.block == block


def test_what_is_shared_is_made_once_and_again_for_who_comes_after_a_change() -> None:
    asked: list[slice] = []

    def make(rows: slice) -> Tensor:
        asked.append(rows)
        return torch.arange(rows.start, rows.stop)

    shared, first = SharedBlock(make), slice(0, 4)
    one = shared(first)
    assert shared(first) is one
    one += 1
    assert shared(first).tolist() == [0, 1, 2, 3]
    assert shared(slice(1, 3)).tolist() == [1, 2]
    assert asked == [first, first]
    shared(slice(4, 6))
    assert asked == [first, first, slice(4, 6)]
    shared(slice(5, 7))
    assert asked[3:] == [slice(5, 7)]


def test_rows_of_a_block_that_are_changed_are_made_again() -> None:
    shared = SharedBlock(lambda rows: torch.zeros(rows.stop - rows.start))
    shared(slice(0, 4))
    with torch.inference_mode():
        part = shared(slice(0, 2))
        part += 1
        assert shared(slice(0, 4)).tolist() == [0, 0, 0, 0]


# The detectors' scores


@pytest.mark.parametrize("columns", [1, 5 * GROUP, 8 * GROUP + 3, 40 * GROUP + 31])
@pytest.mark.parametrize("k", [1, 4, 19])
@pytest.mark.parametrize("values", [3, 10**6])
def test_the_largest_are_those_of_a_sort(columns: int, k: int, values: int) -> None:
    table = torch.from_numpy(np.random.RandomState(0).randint(values, size=(6, columns))).float()
    k = min(k, columns)
    found, places = largest(table, k)
    assert torch.equal(found, table.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(table.gather(1, places), found)
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("spread", [1e-5, 1e-3])
def test_neighbours_too_near_for_float32_are_ordered_in_float64(spread: float) -> None:
    world = FeatureWorld()
    random = np.random.RandomState(0)
    world.features = (world.features[:1] * (1 + spread * random.randn(42, 5))).astype(np.float32)
    world.test = world.features[:9] * np.float32(1 + spread * random.randn(9, 5))
    a, b = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (world.test.astype(float), world.features.astype(float))
    )
    distances = np.sort([[np.linalg.norm(p - q) for q in b] for p in a], axis=1)
    assert distances.max() < CLOSE
    for k in (1, 7, 42):
        assert world.score("knn", k=k) == pytest.approx(distances[:, k - 1], rel=1e-6)


# In a run

MATRIX = """
[[id]]
set = "digits[0-3]"
ood = [{ set = "greek" }, { set = "uniform" }]
"""
BACKBONE = "small_cnn[width=2,hidden=8]"
THREE = ("knn", "nnguide[k=3]", "relation")


class Spoils(Detector):
    """Changes the shared similarities after reading them."""

    version = "1"
    needs = frozenset({"similarities"})

    def score(self, batch: Batch) -> Tensor:
        """Mean dissimilarity."""
        found = -batch.similarities.mean(dim=1)
        batch.similarities.zero_()
        return found


class Fails(Spoils):
    """Raises an error in one of its methods."""

    where: str = ""

    def bank_rows(self, train: Batch) -> Tensor | None:
        """All training images, or an error once fitted."""
        if self.where == "bank" and hasattr(self, "fitted_"):
            raise ValueError("no bank")
        return None

    def fit(self, classifier: Any, data: FitData) -> None:
        """Learns nothing, or raises."""
        if self.where == "fit":
            raise ValueError("no fit")
        self.fitted_ = True

    def score(self, batch: Batch) -> Tensor:
        """Mean similarity, or an error."""
        if self.where == "score":
            raise ValueError("no score")
        return batch.similarities.mean(dim=1)


class Draws(Spoils):
    """Draws random numbers."""

    def score(self, batch: Batch) -> Tensor:
        """Mean similarity and a little noise."""
        return batch.similarities.mean(dim=1) + 1e-6 * torch.rand(len(batch))


@pytest.fixture
def ran(tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run detectors on a small matrix; returns the bytes of their scores, or the reason why there are none."""
    for name, plugin in (("spoils", Spoils), ("fails", Fails), ("draws", Draws)):
        register(name, plugin)
    suite = write_suite(tmp_path, MATRIX, backbone=BACKBONE)
    monkeypatch.setattr(training_bank, "ENTRIES", 100_000)
    monkeypatch.setattr(training_bank, "FEWEST", 16)

    def run(*detectors: str) -> dict[str, Any]:
        for kind in ("fit", "scores"):  # to be computed again with the network of the first run
            shutil.rmtree(tmp_path / "cache" / kind, ignore_errors=True)
        prepared = prepare_suite(suite, detectors, results=tmp_path, device="cpu")
        done: StoredRun = run_plan(
            prepared.plan, prepared.work, prepared.context, prepared.run_dir, prepared.asked, Quiet(), NONE
        )
        store = prepared.context.store.root
        assert not prepared.context.scored
        return {
            f"{record.label} {record.ood_set}": record.reason
            or [(store / record.artifacts[part]).read_bytes() for part in ("id_scores", "ood_scores")]
            for record in done.records
        }

    return run


@pytest.mark.slow
def test_scores_are_the_same_bytes_alone_and_among_others(ran: Callable[..., dict[str, Any]]) -> None:
    together = ran(*THREE, "draws", "knn[fraction=0.5]")
    assert all(isinstance(found, list) for found in together.values())
    for name in (*THREE, "draws", "knn[fraction=0.5]"):
        alone = ran(name)
        assert alone == {cell: together[cell] for cell in alone}


def test_one_product_serves_all(ran: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = TrainingBank.similarities

    def counted(self: TrainingBank, features: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        sizes.append(len(features))
        return original(self, features, dtype)

    monkeypatch.setattr(TrainingBank, "similarities", counted)
    ran("relation")
    alone = sorted(sizes)
    sizes.clear()
    ran("relation", "nnguide[k=3]", "draws")
    assert sorted(sizes) == alone
    assert len(alone) > 6  # three sets, in several blocks


def test_who_spoils_or_fails_does_so_alone(ran: Callable[..., dict[str, Any]]) -> None:
    expected = ran("nnguide[k=3]", "relation")
    bad = [f"fails[where={where}]" for where in ("fit", "bank", "score")]
    found = ran(*bad[:1], "spoils", "nnguide[k=3]", *bad[1:], "relation")
    assert {cell: found[cell] for cell in expected} == expected
    for label, message in zip(bad, ("no fit", "no bank", "no score"), strict=True):
        assert message in found[f"{label} greek"]
    assert found["spoils greek"] == ran("spoils")["spoils greek"]


def test_jobs_that_share_a_product_follow_one_another_and_their_fits(tmp_path: Path) -> None:
    prepared = prepare_suite(write_suite(tmp_path, MATRIX, backbone=BACKBONE), ("knn", "msp", "nnguide"))
    jobs = prepared.work.jobs
    ids = [job.id for job in jobs]
    assert all(ids.index(other) < ids.index(job.id) for job in jobs for other in job.after if other in ids)
    sharing = [(place, job) for place, job in enumerate(jobs) if isinstance(job, ScoreJob) and job.bank]
    assert [len(job.others) for _, job in sharing] == [1, 0] * 3
    for (place, job), (after, other) in zip(sharing[::2], sharing[1::2], strict=True):
        assert after == place + 1
        assert job.others[0].id == other.id
        assert job.outputs.data == other.outputs.data
    assert sum(isinstance(job, FitJob) for job in jobs) == 2
