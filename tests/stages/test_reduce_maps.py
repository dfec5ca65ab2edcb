"""Reductions of feature maps in the shared pass: forward counts, stored arrays, remaining work, and failures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone, Batch, Detector
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.backbones.small_cnn import SmallCNN, SmallCNNNetwork
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan import job_builder
from oodbench.benchmark.plan.jobs import ExtractJob, ReduceMapsJob
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.records.prune import prune
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.runner.runner import run_plan
from oodbench.benchmark.stages.pass_arrays import GrowingArray
from oodbench.benchmark.store.store import Key
from tests.stages.planted_sets import PLANTED_MATRIX, PLANTED_TRAINING, register_planted
from tests.support import prepare_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread", "small_blocks")

Register = Callable[[str, type[Plugin]], None]
TEST, TRAIN, VALIDATION = 24, 36, 4  # a tenth of 40 training images is for validation
OUTLIERS = 40


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sets of few images span more than one block."""
    monkeypatch.setattr(job_builder, "block_of", lambda *_: 16)


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare_planted(tmp_path: Path, register: Register) -> Prepare:
    register_planted(register, (3, 16, 16))
    write_suite(tmp_path, PLANTED_MATRIX, name="planted", training=PLANTED_TRAINING)

    def make(*detectors: str, suite: str = "planted", **options: Any) -> Prepared:
        return prepare_suite(tmp_path / f"{suite}.toml", detectors, **{"device": "cpu", "name": "run", **options})

    return make


