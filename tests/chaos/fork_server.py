"""Forks processes of `bench run` that are killed at a chosen event. Started by tests as a program:

    python fork_server.py < plans.jsonl > exit_codes.jsonl

A line of input is a list of processes that run at the same time, each an object with `options`, the arguments of
`bench run`; `kill`, the number of the event at which it is killed (0: never); `output`, the file for what it prints;
and optionally `log`, `artifacts` and `memory`, files that list its events, its artifacts and its resident bytes;
`largest`, the maximal size of a file that it may write; `grace`, a shorter `time_limit.GRACE`. Each line of output has
the exit codes of these processes. torch is imported once, so that a process starts within milliseconds.

Events are changes to the results folder (a file opened for writing, renamed, removed or flushed: Python's audit hooks
and `os.fsync`) and steps of the work (a cell of the plan, a training step, a block of extraction, ...).
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

import torch._dynamo  # noqa: F401 - optimizers import it, which takes seconds

from oodbench.benchmark.cli import main
from oodbench.benchmark.engines import engine, time_limit
from oodbench.benchmark.plan import planner
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.records import record as record_module
from oodbench.benchmark.runner import runner
from oodbench.benchmark.stages import extract
from oodbench.benchmark.stages.detecting import fit_score, similarities
from oodbench.benchmark.stages.training import snapshots, train_loop
from oodbench.benchmark.store.store import Key, Store
from oodbench.benchmark.views.plots import draw as plots
from oodbench.benchmark.views.tables import files as tables

WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class Events:
    """Counts the events of this process, and kills it at one of them."""

    def __init__(self, folder: str, kill: int, log: Path | None) -> None:
        self.folder, self.kill, self.count = folder, kill, 0
        self.phase = "plan"
        self.log = log.open("w", buffering=1) if log else None

    def __call__(self, what: str) -> None:
        """Count an event that is about to happen."""
        self.count += 1
        if self.log is not None:
            self.log.write(f"{self.phase}\t{what}\n")
        if self.count == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook, which Python calls before the event happens."""
        path = str(arguments[0]) if arguments else ""
        if not path.startswith(self.folder) or path.endswith(".lock"):
            return
        if event in WRITING or (event == "open" and any(letter in str(arguments[1]) for letter in "wxa+")):
            self(f"{event} {Path(path).name}")


def instrument(events: Events) -> None:
    """Count every step of this process's work as an event."""
    sys.addaudithook(events.audit)
    _count_calls(events, os, "fsync", "fsync")
    _count_calls(events, planner.Planner, "cell", "a cell of the plan")
    _count_calls(events, train_loop.TrainLoop, "_step", "a training step")
    _count_calls(events, extract, "_forward", "a block")
    for module in (fit_score, similarities):
        _count_calls(events, module, "checked_scores", "scores of a batch")
    _count_calls(events, runner, "write_record", "a record", phase="records")
    _count_calls(events, tables, "write_tables", "the tables", phase="tables")
    original = engine.Quiet.start

    def start(self: engine.Quiet, job: Job) -> None:
        events.phase = job.kind
        original(self, job)

    engine.Quiet.start = start  # type: ignore[method-assign]


def _count_calls(events: Events, owner: Any, name: str, what: str, phase: str = "") -> None:
    """Replace a function by one that counts an event before each call."""
    original: Callable[..., Any] = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        before, events.phase = events.phase, phase or events.phase
        events(what)
        result = original(*arguments, **named)
        events.phase = before
        return result

    setattr(owner, name, counted)


def note_artifacts(path: Path) -> None:
    """Append the artifacts that this process stores, one per line; several processes share the file."""
    save = Store.save

    def saved(self: Store, key: Key, write: Callable[[Path], None], about: Any) -> Path:
        artifact = save(self, key, write, about)
        with path.open("a") as file:
            file.write(key.path + "\n")
        return artifact

    Store.save = saved  # type: ignore[method-assign]


def note_memory(path: Path) -> None:
    """Append the resident memory, in bytes, for every record that this process writes."""
    write = record_module.write_record

    def written(folder: Path, record: record_module.Record) -> Path:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        with path.open("a") as file:
            file.write(f"{pages * os.sysconf('SC_PAGE_SIZE')}\n")
        return write(folder, record)

    vars(runner)["write_record"] = written


def run_child(plan: dict[str, Any]) -> int:
    """Everything a child process does; returns its exit code."""
    options, output = plan["options"], Path(plan["output"])
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream.fileno())
    snapshots.AFTER_EPOCH = snapshots.WITHIN_EPOCH = 0.0  # after every step; no option sets them
    if not plan.get("plots"):
        plots.draw = lambda *_: []
    if "artifacts" in plan:
        note_artifacts(Path(plan["artifacts"]))
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
    """Start a child process; returns its id."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        code = run_child(plan)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    for line in sys.stdin:
        children = [fork(plan) for plan in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        print(json.dumps(codes), flush=True)
