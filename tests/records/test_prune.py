"""Pruning: what a cache keeps for runs and interrupted trainings, and what is deleted."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.prune import KEPT_DAYS, prune
from oodbench.benchmark.records.record import read_record, write_record
from oodbench.benchmark.records.run import write_run_info
from oodbench.benchmark.records.unused_outputs import KEPT_SECONDS, unused_outputs
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.store import Key, Store
from tests.support import artifact_files, bench, leave_killed, prepare_suite, write_suite

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)

MATRIX = """
[[id]]
set = "digits[0-3]"
outliers = "glyphs"
ood = [{ set = "digits[4-5]" }]
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder as after a run with a recipe that is based on another: all artifacts, and the records."""
    results = tmp_path / "results"
    prepared = prepare_suite(write_suite(tmp_path, MATRIX), "gan_confidence,energy")
    store = Store(results / "cache")
    for job in prepared.plan.jobs.values():
        for key in job.makes:
            store.save_array(key, ARRAY, {})
            if key.kind == "checkpoint":
                store.extra(key, ".losses.csv").write_text("epoch\n")
                (store.extra(key, ".tensorboard") / "events").mkdir(parents=True)
                (store.extra(key, ".tensorboard") / "events" / "x").write_text("")
    for cell in prepared.plan.cells:
        assert cell.id_scores is not None
        assert cell.ood_scores is not None
        assert cell.checkpoint is not None
        keys = {"id_scores": cell.id_scores, "ood_scores": cell.ood_scores, "checkpoint": cell.checkpoint.key}
        paths = {name: key.path for name, key in keys.items()}
        write_record(results / "runs" / "tiny", replace(cell.record, artifacts=paths))
    return results


def test_prune_keeps_what_records_depend_on(results: Path) -> None:
    before = artifact_files(results)
    kinds = {name.split("/")[1] for name in before if name.startswith("cache/")}
    assert kinds == {"checkpoint", "logits", "features", "scores"}
    assert sum(name.startswith("cache/checkpoint/gan-") for name in before) == 4, "the GAN for the recipe"
    assert prune(results) == (0, 0)
    assert artifact_files(results) == before


def test_prune_deletes_what_no_record_depends_on(results: Path) -> None:
    before = artifact_files(results)
    store = Store(results / "cache")
    store.save_array(Key("scores", ".npy", "an array", {"made of": 1}), ARRAY, {})
    unused = ["checkpoint/old.safetensors", "damaged/x.npy.0", "scores/.half.tmp", "scores/alone.npy.json"]
    for name in unused:
        path = results / "cache" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    more = sorted(set(artifact_files(results)) - set(before))
    size = sum((results / name).stat().st_size for name in more)
    assert len(more) == 6
    assert prune(results, dry_run=True) == (size, 6)
    assert sorted(set(artifact_files(results)) - set(before)) == more, "a dry run deletes nothing"
    assert prune(results) == (size, 6)
    assert artifact_files(results) == before
    assert prune(results) == (0, 0)


def test_prune_deletes_what_only_deleted_records_used(results: Path) -> None:
    records = list((results / "runs" / "tiny" / "cells").iterdir())
    for path in records:
        if read_record(path).detector == "gan_confidence":
            path.unlink()
    prune(results)
    left = artifact_files(results / "cache")
    assert not [name for name in left if "gan" in name]
    assert len([name for name in left if name.startswith("checkpoint/cross_entropy")]) == 4
    for path in records:
        path.unlink(missing_ok=True)
    prune(results)
    assert artifact_files(results / "cache") == []


def test_prune_of_an_empty_or_missing_folder(tmp_path: Path) -> None:
    assert prune(tmp_path) == (0, 0)
    with pytest.raises(UserError, match=r"results folder '.*absent' does not exist"):
        prune(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_nothing_is_pruned_while_a_process_is_working(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    left = leave_killed(cache)[:2]
    message = r"^Nothing was deleted, because process-.* is working in '.*cache'\."
    with Locks(cache).present(), pytest.raises(UserError, match=message):
        prune(tmp_path)
    left = leave_killed(cache)[:2]
    assert prune(tmp_path, dry_run=True) == (0, 2)
    assert all(path.exists() for path in left)
    assert prune(tmp_path) == (0, 2)
    assert not (cache / ".pass-abc").exists()


@pytest.mark.parametrize("days, kept", [(-400, True), (KEPT_DAYS - 1, True), (KEPT_DAYS + 1, False)])
def test_interrupted_trainings_are_kept_for_a_while(tmp_path: Path, days: int, kept: bool, logged: list[str]) -> None:
    path = tmp_path / "cache/unfinished/joint-0123456789ab.safetensors"
    path.parent.mkdir(parents=True)
    path.write_text("12345")
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    assert prune(tmp_path) == ((0, 0) if kept else (5, 1))
    assert path.exists() is kept
    message = f"Kept '{path}': an interrupted training, resumable for {KEPT_DAYS} days after its last snapshot."
    assert logged == ([message] if kept else [])


# Outputs of networks in memory


def give(results: Path, name: str, age: float = 2 * KEPT_SECONDS) -> Path:
    """A folder of outputs of 10 bytes, last changed so many seconds ago."""
    folder = results / "outputs" / name
    (folder / "ood").mkdir(parents=True)
    for file in ("outputs.toml", "ood/svhn.npz"):
        (folder / file).write_bytes(b"12345")
    when = time.time() - age
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (when, when))
    return folder


def test_outputs_that_no_run_names_are_deleted(results: Path) -> None:
    used, unused, fresh = (give(results, f"net-{n:012x}", age) for n, age in ((1, 1e6), (2, 1e6), (3, 60.0)))
    own = give(results, "my-own-outputs")
    seeds = give(results, "net-00000000000a/seed0").parent
    os.utime(seeds, (0, 0))
    write_run_info(results / "runs" / "tiny", {"commands": [{"outputs": [str(used), f"{seeds}/seed0"]}]})
    assert unused_outputs(results) == [unused]
    assert prune(results, dry_run=True) == (10, 2)
    said = bench("cache", "prune", "--dry-run", "--results", results).output
    assert said.startswith("Would delete 2 files, 0.0 MB")
    assert f"among them the outputs in {unused}, 0.0 MB, which no run names" in said
    assert unused.is_dir()
    assert prune(results) == (10, 2)
    assert [folder.is_dir() for folder in (used, unused, fresh, own, seeds)] == [True, False, True, True, True]
    assert prune(results) == (0, 0)


def test_outputs_are_deleted_where_there_is_no_cache(tmp_path: Path) -> None:
    unused = give(tmp_path, "net-00000000000b")
    assert prune(tmp_path) == (10, 2)
    assert not unused.exists()