def done(made: Prepared) -> StoredRun:
    return run_plan(made.plan, made.work, made.context, made.run_dir, made.asked, Quiet())


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every image that a classifier in evaluation mode is shown, padding left out."""
    seen: list[bytes] = []
    original = SmallCNNNetwork.features

    def features(self: SmallCNNNetwork, images: Tensor) -> Tensor:
        if not self.training:
            shown = images.detach()
            seen.extend((255 * image).round().byte().numpy().tobytes() for image in shown if image.any())
        return original(self, images)

    monkeypatch.setattr(SmallCNNNetwork, "features", features)
    return seen


def images_of(made: Prepared, parts: Sequence[tuple[str, str]]) -> Counter[bytes]:
    from oodbench.benchmark.plugins.specs import parse_set

    sets = [made.context.library.part(parse_set(name), part).images for name, part in parts]
    return Counter(image.tobytes() for images in sets for image in images)


FITTED = [("planted", "train"), ("planted", "validation")]
SCORED = [("planted", "test"), ("planted-near", "test"), ("planted-far", "test")]


def test_all_detectors_share_one_pass(prepare_planted: Prepare, passed: list[bytes]) -> None:
    made = prepare_planted("msp", "knn[k=5]", "gram", "mahalanobis_ensemble[epsilon=0,validation=outliers]")
    run = done(made)
    assert {record.status for record in run.records} == {"ok"}
    expected = images_of(made, [*FITTED, *SCORED, ("planted-outliers", "outliers")])
    assert Counter(passed) == expected
    assert set(expected.values()) == {1}
    assert sum(record.forward_images for record in run.records) == len(passed)
    assert all(record.metrics for record in run.records)


@pytest.mark.parametrize("name", ["mahalanobis_ensemble", "mahalanobis_ensemble[epsilon=0.01]", "rankfeat", "gram"])
def test_forward_images_are_those_that_are_forwarded(prepare_planted: Prepare, passed: list[bytes], name: str) -> None:
    made = prepare_planted("msp", name)
    run = done(made)
    assert {record.status for record in run.records} == {"ok"}
    assert sum(record.forward_images for record in run.records) == len(passed)


def stored_arrays(made: Prepared, kind: str) -> dict[str, bytes]:
    folder = made.context.store.root / kind
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))} if folder.is_dir() else {}


def stamps(made: Prepared) -> dict[str, int]:
    root = made.context.store.root
    return {p.name: p.stat().st_mtime_ns for kind in ("logits", "features") for p in (root / kind).glob("*.npy")}


def test_a_map_detector_added_later_costs_one_pass_and_rewrites_nothing(
    prepare_planted: Prepare, passed: list[bytes]
) -> None:
    first = prepare_planted("msp", "knn[k=5]")
    done(first)
    before = stamps(first)
    passed.clear()
    added = prepare_planted("msp", "knn[k=5]", "gram")
    done(added)
    assert Counter(passed) == images_of(added, [*FITTED, *SCORED])
    assert stamps(added) == before
    passed.clear()
    run = done(prepare_planted("msp", "knn[k=5]", "gram", "energy", "cosine"))
    assert {record.status for record in run.records} == {"ok"}
    assert not passed


def test_scores_do_not_depend_on_which_other_detectors_run_or_when(prepare_planted: Prepare, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    done(prepare_planted("msp", "mahalanobis", results=one))
    late = prepare_planted("gram", "mahalanobis_ensemble", results=one)
    together = prepare_planted("gram", "mahalanobis_ensemble", "mahalanobis", "msp", results=two)
    done(late)
    done(together)
    for kind in ("logits", "features", "maps", "scores"):
        assert stored_arrays(late, kind) == stored_arrays(together, kind)


def test_only_what_cells_need_remains_to_be_done(prepare_planted: Prepare) -> None:
    made = prepare_planted("msp", "gram")
    done(made)
    reductions = [job for job in made.plan.jobs.values() if isinstance(job, ReduceMapsJob)]
    assert sorted(job.learns for job in reductions) == [False] * 4 + [True]
    for path in (made.context.store.root / "maps").iterdir():
        path.unlink()
    assert prepare_planted("msp", "gram").work.jobs == []  # no cell needs them any more
    for path in (made.context.store.root / "scores").glob("msp--*near*"):
        path.unlink()
    (score,) = prepare_planted("msp", "gram").work.jobs
    assert score.kind == "score"
    for path in (made.context.store.root / "logits").glob("*near*"):
        path.unlink()
    extract, score = prepare_planted("msp", "gram").work.jobs
    assert isinstance(extract, ExtractJob)
    assert (extract.reductions, extract.stored, score.kind) == ((), False, "score")
    assert len(done(prepare_planted("msp", "gram")).records) == 4


def test_a_pass_only_for_reductions_waits_for_what_they_need(prepare_planted: Prepare) -> None:
    done(prepare_planted("msp"))
    jobs = prepare_planted("msp", "gram").work.jobs
    kinds = [(job.kind, job.data.part if isinstance(job, ReduceMapsJob) else "") for job in jobs]
    passes = {job.outputs.data.part: place for place, job in enumerate(jobs) if isinstance(job, ExtractJob)}
    learned = kinds.index(("reduce", "train"))
    assert passes["train"] < learned < passes["validation"]
    assert learned < min(place for place, job in enumerate(jobs) if getattr(job, "stored", False))
    stored = {
        job.outputs.data.set: job.stored for job in jobs if isinstance(job, ExtractJob) and not job.reductions[0].learns
    }
    assert stored == {"planted": True, "planted-near": True, "planted-far": True}


class Means(Detector):
    """Channel means of the last block, against those of training."""

    version = "1"
    needs = frozenset({"maps"})

    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        assert [len(block) for block in maps] == [len(labels)] * 3
        assert len(features) == len(logits) == len(labels) <= 16
        self.count_ = self.__dict__.get("count_", 0) + len(labels)

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        assert self.count_ == TRAIN
        return maps[-1].mean(dim=(2, 3))

    def score(self, batch: Batch) -> Tensor:
        assert self.count_ == TRAIN
        return batch.maps.sum(dim=1)


def test_what_is_observed_reaches_reduce_and_a_score_without_fit(prepare_planted: Prepare, register: Register) -> None:
    register("means", Means)
    run = done(prepare_planted("means"))
    assert {record.status for record in run.records} == {"ok"}


def broken(register: Register, where: str, raised: BaseException, after: int = 0) -> None:
    calls = []

    def fail(self: Detector, *inputs: Any) -> Tensor:
        calls.append(1)
        if len(calls) > after:
            raise raised
        return torch.zeros(len(inputs[1]), 2)

    register("broken", type("Broken", (Means,), {where: fail, "__module__": __name__, "version": "1"}))


@pytest.mark.parametrize("where", ["observe", "reduce"])
def test_a_detector_that_fails_in_the_pass_fails_alone(
    prepare_planted: Prepare, register: Register, where: str
) -> None:
    broken(register, where, ValueError("no such map"))
    run = done(prepare_planted("broken", "msp", "gram"))
    status = {(record.label, record.status) for record in run.records}
    assert status == {("broken", "failed"), ("msp", "ok"), ("gram", "ok")}
    assert all("ValueError: no such map" in r.reason for r in run.records if r.status == "failed")
    assert prepare_planted("broken", "msp", "gram").work.jobs == []
    assert all(
        isinstance(job, ExtractJob | ReduceMapsJob) or job.kind == "score"
        for job in prepare_planted("broken", rerun="failed").work.jobs
    )


@pytest.mark.parametrize(
    ("reduced", "message"),
    [
        (torch.zeros(3), r"reduces the maps of 16 images to \(3,\); reduce\(\) must return \(16, M\)"),
        (None, r"reduces the maps of 16 images to NoneType"),
        (torch.full((16, 1), torch.nan), "reduces maps to NaN or infinite values"),
    ],
)
def test_invalid_reductions_are_refused(
    prepare_planted: Prepare, register: Register, reduced: Any, message: str
) -> None:
    body = {"reduce": lambda self, *inputs: reduced, "__module__": __name__, "version": "1"}
    register("strange", type("Strange", (Means,), body))
    records = done(prepare_planted("strange", "msp")).records
    failed = [record.reason for record in records if record.status == "failed"]
    assert len(failed) == 2
    assert all(re.search(message, reason) for reason in failed)


def test_an_interrupted_pass_leaves_nothing(prepare_planted: Prepare, register: Register) -> None:
    broken(register, "reduce", KeyboardInterrupt(), after=1)
    made = prepare_planted("broken", "msp")
    with pytest.raises(KeyboardInterrupt):
        done(made)
    left = [path.relative_to(made.context.store.root).as_posix() for path in made.context.store.root.rglob("*")]
    assert not [path for path in left if path.startswith(("maps", ".pass")) or ".tmp" in path]
    assert [path for path in left if path.startswith("observed/")]  # the training pass was complete
    finished = done(prepare_planted("msp", "gram"))
    assert {record.status for record in finished.records} == {"ok"}


def test_rows_are_written_block_by_block_and_read_as_numpy_writes_them(
    prepare_planted: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: dict[str, list[int]] = {}
    original = GrowingArray.add

    def add(self: GrowingArray, rows: np.ndarray) -> None:
        pieces.setdefault(self.path.name, []).append(len(rows))
        size = self.path.stat().st_size if self.path.exists() else 0
        original(self, rows)
        assert self.path.stat().st_size >= size + rows.nbytes

    monkeypatch.setattr(GrowingArray, "add", add)
    made = prepare_planted("gram", "mahalanobis_ensemble", "msp")
    done(made)
    assert max(max(sizes) for sizes in pieces.values()) == 16
    assert len(pieces) == 2 + 4 + 5  # logits, features; gram of all but train; the ensemble of all
    for kind in ("logits", "features", "maps"):
        for path in (made.context.store.root / kind).glob("*.npy"):
            np.save(tmp_path / "again.npy", np.load(path))
            assert path.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_incomplete_rows_are_not_stored(prepare_planted: Prepare, tmp_path: Path) -> None:
    context = prepare_planted("msp").context
    rows, key = GrowingArray(tmp_path / "rows.npy", 3), Key("maps", ".npy", "x", {"x": 1})
    rows.add(np.ones((2, 4)))
    with pytest.raises(AssertionError, match="2 of 3 rows"):
        rows.save(context, key, {})
    assert context.store.find(key) is None


def test_settings_that_do_not_affect_reduce_share_its_result(prepare_planted: Prepare, passed: list[bytes]) -> None:
    made = prepare_planted(
        "mahalanobis_ensemble", "mahalanobis_ensemble[cutoff=0.01]", "mahalanobis_ensemble[epsilon=0.01]"
    )
    assert {record.status for record in done(made).records} == {"ok"}
    assert len(stored_arrays(made, "maps")) == 5
    two = prepare_planted("gram", "gram[powers=2]")
    assert {record.status for record in done(two).records} == {"ok"}
    assert len(stored_arrays(two, "maps")) == 5 + 2 * 4


def test_settings_chosen_on_held_out_data_share_reductions(prepare_planted: Prepare, passed: list[bytes]) -> None:
    made = prepare_planted("mahalanobis_ensemble", protocol="val_ood")
    run = done(made)
    assert {record.status for record in run.records} == {"ok"}
    assert all("epsilon" in record.tuned["settings"] or not record.tuned["settings"] for record in run.records)
    assert len(stored_arrays(made, "maps")) == 6
    assert len(passed) == sum(record.forward_images for record in run.records)


def test_pruning_keeps_what_a_run_is_made_from(prepare_planted: Prepare, tmp_path: Path) -> None:
    made = prepare_planted("gram", "mahalanobis_ensemble")
    done(made)
    before = {kind: stored_arrays(made, kind) for kind in ("maps", "scores", "logits")}
    observed = list((made.context.store.root / "observed").iterdir())
    prune(tmp_path / "results")
    assert {kind: stored_arrays(made, kind) for kind in before} == before
    assert all(path.exists() for path in observed)


class Blockless(Backbone):
    """Does not declare its blocks."""

    version = "1"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        return SmallCNN(width=2, hidden=4).build(num_classes, image_shape)


def test_a_backbone_without_blocks_is_skipped_with_the_reason(prepare_planted: Prepare, register: Register) -> None:
    register("blockless", Blockless)
    plan = prepare_planted("all", "msp", backbone="blockless").plan
    reason = "it looks at the maps of blocks, and backbone 'blockless' names none"
    for name in ("gram", "rankfeat", "mahalanobis_ensemble"):
        assert (name, reason) in plan.skipped
    with pytest.raises(UserError, match=r"Detector 'gram' cannot run: .* names none"):
        prepare_planted("gram", "msp", backbone="blockless")


def test_detectors_fitted_on_outliers_are_marked_as_seen_on_their_distribution(
    prepare_planted: Prepare, tmp_path: Path
) -> None:
    near, same = '{ set = "planted-near", group = "near" }', '{ set = "planted-outliers" }'
    write_suite(tmp_path, PLANTED_MATRIX.replace(near, same), name="seen", training=PLANTED_TRAINING)
    made = prepare_planted("mahalanobis_ensemble[validation=outliers]", "mahalanobis_ensemble", suite="seen")
    seen = {(cell.record.ood_set, cell.record.label) for cell in made.plan.cells if cell.record.seen}
    assert seen == {("planted-outliers", "mahalanobis_ensemble[validation=outliers]")}
