"""What tests of engines with many workers share: a small run, its tables, and who makes and who kills what."""

from __future__ import annotations

import csv
import io
import json
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

from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.records.run import Run
from oodbench.benchmark.store.store import side_path

SUITE = """
schema = 1
[protocol]
backbone = "small_cnn[hidden=4,width=2]"
recipe = "cross_entropy"
[training]
epochs = 2
[[id]]
set = "digits[0-1]"
outliers = "glyphs"
ood = [{ set = "glyphs", group = "near" }, { set = "greek", group = "near" }]
"""

PLUGIN = '''
"""A detector whose pass takes long enough to be killed in the middle."""

import time

from oodbench.benchmark import Detector, detector


@detector("test_slow")
class Slow(Detector):
    """The first logit, kept slowly."""

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


DEADLY = '''
import os

from oodbench.benchmark import Detector, detector


@detector("test_deadly")
class Deadly(Detector):
    """Ends its process."""

    version = "1"
    needs = frozenset({"logits"})

    def score(self, batch):
        os._exit(1)
'''


def tables_of(run_dir: Path) -> Tables:
    """The files that must not differ between equal runs; records without their times."""
    rows = list(csv.DictReader(io.StringIO((run_dir / "records.csv").read_text(encoding="utf-8"))))
    untimed = json.dumps([{name: value for name, value in row.items() if name != "seconds"} for row in rows])
    files = {name: (run_dir / name).read_bytes() for name in ("table.csv", "table.md", "table.tex", "best.json")}
    return {**files, "records.csv": untimed.encode()}


class World:
    """Runs of the small suite, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        longer = SUITE.replace("epochs = 2", "epochs = 30")  # so that there is time to kill somebody
        (folder / "tiny.toml").write_text(longer, encoding="utf-8")
        (folder / "slow.py").write_text(PLUGIN, encoding="utf-8")
        (folder / "deadly.py").write_text(DEADLY, encoding="utf-8")

    def run(self, results: str, **options: Any) -> Run:
        """One run, on one thread."""
        progress = options.pop("progress", None)
        return self.prepared(results, **options).start(progress)

    def prepared(self, results: str, **options: Any) -> Prepared:
        """The same, not yet begun."""
        given: dict[str, Any] = {"suite": str(self.folder / "tiny.toml"), "threads": 1, "device": "cpu"}
        given |= {"plugins": [self.folder / "slow.py"], "results": self.folder / results, "detectors": DETECTORS}
        return prepare(**{**given, **options})

    @cached_property
    def made_by_job(self) -> dict[str, tuple[str, ...]]:
        """The side files of all that each job makes, relative to the store."""
        jobs = self.prepared("whole").plan.jobs
        return {id_: tuple(str(side_path(Path(key.path))) for key in job.makes) for id_, job in jobs.items()}

    def tables(self, results: str) -> Tables:
        """The files that must not differ between equal runs; records without their times."""
        return tables_of(self.folder / results / "runs/tiny")

    def command(self, results: str, *more: str) -> list[str]:
        """The same run as a process of its own."""
        return [
            *(sys.executable, "-c", "from oodbench.benchmark.cli import main; main()", "run"),
            *("--suite", str(self.folder / "tiny.toml"), "--plugin", str(self.folder / "slow.py"), "--threads", "1"),
            *("--results", str(self.folder / results), "--detectors", DETECTORS, "--device", "cpu", *more),
        ]

    def only_the_deadly_fails(self, results: str, reason: str, **options: Any) -> None:
        """A run with a detector that ends its process: that one's cells fail, for this reason, and no others."""
        plugins = [self.folder / "deadly.py"]
        done = self.run(results, detectors="msp,energy,test_deadly", plugins=plugins, **options)
        for record in done.records:
            assert record.status == ("failed" if record.detector == "test_deadly" else "ok")
            if record.status == "failed":
                assert reason in record.reason

    @contextmanager
    def nothing_twice(self, results: str) -> Iterator[None]:
        """Fails if a job that has finished is done again while the block runs.

        One that was killed between two of its artifacts had not finished, and makes the first again. Two equal looks
        count as one, because the files are not looked at in a single moment.
        """
        cache = self.folder / results / "cache"
        seen: dict[str, list[int]] = {}
        finished: dict[str, list[int]] = {}
        again: set[str] = set()
        over = threading.Event()

        def look() -> None:
            for job, sides in self.made_by_job.items():
                stamps = [stamp_of(cache / side) for side in sides]
                if all(stamps) and seen.get(job) == stamps and finished.setdefault(job, stamps) != stamps:
                    again.add(job)
                seen[job] = stamps

        def watch() -> None:
            while not over.wait(0.02):
                look()

        assert self.made_by_job
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        look()
        look()
        assert finished.keys() == self.made_by_job.keys()
        assert not again, "a job was done again that had been finished"


def stamp_of(path: Path) -> int:
    """When a file was last written; 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def processes(wanted: Callable[[str], bool]) -> list[int]:
    """The processes of this machine whose command line is wanted."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if wanted(line):
            found.append(int(folder.name))
    return sorted(found)


@contextmanager
def struck(
    prey: Callable[[], list[int]], seed: int, strike: Callable[[int], None] | None = None
) -> Iterator[list[int]]:
    """While the block runs, kill one of the prey at a moment that follows from the seed; which one, is told.

    The moment counts from when there is any: a worker's command line names the job at which it is.
    """
    dead: list[int] = []
    over = threading.Event()

    def hunt() -> None:
        draw = random.Random(seed)
        delay = draw.random() * 0.6
        while not over.wait(0.005):
            if prey():
                time.sleep(delay)
                if there := prey():
                    victim = draw.choice(there)
                    (strike or kill)(victim)
                    dead.append(victim)
                    return

    thread = threading.Thread(target=hunt)
    thread.start()
    try:
        yield dead
    finally:
        over.set()
        thread.join()


def kill(pid: int) -> None:
    """As the system does when memory runs out."""
    os.kill(pid, signal.SIGKILL)
