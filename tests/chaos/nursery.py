"""Forks processes of `bench run` that die at a chosen moment. Read by tests, run as a program:

    python nursery.py < plans.jsonl > outcomes.jsonl

A line of input is a list of processes that run at once, each an object: `options`, the arguments of `bench run`;
`kill`, the number of the event at which it is killed (0: it lives); `said`, the file of what it prints; and, if wanted,
`log`, `made` and `memory`, files that list its events, its artifacts and its resident bytes; `largest`, the bytes of
the largest file that it may write; `grace`, for detectors that hang. The answer is a line for each list: the exit codes
of the processes. torch is imported once, so that a process costs milliseconds to start.

Events are what a process does to its results folder (opened for writing, renamed, removed, flushed: Python's audit
hooks and `os.fsync`) and the steps of its work (a cell of the plan, a training step, a block of extraction, ...).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 - optimisers import it, which takes seconds

from oodbench.benchmark.cli import main
from oodbench.benchmark.engines import engine, time_limit
from oodbench.benchmark.plan import planner
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.records import record as record_module
from oodbench.benchmark.runner import runner
from oodbench.benchmark.stages import extract, fit_score, similarity_scoring, snapshots, train_loop
from oodbench.benchmark.store.store import Key, Store
from oodbench.benchmark.views import plots, tables

WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class Events:
    """Counts what a process does, and kills it at one of the events."""

    def __init__(self, folder: str, kill: int, log: Path | None) -> None:
        self.folder, self.kill, self.count = folder, kill, 0
        self.phase = "plan"
        self.log = log.open("w", buffering=1) if log else None

    def __call__(self, what: str) -> None:
        """One event has come: it has not happened yet."""
        self.count += 1
        if self.log is not None:
            self.log.write(f"{self.phase}\t{what}\n")
        if self.count == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python's own notice of what is about to happen."""
        path = str(arguments[0]) if arguments else ""
        if not path.startswith(self.folder) or path.endswith(".lock"):
            return
        if event in WRITING or (event == "open" and any(letter in str(arguments[1]) for letter in "wxa+")):
            self(f"{event} {Path(path).name}")


def instrument(events: Events) -> None:
    """Tell every step of this process's work."""
    sys.addaudithook(events.audit)
    _tell(events, os, "fsync", "fsync")
    _tell(events, planner._Planner, "cell", "a cell of the plan")
    _tell(events, train_loop.TrainLoop, "_step", "a training step")
    _tell(events, extract, "_forward", "a block")
    for module in (fit_score, similarity_scoring):
        _tell(events, module, "checked_scores", "scores of a batch")
    _tell(events, runner, "write_record", "a record", phase="records")
    _tell(events, tables, "write_tables", "the tables", phase="tables")
    begin = engine.Quiet.start

    def start(self: engine.Quiet, job: Job) -> None:
        events.phase = job.kind
        begin(self, job)

    engine.Quiet.start = start  # type: ignore[method-assign]


def _tell(events: Events, owner: Any, name: str, what: str, phase: str = "") -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def told(*arguments: Any, **named: Any) -> Any:
        before, events.phase = events.phase, phase or events.phase
        events(what)
        result = original(*arguments, **named)
        events.phase = before
        return result

    setattr(owner, name, told)


def note_artifacts(path: Path) -> None:
    """List the artifacts that this process makes, one a line: several processes append to one file."""
    save = Store.save

    def saved(self: Store, key: Key, write: Callable[[Path], None], about: Any) -> Path:
        made = save(self, key, write, about)
        with path.open("a") as file:
            file.write(key.path + "\n")
        return made

    Store.save = saved  # type: ignore[method-assign]


def note_memory(path: Path) -> None:
    """List the resident memory, in bytes, at every record that this process writes."""
    write = record_module.write_record

    def written(folder: Path, record: record_module.Record) -> Path:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with path.open("a") as file:
            file.write(f"{pages * os.sysconf('SC_PAGE_SIZE')}\n")
        return write(folder, record)

    vars(runner)["write_record"] = written


def live(plan: dict[str, Any]) -> int:
    """The life of a child; returns its exit code."""
    options, said = plan["options"], Path(plan["said"])
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream.fileno())
    snapshots.AFTER_EPOCH = snapshots.WITHIN_EPOCH = 0.0  # a snapshot at every step
    if not plan.get("plots"):
        plots.draw = lambda *_: []
    if "made" in plan:
        note_artifacts(Path(plan["made"]))
    if "memory" in plan:
        note_memory(Path(plan["memory"]))
    time_limit.GRACE = plan.get("grace", time_limit.GRACE)
    if "largest" in plan:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan["largest"], plan["largest"]))
    log = Path(plan["log"]) if "log" in plan else None
    instrument(Events(options[options.index("--results") + 1], plan.get("kill", 0), log))
    try:
        main(["run", *options])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def fork(plan: dict[str, Any]) -> int:
    """Start a child and return its process's number."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        code = live(plan)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        children = [fork(plan) for plan in json.loads(line)]
        ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(json.dumps(ended), flush=True)
