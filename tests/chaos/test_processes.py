"""`--jobs N`: the same table as with one process, even if processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.distributed import killing, processes
from tests.support import share

if TYPE_CHECKING:
    from tests.chaos.distributed import Tables, World

pytestmark = pytest.mark.slow


def is_worker(line: str) -> bool:
    return "multiprocessing.spawn" in line and "spawn_main" in line


def worker_children() -> list[int]:
    """The processes of the pool among this process's children."""
    return [pid for pid in processes(is_worker) if parent_of(pid) == os.getpid()]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_two_processes_make_the_same_table(world: World, one_process: Tables) -> None:
    with world.no_job_repeated("two"):
        world.run("two", jobs=2)
    assert world.tables("two") == one_process
    before = {p: p.stat().st_mtime_ns for p in (world.folder / "two/cache").rglob("*") if p.is_file()}
    world.run("two")
    assert world.tables("two") == one_process
    same = {p: p.stat().st_mtime_ns for p in before if p.parent.name not in ("locks", "data")}
    assert same.items() <= before.items(), "a run that several processes have finished is finished for one process, too"


@pytest.mark.parametrize("seed", share(range(4)))
def test_a_killed_process_is_replaced(world: World, one_process: Tables, seed: int) -> None:
    results = f"killed{seed}"
    with world.no_job_repeated(results), killing(worker_children, seed) as killed:
        run = world.run(results, jobs=2)
    assert killed
    assert {record.status for record in run.records} == {"ok"}
    assert world.tables(results) == one_process


def test_only_the_cells_of_a_detector_that_ends_its_process_fail(world: World) -> None:
    world.only_the_crashing_detector_fails("crashing", "its worker process ended 4 times before it was done", jobs=2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_workers_end_with_the_command(world: World, one_process: Tables, how: signal.Signals) -> None:
    results = f"stopped-{how.name}"
    process = subprocess.Popen(
        world.command(results, "--jobs", "2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the test runner may ignore it
    )

    def workers() -> list[int]:
        return [pid for pid in processes(is_worker) if pid in known or parent_of(pid) == process.pid]

    known: set[int] = set()
    deadline = time.monotonic() + 120
    while not list((world.folder / results).glob("cache/checkpoint/*.json")) and time.monotonic() < deadline:
        known |= set(workers())
        time.sleep(0.05)
    assert known
    process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in stderr
    while workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers()
    assert (
        subprocess.run(world.command(results, "--jobs", "2", "--quiet"), capture_output=True, check=False).returncode
        == 0
    )
    assert world.tables(results) == one_process
