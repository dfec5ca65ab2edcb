"""Shared by tests of engines with many workers: a small run, its tables, watching its files and killing its workers."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from oodbench.benchmark.api import Prepared
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.store import side_path
from tests.support import prepare_suite, tables_of, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
outliers = "glyphs"
ood = [{ set = "glyphs", group = "near" }, { set = "greek", group = "near" }]
"""
TRAINING = "epochs = 2"

PLUGIN = '''
"""A detector whose pass takes long enough to be killed within it."""

import time

from oodbench.benchmark import Detector, detector


@detector("test_slow")
class Slow(Detector):
    """The first logit, slowly."""

    version = "1"
    needs = frozenset({"maps"})

    def reduce(self, maps, features, logits):
        time.sleep(0.15)
        return logits[:, :1]

    def score(self, batch):
        return batch.maps[:, 0].double()
'''
DETECTORS = "msp,energy,confidence,knn[k=3],odin,gram,test_slow"
Tables = dict[str, bytes]


CRASHING = '''
import os

from oodbench.benchmark import Detector, detector


@detector("test_crashing")
class Crashing(Detector):
    """Ends its process."""

    version = "1"
    needs = frozenset({"logits"})

    def score(self, batch):
        os._exit(1)
'''


class World:
    """Runs the small suite, all results below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_suite(folder, MATRIX, training="epochs = 30")  # leaves time to kill a worker
        (folder / "slow.py").write_text(PLUGIN, encoding="utf-8")
        (folder / "crashing.py").write_text(CRASHING, encoding="utf-8")

    def run(self, results: str, **options: Any) -> StoredRun:
        """Run the suite on one thread."""
        progress = options.pop("progress", None)
        return self.prepared(results, **options).start(progress)

    def prepared(self, results: str, **options: Any) -> Prepared:
        """The same run, not yet started."""
        defaults = {"device": "cpu", "plugins": [self.folder / "slow.py"], "detectors": DETECTORS}
        return prepare_suite(self.folder / "tiny.toml", results=self.folder / results, **{**defaults, **options})

    @cached_property
    def side_files(self) -> dict[str, tuple[str, ...]]:
        """The side files of each job's artifacts, relative to the store, by job id."""
        jobs = self.prepared("reference").plan.jobs
        return {id_: tuple(str(side_path(Path(key.path))) for key in job.makes) for id_, job in jobs.items()}

    def tables(self, results: str) -> Tables:
        """The files that must not differ between equal runs; records without times."""
        return tables_of(self.folder / results / "runs/tiny")

    def command(self, results: str, *more: str) -> list[str]:
        """The command of the same run."""
        return [
            *(sys.executable, "-c", "from oodbench.benchmark.cli import main; main()", "run"),
            *("--suite", str(self.folder / "tiny.toml"), "--plugin", str(self.folder / "slow.py")),
            *("--threads", "1", "--no-stability"),  # as `prepared`
            *("--results", str(self.folder / results), "--detectors", DETECTORS, "--device", "cpu", *more),
        ]

    def only_the_crashing_detector_fails(self, results: str, reason: str, **options: Any) -> None:
        """Run a detector that ends its process: its cells must fail with this reason, and no others."""
        plugins = [self.folder / "crashing.py"]
        run = self.run(results, detectors="msp,energy,test_crashing", plugins=plugins, **options)
        for record in run.records:
            assert record.status == ("failed" if record.detector == "test_crashing" else "ok")
            if record.status == "failed":
                assert reason in record.reason

    @contextmanager
    def no_job_repeated(self, results: str) -> Iterator[None]:
        """Fail if a finished job is repeated while the block runs.

        A job that was killed between two of its artifacts is not finished, and makes the first one again. Only times
        that are the same in two successive checks count, because a check does not read all files at the same moment.
        """
        cache = self.folder / results / "cache"
        previous: dict[str, list[int]] = {}
        finished: dict[str, list[int]] = {}
        repeated: set[str] = set()
        over = threading.Event()

        def check() -> None:
            for job, sides in self.side_files.items():
                times = [modified_at(cache / side) for side in sides]
                if all(times) and previous.get(job) == times and finished.setdefault(job, times) != times:
                    repeated.add(job)
                previous[job] = times

        def watch() -> None:
            while not over.wait(0.02):
                check()

        assert self.side_files
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        check()
        check()
        assert finished.keys() == self.side_files.keys()
        assert not repeated, "a finished job was repeated"


def modified_at(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def processes(wanted: Callable[[str], bool]) -> list[int]:
    """Ids of this machine's processes whose command line is wanted."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if wanted(line):
            pids.append(int(folder.name))
    return sorted(pids)


@contextmanager
def killing(
    candidates: Callable[[], list[int]], seed: int, end: Callable[[int], None] | None = None
) -> Iterator[list[int]]:
    """Kill one of the candidate processes while the block runs; yields the list to which its id is added.

    The seed determines which one, and how long after the first candidate has appeared.
    """
    killed: list[int] = []
    over = threading.Event()

    def wait_and_kill() -> None:
        draw = random.Random(seed)
        delay = draw.random() * 0.6
        while not over.wait(0.005):
            if candidates():
                time.sleep(delay)
                if remaining := candidates():
                    victim = draw.choice(remaining)
                    (end or kill)(victim)
                    killed.append(victim)
                    return

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def kill(pid: int) -> None:
    """Kill a process, as the system does when memory runs out."""
    os.kill(pid, signal.SIGKILL)
