"""Locks between processes, what a killed one leaves, and what pruning keeps."""

from __future__ import annotations

import errno
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from oodbench.benchmark.api import prepare
from oodbench.benchmark.engines import local
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.store.locks import Locks
from tests.support import leave_killed


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    one, other = Locks(tmp_path), Locks(tmp_path)
    held = one.attempt("job")
    assert held is not None
    assert other.attempt("job") is None
    assert other.attempt("another job") is not None
    held.release()
    assert other.attempt("job") is not None


HOLDER = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    locks.root.mkdir()
    path = locks.root / "process-there-1-0.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert locks.attempt(path.stem) is None
        assert locks.others() == [path.stem]
        process.send_signal(signal.SIGKILL)
    assert locks.others() == []
    assert not path.exists(), "the mark of the killed process is removed"


class OnMessage(logging.Handler):
    """Calls a function at the first message of the package, and keeps all of them."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self.call, self.messages = call, list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.call()


@pytest.fixture
def on_message() -> Iterator[Callable[[Callable[[], None]], list[str]]]:
    """Have a function called whenever the package logs something; returns the messages."""
    logger, handlers = logging.getLogger("oodbench"), list[OnMessage]()
    logger.setLevel(logging.INFO)

    def listen(call: Callable[[], None]) -> list[str]:
        handlers.append(OnMessage(call))
        logger.addHandler(handlers[-1])
        return handlers[-1].messages

    yield listen
    for handler in handlers:
        logger.removeHandler(handler)


Listen = Callable[[Callable[[], None]], list[str]]


def test_waiting_is_logged_once(tmp_path: Path, on_message: Listen) -> None:
    first = Locks(tmp_path).attempt("tables")
    assert first is not None
    messages = on_message(first.release)
    with Locks(tmp_path).hold("tables", "is writing the tables"):
        pass
    assert messages == ["Waiting for another process, which is writing the tables."]


def test_a_job_of_another_process_is_deferred_and_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_message: Listen
) -> None:
    options: dict[str, Any] = {"results": tmp_path / "results", "threads": 1, "epochs": 1, "ood_sets": "greek"}
    other = "msp@cross_entropy[learning_rate=0.01]"
    prepared = prepare(f"msp,{other}", id_sets="digits[0-1]", backbone="small_cnn[hidden=4,width=2]", **options)
    context, jobs = prepared.context, prepared.work.jobs
    train = next(job for job in jobs if isinstance(job, TrainJob))
    held = Locks(context.store.root).attempt(f"job-{train.id[:16]}")
    assert held is not None
    messages = on_message(held.release)
    outcomes = list(run_jobs(jobs, context, Quiet()))
    assert [outcome.reason for outcome in outcomes] == [""] * len(jobs)
    assert messages == [f"Waiting for another process, which is working on: {train.title}."]
    order = [outcome.job for outcome in outcomes]
    waited = [job.checkpoint.key == train.checkpoint.key for job in order]  # type: ignore[attr-defined]
    assert waited == sorted(waited), "jobs that do not depend on that job are done first"
    assert order[waited.index(True)] is train

    def never(*_: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(local, "run_job", never)
    assert [outcome.reason for outcome in run_jobs(jobs, context, Quiet())] == [""] * len(jobs)
    again = list(run_jobs(jobs[:1], context, Quiet(), force=True))
    assert "done again" in again[0].reason


def test_a_file_system_without_locks_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    locks = Locks(tmp_path)
    for name in ("one", "two"):
        with locks.hold(name):
            pass
    message = f"'{locks.root}' is on a file system without locks: let only one process at a time use this folder."
    assert logged == [message]


def test_a_folder_without_room_for_locks_is_reported(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file in its place")
    with pytest.raises(StoreError, match=r"^Cannot lock '.*': .*\. Choose a writable folder with --results\.$"):
        Locks(tmp_path).attempt("one")


def test_the_first_process_removes_what_killed_processes_left(tmp_path: Path) -> None:
    left = leave_killed(tmp_path)
    data, kept = tmp_path / "data/.b.tmp", tmp_path / "scores/a.npy"
    for path in (data, kept):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    with Locks(tmp_path).present(tmp_path):
        assert not any(path.exists() for path in left)
        assert not (tmp_path / ".pass-abc").exists()
        assert data.exists(), "other commands write decoded images"
        assert kept.exists()
        left = leave_killed(tmp_path)
        with Locks(tmp_path).present(tmp_path):
            assert all(path.exists() for path in left), "the other process may be using them"
        assert len(Locks(tmp_path).others()) == 1
    assert Locks(tmp_path).others() == []
