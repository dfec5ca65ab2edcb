"""Several processes of `bench run` on one results folder: nothing is lost, repeated or partly written."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import csv_rows, share

if TYPE_CHECKING:
    from tests.chaos.conftest import ForkServer
    from tests.chaos.distributed import Tables

KILLED = -9


def artifacts(cache: Path) -> set[str]:
    """The paths of a store's artifacts; each must match the checksum in its side file."""
    paths = set()
    for side in cache.rglob("*.json"):
        about = json.loads(side.read_text())
        if "digest" in about:
            path = side.with_name(side.name.removesuffix(".json"))
            assert hashlib.sha256(path.read_bytes()).hexdigest() == about["sha256"], path
            paths.add(path.relative_to(cache).as_posix())
    return paths


def work_together(fork_server: ForkServer, reference: Tables, results: str, count: int, kill: int = 0) -> None:
    """Run `count` processes, one of which is killed at event `kill` (0: none); then the same command again."""
    stored = f"{results}.artifacts"
    plans = [fork_server.plan(results, artifacts=stored, kill=kill if number == 0 else 0) for number in range(count)]
    codes = fork_server.together(plans)
    assert codes == [KILLED if kill else 0] + [0] * (count - 1), fork_server.output(results)
    assert fork_server.tables(results) == reference
    cache = fork_server.folder / results / "cache"
    done = (fork_server.folder / stored).read_text().splitlines()
    repeated = {path for path in done if done.count(path) > 1}
    # A pass stores features before logits: a process killed in between has not finished the job, which runs again.
    unfinished = {path for path in repeated if kill and path.startswith("features/")}
    assert repeated == unfinished, "work was done twice"
    assert len(unfinished) <= 1, "a killed process leaves one job unfinished"
    assert artifacts(cache) == artifacts(fork_server.folder / "reference/cache")
    if not kill:
        assert set(done) == artifacts(cache)
    before = {path: (cache / path).stat().st_mtime_ns for path in artifacts(cache)}
    assert fork_server.run(results) == 0
    assert {path: (cache / path).stat().st_mtime_ns for path in before} == before, "the next process has nothing to do"
    assert fork_server.tables(results) == reference
    assert fork_server.left_over(results) == []


def test_two_processes_share_the_work(fork_server: ForkServer, reference: Tables) -> None:
    work_together(fork_server, reference, "two", 2)


@pytest.mark.slow
def test_eight_processes_share_the_work(fork_server: ForkServer, reference: Tables) -> None:
    for number in share(range(8)):
        work_together(fork_server, reference, f"eight{number}", 8)


@pytest.mark.slow
def test_a_killed_process_does_not_block_the_others(fork_server: ForkServer, reference: Tables) -> None:
    draw = random.Random(0)
    for number, kill in share(enumerate(draw.randint(10, 100) for _ in range(8))):
        work_together(fork_server, reference, f"one_of_three_killed{number}", 3, kill=kill)


@pytest.mark.slow
def test_rerun_all_beside_a_plain_run(fork_server: ForkServer, reference: Tables) -> None:
    """Artifacts that are computed again are never missing or damaged for another process that reads them."""
    assert fork_server.run("rerun") == 0
    for _ in range(3):
        plans = [fork_server.plan("rerun", more=["--rerun", rerun]) for rerun in ("all", "all", "missing")]
        assert fork_server.together(plans) == [0, 0, 0], fork_server.output("rerun")
    assert fork_server.tables("rerun") == reference
    assert fork_server.left_over("rerun") == []


@pytest.mark.slow
def test_processes_that_add_to_one_table(fork_server: ForkServer) -> None:
    detectors = ("msp", "energy", "knn[k=3]")
    assert fork_server.together([fork_server.plan("add", one, more=["--add"]) for one in detectors]) == [0, 0, 0]
    rows = csv_rows((fork_server.folder / "add/runs/tiny/records.csv").read_text())
    assert {(row["detector"], row["ood_set"]) for row in rows} == {
        (detector.partition("[")[0], ood) for detector in detectors for ood in ("glyphs", "greek")
    }
