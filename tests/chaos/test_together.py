"""Several processes of `bench run` on one results folder: nothing lost, nothing doubled, nothing torn."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Nursery
    from tests.chaos.distributed import Tables

KILLED = -9


def artifacts(cache: Path) -> set[str]:
    """Every artifact of a store, by its path; each must be what its side file says."""
    found = set()
    for side in cache.rglob("*.json"):
        about = json.loads(side.read_text())
        if "digest" in about:
            path = side.with_name(side.name.removesuffix(".json"))
            assert hashlib.sha256(path.read_bytes()).hexdigest() == about["sha256"], path
            found.add(path.relative_to(cache).as_posix())
    return found


def work_together(nursery: Nursery, whole: Tables, results: str, count: int, kill: int = 0) -> None:
    """So many processes, of which one is killed at an event, if `kill` names one; then the same command again."""
    made = f"{results}.made"
    plans = [nursery.plan(results, made=made, kill=kill if number == 0 else 0) for number in range(count)]
    ended = nursery.together(plans)
    assert ended == [KILLED if kill else 0] + [0] * (count - 1), nursery.said(results)
    assert nursery.tables(results) == whole
    cache = nursery.folder / results / "cache"
    done = (nursery.folder / made).read_text().splitlines()
    assert len(done) == len(set(done)), "work was done twice"
    assert artifacts(cache) == artifacts(nursery.folder / "whole/cache")
    if not kill:
        assert set(done) == artifacts(cache)
    before = {path: (cache / path).stat().st_mtime_ns for path in artifacts(cache)}
    assert nursery.run(results) == 0
    assert {path: (cache / path).stat().st_mtime_ns for path in before} == before, "the next one has nothing to do"
    assert nursery.tables(results) == whole
    assert nursery.left_over(results) == []


def test_two_processes_share_the_work(nursery: Nursery, whole: Tables) -> None:
    work_together(nursery, whole, "two", 2)


@pytest.mark.slow
def test_eight_processes_share_the_work_five_times(nursery: Nursery, whole: Tables) -> None:
    for number in range(5):
        work_together(nursery, whole, f"eight{number}", 8)


@pytest.mark.slow
def test_a_process_that_is_killed_keeps_nobody_waiting(nursery: Nursery, whole: Tables) -> None:
    draw = random.Random(0)
    for number in range(5):
        work_together(nursery, whole, f"one_of_three_killed{number}", 3, kill=draw.randint(10, 100))


@pytest.mark.slow
def test_rerun_all_beside_a_plain_run(nursery: Nursery, whole: Tables) -> None:
    """Artifacts that are made anew are never missing or damaged for the one that reads them."""
    assert nursery.run("anew") == 0
    for _ in range(3):
        plans = [nursery.plan("anew", more=["--rerun", rerun]) for rerun in ("all", "all", "missing")]
        assert nursery.together(plans) == [0, 0, 0], nursery.said("anew")
    assert nursery.tables("anew") == whole
    assert nursery.left_over("anew") == []


@pytest.mark.slow
def test_processes_that_add_to_one_table(nursery: Nursery) -> None:
    detectors = ("msp", "energy", "knn[k=3]")
    assert nursery.together([nursery.plan("add", one, more=["--add"]) for one in detectors]) == [0, 0, 0]
    rows = csv.DictReader(io.StringIO((nursery.folder / "add/runs/tiny/records.csv").read_text()))
    assert {(row["detector"], row["ood_set"]) for row in rows} == {
        (detector.partition("[")[0], ood) for detector in detectors for ood in ("glyphs", "greek")
    }
