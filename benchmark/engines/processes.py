"""Jobs in several processes of this machine, one GPU each where there are several (`--jobs N`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from oodbench.benchmark.engines.engine import MOST_THREADS, RETRIES, Outcome, Progress, Report
from oodbench.benchmark.engines.messages import Event
from oodbench.benchmark.engines.relay import Relay, lost_task_report, portable_config
from oodbench.benchmark.engines.tasks import WorkerTask, pack_tasks
from oodbench.benchmark.engines.worker import Worker
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.worker_config import WorkerConfig

LOOK = 0.1
"""Seconds between two looks at what the workers have posted."""

DIED = f"its worker process ended {RETRIES + 1} times before it was done; it was killed, or native code crashed"

_worker: Worker | None = None
"""This process's, in a process of the pool."""


class Processes:
    """The engine of one machine with several processes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def threads(self, cores: int) -> int:
        """An equal share of the cores, at most `MOST_THREADS`."""
        return max(1, min(cores // self.count, MOST_THREADS))

    def planning_device(self, asked: str) -> str:
        """The one that jobs run on."""
        return asked

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """How many tasks there are for the processes."""
        tasks = pack_tasks(jobs)
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(task.kind for task in tasks).items())
        return [f"{self.count} processes for {len(tasks)} tasks ({kinds})"] if tasks else []

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Do jobs in `count` processes; one that dies is replaced, and what it was doing begun again."""
        tasks = pack_tasks(jobs)
        relay, flight = Relay(progress, tasks), _Flight(tasks)
        config, failed = portable_config(context), dict[str, str]()
        while flight.left:
            with _Pool(min(self.count, len(flight.left)), config) as pool:
                for task, report in flight.reports(pool, failed, force, relay):
                    if report is None:
                        report = lost_task_report(task, context, failed, DIED)
                    failed.update(report.failed)
                    yield from relay.outcomes(report)


class _Flight:
    """Which tasks are left, and how often each has lost its worker."""

    def __init__(self, tasks: Sequence[WorkerTask]) -> None:
        self.left = {task.id: task for task in tasks}
        self._lost: Counter[str] = Counter()

    def reports(
        self, pool: _Pool, failed: Mapping[str, str], force: bool, relay: Relay
    ) -> Iterator[tuple[WorkerTask, Report | None]]:
        """Tasks with their reports, until all are done or a worker dies; None for one given up."""
        flying: dict[Future[Report], WorkerTask] = {}
        while self.left:
            for task in self._next(pool.size, list(flying.values())):
                flying[pool.submit(task, failed, force)] = task
            ended, _ = wait(flying, timeout=LOOK, return_when=FIRST_COMPLETED)
            for event in pool.events():
                relay.hear(event)
            for future in ended:
                if isinstance(future.exception(), BrokenProcessPool):
                    yield from self._given_up(list(flying.values()))
                    return
                task = flying.pop(future)
                yield task, future.result()
                del self.left[task.id]

    def _next(self, size: int, flying: Sequence[WorkerTask]) -> list[WorkerTask]:
        """What to begin now. A task that has lost a worker runs alone, so that no other is taken for the cause."""
        if any(self._lost[task.id] for task in flying):
            return []
        ready = [task for task in self.left.values() if task not in flying and not set(task.after) & self.left.keys()]
        suspects = [task for task in ready if self._lost[task.id]]
        if suspects:
            return [] if flying else suspects[:1]
        return ready[: size - len(flying)]

    def _given_up(self, tasks: Sequence[WorkerTask]) -> Iterator[tuple[WorkerTask, None]]:
        self._lost.update(task.id for task in tasks)
        for task in tasks:
            if self._lost[task.id] > RETRIES:
                yield task, None
                del self.left[task.id]


class _Pool:
    """Processes, and what they post. A pool serves until one of its processes dies."""

    def __init__(self, size: int, config: WorkerConfig) -> None:
        self.size, self._config = size, config

    def __enter__(self) -> _Pool:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in whatever state they are
        self._posts: SimpleQueue[Event] = context.SimpleQueue()
        configs: SimpleQueue[WorkerConfig] = context.SimpleQueue()
        for config in _configs(self._config, self.size):
            configs.put(config)
        self._pids: list[int] = []
        self._executor = ProcessPoolExecutor(self.size, context, _begin, (configs, self._posts))
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:  # such as Ctrl-C: nobody wants what is under way
            list(self.events())
            for pid in self._pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        self._executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, task: WorkerTask, failed: Mapping[str, str], force: bool) -> Future[Report]:
        """Have a task done. What failed before is told as far as the task depends on it."""
        wanted = {id_ for job in task.jobs for id_ in job.after}
        return self._executor.submit(_do, task, {id_: why for id_, why in failed.items() if id_ in wanted}, force)

    def events(self) -> Iterator[Event]:
        """What has been posted since the last call."""
        while not self._posts.empty():
            event = self._posts.get()
            if event[0] == "pid":
                self._pids.append(event[2])
            else:
                yield event


def _configs(config: WorkerConfig, count: int) -> list[WorkerConfig]:
    """A setup for each process: with several GPUs, they take turns."""
    gpus = torch.cuda.device_count() if config.device.startswith("cuda") else 0
    return [replace(config, device=f"cuda:{place % gpus}") if gpus > 1 else config for place in range(count)]


def _begin(configs: Any, posts: Any) -> None:
    """Set up a process of the pool."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sees to the end
    threading.Thread(target=_end_with_parent, daemon=True).start()
    posts.put(("pid", "", os.getpid()))
    _worker = Worker(configs.get(), posts.put)


def _end_with_parent() -> None:
    """A killed parent tells nobody; without it there is nobody to work for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _do(task: WorkerTask, failed: Mapping[str, str], force: bool) -> Report:
    if _worker is None:
        raise AssertionError("a process of the pool is set up before its first task")
    return _worker.do(task, failed, force)
