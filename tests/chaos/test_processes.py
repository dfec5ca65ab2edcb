"""`--jobs N`: the same table as one process, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.distributed import processes, struck

if TYPE_CHECKING:
    from tests.chaos.distributed import Tables, World

pytestmark = pytest.mark.slow


def is_worker(line: str) -> bool:
    return "multiprocessing.spawn" in line and "spawn_main" in line


def our_workers() -> list[int]:
    """The pool's processes among this process's children."""
    return [pid for pid in processes(is_worker) if parent_of(pid) == os.getpid()]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_two_processes_make_the_same_table(world: World, of_one: Tables) -> None:
    with world.nothing_twice("two"):
        world.run("two", jobs=2)
    assert world.tables("two") == of_one
    before = {p: p.stat().st_mtime_ns for p in (world.folder / "two/cache").rglob("*") if p.is_file()}
    world.run("two")
    assert world.tables("two") == of_one
    same = {p: p.stat().st_mtime_ns for p in before if p.parent.name not in ("locks", "data")}
    assert same.items() <= before.items(), "a run of several processes is finished for one, too"


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_is_replaced(world: World, of_one: Tables, seed: int) -> None:
    results = f"killed{seed}"
    with world.nothing_twice(results), struck(our_workers, seed) as dead:
        run = world.run(results, jobs=2)
    assert dead
    assert {record.status for record in run.records} == {"ok"}
    assert world.tables(results) == of_one


def test_a_detector_that_ends_its_process_fails_its_own_cells(world: World) -> None:
    world.only_the_deadly_fails("deadly", "its worker process ended 4 times before it was done", jobs=2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_workers_end_with_the_command(world: World, of_one: Tables, how: signal.Signals) -> None:
    results = f"stopped-{how.name}"
    bench = subprocess.Popen(
        world.command(results, "--jobs", "2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where what runs the tests ignores it
    )

    def workers() -> list[int]:
        return [pid for pid in processes(is_worker) if pid in known or parent_of(pid) == bench.pid]

    known: set[int] = set()
    deadline = time.monotonic() + 120
    while not list((world.folder / results).glob("cache/checkpoint/*.json")) and time.monotonic() < deadline:
        known |= set(workers())
        time.sleep(0.05)
    assert known
    bench.send_signal(how)
    _, said = bench.communicate(timeout=60)
    assert bench.returncode != 0
    assert "Traceback" not in said
    while workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers()
    assert (
        subprocess.run(world.command(results, "--jobs", "2", "--quiet"), capture_output=True, check=False).returncode
        == 0
    )
    assert world.tables(results) == of_one
