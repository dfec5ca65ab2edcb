"""Fixtures for tests that kill processes: a server that forks runs, and the tables that a run must end with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.distributed import MATRIX, TRAINING, Tables, World
from tests.support import tables_of, write_suite

KILLED = -9


class ForkServer:
    """Runs the tiny suite in forked processes, all below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_suite(folder, MATRIX, training=TRAINING)
        command = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
        # A process that has started OpenMP threads cannot be forked.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(self, results: str, detectors: str = "msp,energy,confidence,knn[k=3]", **plan: Any) -> int:
        """Run one process; returns its exit code, or `KILLED`."""
        return self.together([self.plan(results, detectors, **plan)])[0]

    def plan(self, results: str, detectors: str = "msp,energy,confidence,knn[k=3]", **plan: Any) -> dict[str, Any]:
        """The instructions for one process; `more`: further options of `bench run`."""
        files: dict[str, Any] = {
            name: str(self.folder / plan[name]) for name in ("log", "artifacts", "memory") if name in plan
        }
        options = ["--suite", str(self.folder / "tiny.toml"), "--results", str(self.folder / results)]
        options += ["--threads", "1", "--quiet", "--detectors", detectors, *plan.pop("more", ())]
        return {**plan, **files, "options": options, "output": str(self.folder / f"{results}.txt")}

    def together(self, plans: Sequence[dict[str, Any]]) -> list[int]:
        """Run several processes at once; returns their exit codes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(plans) + "\n")
        self.process.stdin.flush()
        codes: list[int] = json.loads(self.process.stdout.readline())
        return codes

    def output(self, results: str) -> str:
        """Everything that the processes on a results folder have printed."""
        return (self.folder / f"{results}.txt").read_text()

    def tables(self, results: str) -> Tables:
        """The files that must not differ between equal runs; records without times."""
        return tables_of(self.folder / results / "runs/tiny")

    def left_over(self, results: str) -> list[str]:
        """Files that a finished run must not leave: temporary, unfinished, damaged, and locks of processes."""
        root = self.folder / results
        files = [*root.rglob(".*"), *root.rglob("process-*"), *(root / "cache/unfinished").glob("*")]
        return sorted(path.relative_to(root).as_posix() for path in [*files, *(root / "cache/damaged").glob("*")])


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A process that has imported everything and forks runs."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    server = ForkServer(tmp_path_factory.mktemp("chaos"))
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.fixture(scope="session")
def reference(fork_server: ForkServer) -> Tables:
    """The tables of an undisturbed run; its events are in reference.log."""
    assert fork_server.run("reference", log="reference.log") == 0, fork_server.output("reference")
    return fork_server.tables("reference")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny suite's file."""
    return write_suite(tmp_path, MATRIX, training=TRAINING)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Runs the same small suite with different engines."""
    return World(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def one_process(world: World) -> Tables:
    """The tables of the same run in one process."""
    world.run("reference")
    return world.tables("reference")
