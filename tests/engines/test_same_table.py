"""`bench run`, `bench run --jobs 2` and `bench run --engine ray`, and nothing else, give the same bytes.

Suite and folders are set in the environment, so that the commands are those of the README, word for word. The suite
states no threads, and no option does: nothing but the number of cores could decide about them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import bench, tables_of, tiny_suite

MATRIX = """
[[id]]
set = "digits[0-2]"
outliers = "glyphs"
ood = [{ set = "glyphs", group = "near" }, { set = "uniform", group = "far" }]
"""
FEW = "msp,mahalanobis,odin"
NARROW = "small_cnn[hidden=16,width=8]"
JOBS, RAY = ("run", "--jobs", "2"), ("run", "--engine", "ray")
STORED = (".npy", ".safetensors")

Files = dict[str, bytes]


def environment(folder: Path, command: tuple[str, ...], detectors: str, backbone: str = "small_cnn") -> dict[str, str]:
    """The variables that replace the default suite and folders; a Ray cluster of its own for every command."""
    suite, results = folder / "small.toml", folder / "-".join(command).replace("--", "")
    suite.write_text(tiny_suite(MATRIX, backbone=backbone).replace("threads = 1\n", ""), encoding="utf-8")
    chosen = {"SUITE": suite, "RESULTS": results, "DETECTORS": detectors, "DATA_DIR": folder / "data"}
    own_cluster = {"RAY_ADDRESS": "local"} if "ray" in command else {}
    return {f"OODBENCH_{name}": str(value) for name, value in {**chosen, **own_cluster}.items()}


def made(variables: dict[str, str]) -> Files:
    """Every table of a run, and every network, output and score behind it."""
    results = Path(variables["OODBENCH_RESULTS"])
    stored = (path for path in (results / "cache").rglob("*") if path.suffix in STORED)
    arrays = {path.relative_to(results).as_posix(): path.read_bytes() for path in stored}
    return {**tables_of(results / "runs" / "small"), **arrays}


def differing(one: Files, other: Files) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Files]:
    """Run a command in this process with three detectors, one of which uses gradients; each command once."""
    folder, done = tmp_path_factory.mktemp("few"), dict[tuple[str, ...], Files]()

    def run(*command: str) -> Files:
        if command not in done:
            variables = environment(folder, command, FEW)
            result = bench(*command, env=variables)
            assert result.exit_code == 0, result.output
            done[command] = made(variables)
        return done[command]

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_processes_of_this_machine_make_the_same_bytes(few: Callable[..., Files]) -> None:
    plain = few("run")
    assert sum(name.endswith(STORED) for name in plain) > 10
    assert differing(few(*JOBS), plain) == []


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_ray_cluster_makes_the_same_bytes(few: Callable[..., Files]) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'oodbench[ray]'")
    assert differing(few(*RAY), few("run")) == []


# All detectors, as separate commands


def start(command: tuple[str, ...], variables: dict[str, str], cores: int = 0) -> str:
    """Run a command in a process of its own, which may use so many cores (0: all).

    Returns what it prints, without line breaks and the paths of files, whose length decides where lines break.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    pinned = f"import os\nos.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores}])\n" if cores else ""
    code = f"{pinned}from oodbench.benchmark.cli import main\nmain()"
    arguments = [sys.executable, "-c", code, *command]
    done = subprocess.run(arguments, env={**inherited, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = " ".join(done.stdout.split()).partition(" Files: ")[0]
    return printed.replace(variables["OODBENCH_RESULTS"], "RESULTS")


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Files]:
    """The plain command with all detectors: its folder, what it prints, and what it makes."""
    folder = tmp_path_factory.mktemp("every")
    variables = environment(folder, ("run",), "all", NARROW)
    return folder, start(("run",), variables), made(variables)


@pytest.mark.slow
@pytest.mark.parametrize("command, cores", [(JOBS, 0), (RAY, 0), (("run",), 1)])
def test_all_detectors_on_every_engine_and_on_one_core(
    every: tuple[Path, str, Files], command: tuple[str, ...], cores: int, tmp_path: Path
) -> None:
    if "ray" in command:
        pytest.importorskip("ray", reason="needs Ray: pip install 'oodbench[ray]'")
    if cores and not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot limit a process to a core")
    folder, printed, expected = every
    variables = environment(tmp_path, command, "all", NARROW)
    variables["OODBENCH_SUITE"] = str(folder / "small.toml")
    assert start(command, variables, cores) == printed
    assert differing(made(variables), expected) == []
