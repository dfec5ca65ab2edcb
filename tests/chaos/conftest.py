"""A nursery of processes for tests that kill them, and what a run must leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.distributed import SUITE, Tables, World, tables_of

KILLED = -9


class Nursery:
    """Runs of the tiny suite, in processes of their own, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.toml").write_text(SUITE)
        command = [sys.executable, str(Path(__file__).with_name("nursery.py"))]
        # One thread: a process that has started OpenMP's threads cannot be forked.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(self, results: str, detectors: str = "msp,energy,confidence,knn[k=3]", **plan: Any) -> int:
        """One process; its exit code, or `KILLED`."""
        return self.together([self.plan(results, detectors, **plan)])[0]

    def plan(self, results: str, detectors: str = "msp,energy,confidence,knn[k=3]", **plan: Any) -> dict[str, Any]:
        """What one process is to do. `more` are further options of `bench run`."""
        files: dict[str, Any] = {
            name: str(self.folder / plan[name]) for name in ("log", "made", "memory") if name in plan
        }
        options = ["--suite", str(self.folder / "tiny.toml"), "--results", str(self.folder / results)]
        options += ["--threads", "1", "--quiet", "--detectors", detectors, *plan.pop("more", ())]
        return {**plan, **files, "options": options, "said": str(self.folder / f"{results}.txt")}

    def together(self, plans: Sequence[dict[str, Any]]) -> list[int]:
        """Several processes at once; their exit codes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(plans) + "\n")
        self.process.stdin.flush()
        ended: list[int] = json.loads(self.process.stdout.readline())
        return ended

    def said(self, results: str) -> str:
        """What the processes of a results folder have printed."""
        return (self.folder / f"{results}.txt").read_text()

    def tables(self, results: str) -> Tables:
        """The files that must not differ between equal runs; records without their times."""
        return tables_of(self.folder / results / "runs/tiny")

    def left_over(self, results: str) -> list[str]:
        """What no finished run has: temporary files, unfinished trainings, passes, damage, marks of processes."""
        root = self.folder / results
        found = [*root.rglob(".*"), *root.rglob("process-*"), *(root / "cache/unfinished").glob("*")]
        return sorted(path.relative_to(root).as_posix() for path in [*found, *(root / "cache/damaged").glob("*")])


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """A process that has imported everything and forks."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    made = Nursery(tmp_path_factory.mktemp("chaos"))
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.fixture(scope="session")
def whole(nursery: Nursery) -> Tables:
    """The tables of a run that nobody disturbs; its events are in whole.log."""
    assert nursery.run("whole", log="whole.log") == 0, nursery.said("whole")
    return nursery.tables("whole")


@pytest.fixture(scope="session")
def suite_text() -> str:
    """The tiny suite."""
    return SUITE


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny suite's file."""
    path = tmp_path / "tiny.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Where engines with many workers do the same small run."""
    return World(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def of_one(world: World) -> Tables:
    """The tables of that run in one process."""
    world.run("whole")
    return world.tables("whole")
