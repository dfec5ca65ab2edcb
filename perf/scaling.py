"""Measures the overhead of the Ray engine, on a cluster of several nodes on this machine.

    python perf/scaling.py overhead      2,000 jobs of 20 ms, one per task: milliseconds per job in addition to the job
    python perf/scaling.py efficiency    sleeping jobs on 1, 4, 16 and 64 logical CPUs: time asleep / total time
    python perf/scaling.py memory        of the planning process, with arrays of features 64 times as large

The first two replace the work of a task by a sleep, so that two cores can stand for many; everything else is the real
engine: packing, dispatch, dependencies, reports, progress. Workers are started and warmed up before the measurement.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as Machines

from oodbench.benchmark import run
from oodbench.benchmark.engines.engine import Quiet, Report
from oodbench.benchmark.engines.ray_engine import Cluster
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.stages.open_worker import open_context
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.store import Key

STORE = 80_000_000
"""Bytes of Ray's own object store on each node: reports are small."""


@dataclass(frozen=True, kw_only=True)
class SleepJob(Job):
    """A job that sleeps."""

    seconds: float

    @property
    def size(self) -> int:
        """One."""
        return 1


def sleep(config: Any, events: Any, force: bool, task: Any, *before: Report) -> Report:
    """Replaces what a worker does for a task."""
    for job in task.jobs:
        time.sleep(job.seconds)
    return Report(tuple((job.id, "", "") for job in task.jobs))


def jobs_of(count: int, seconds: float, name: str) -> list[SleepJob]:
    keys = [Key("scores", ".npy", f"{name} {n}", {"name": name, "number": n}) for n in range(count)]
    return [SleepJob(title=key.label, makes=(key,), seconds=seconds) for key in keys]


class Machine:
    """A cluster with one node per entry of `cpus`, each with that number of logical CPUs."""

    def __init__(self, cpus: Sequence[int]) -> None:
        first, *others = cpus
        self._machines = Machines(
            initialize_head=True, head_node_args={"num_cpus": first, "object_store_memory": STORE}
        )
        for count in others:
            self._machines.add_node(num_cpus=count, object_store_memory=STORE)
        ray.init(address=self._machines.address, log_to_driver=False, logging_level="ERROR")

    def close(self) -> None:
        """Shut the cluster down."""
        ray.shutdown()
        self._machines.shutdown()


def seconds_of(engine: Any, jobs: Sequence[Job], folder: Path) -> float:
    context = open_context(WorkerConfig(folder / "cache", folder, "cpu", 1))
    start = time.perf_counter()
    outcomes = list(engine.run(jobs, context, Quiet(), False))
    assert len(outcomes) == len(jobs)
    return time.perf_counter() - start


def overhead(count: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name, closing(Machine([1, 1, 1])):
        engine = Cluster(perform=sleep)
        seconds_of(engine, jobs_of(30, 0.1, "warm"), Path(name))
        wall = seconds_of(engine, jobs_of(count, seconds, "measured"), Path(name))
    busy = 1000 * (wall * 3 / count - seconds)
    more = 1000 * (wall - count * seconds / 3) / count
    print(f"{count:,} jobs of {1000 * seconds:g} ms on 3 nodes of 1 CPU: {wall:.1f} s")
    print(f"in addition to the job, per job: {busy:.1f} ms of a worker's time and {more:.1f} ms of wall-clock time")


def efficiency(cpus: Sequence[int], seconds: float, rounds: int) -> None:
    for count in cpus:
        with tempfile.TemporaryDirectory() as name, closing(Machine([math.ceil(count / 4)] * min(4, count))):
            logical = int(ray.cluster_resources()["CPU"])
            engine = Cluster(perform=sleep)
            seconds_of(engine, jobs_of(4 * logical, 1.0, "warm"), Path(name))
            wall = seconds_of(engine, jobs_of(rounds * logical, seconds, "measured"), Path(name))
        share = rounds * seconds / wall
        print(f"{logical:3} CPUs, {rounds * logical} jobs of {seconds:g} s: {wall:.1f} s, efficiency {share:.3f}")


class Anonymous:
    """Records the peak anonymous memory of this process during the block, in MB."""

    def __enter__(self) -> Anonymous:
        self.most, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            self.most = max(self.most, next(int(x.split()[1]) / 1024 for x in lines if x.startswith("RssAnon")))


def memory() -> None:
    with tempfile.TemporaryDirectory() as name, closing(Machine([1, 1, 1])):
        options: dict[str, Any] = {"detectors": "msp,knn,mahalanobis", "epochs": 1, "threads": 1, "id_sets": "digits"}
        for hidden in (32, 32, 2048):  # the first is a warm-up: imports, decoded sets
            results = Path(name) / f"h{hidden}"
            with Anonymous() as used:
                run(backbone=f"small_cnn[hidden={hidden}]", results=results, engine="ray", rerun="all", **options)
            size = sum(path.stat().st_size for path in (results / "cache/features").glob("*.npy")) / 2**20
            print(f"{hidden:5} features: {size:7.1f} MB of arrays; planning process peak {used.most:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "efficiency", "memory"])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--ms", type=float, default=20.0)
    parser.add_argument("--cpus", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if options.what == "overhead":
        overhead(options.jobs, options.ms / 1000)
    elif options.what == "efficiency":
        efficiency(options.cpus, options.seconds, options.rounds)
    else:
        memory()


if __name__ == "__main__":
    main()
