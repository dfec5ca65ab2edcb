"""Runs jobs in several processes of this machine (`--jobs N`), distributed over its GPUs."""

from __future__ import annotations

import logging
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

from oodbench.benchmark.engines.engine import RETRIES, Outcome, Progress, Report
from oodbench.benchmark.engines.messages import Event
from oodbench.benchmark.engines.relay import Relay, lost_task_report, portable_config
from oodbench.benchmark.engines.tasks import WorkerTask, pack_tasks
from oodbench.benchmark.engines.worker import Worker
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.plan.threads import counted_threads
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.open_worker import choose_device
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.cores import usable_cores

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.1
"""Seconds between two polls of the events that workers have posted."""

DIED = f"its worker process ended {RETRIES + 1} times before it was done; it was killed, or native code crashed"

_worker: Worker | None = None
"""In a process of the pool: its worker."""


class Processes:
    """The engine that runs jobs in several processes of this machine."""

    def __init__(self, count: int) -> None:
        self.count = count

    def planning_device(self, requested: str) -> str:
        """The device that jobs run on."""
        return requested

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """The number of processes and of tasks."""
        tasks = pack_tasks(jobs)
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(task.kind for task in tasks).items())
        lines = [f"{self.count} processes for {len(tasks)} tasks ({kinds})"] if tasks else []
        crowded = _oversubscription(min(self.count, len(tasks)), portable_config(context, jobs).threads, usable_cores())
        return [*lines, *([crowded] if crowded else [])]

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Run jobs in `count` processes; a process that dies is replaced, and its task is started again."""
        tasks = pack_tasks(jobs)
        relay, queue = Relay(progress, tasks), _TaskQueue(tasks)
        config, failed = portable_config(context, jobs), dict[str, str]()
        if crowded := _oversubscription(min(self.count, len(tasks)), config.threads, usable_cores()):
            logger.warning(crowded)
        while queue.remaining:
            with _Pool(min(self.count, len(queue.remaining)), config) as pool:
                for task, report in queue.reports(pool, failed, force, relay):
                    if report is None:
                        report = lost_task_report(task, context, failed, DIED)
                    failed.update(report.failed)
                    yield from relay.outcomes(report)


class _TaskQueue:
    """The remaining tasks, and how often each has lost its worker."""

    def __init__(self, tasks: Sequence[WorkerTask]) -> None:
        self.remaining = {task.id: task for task in tasks}
        self._lost: Counter[str] = Counter()

    def reports(
        self, pool: _Pool, failed: Mapping[str, str], force: bool, relay: Relay
    ) -> Iterator[tuple[WorkerTask, Report | None]]:
        """Run tasks until all are done or a worker dies; yields each with its report, None after too many retries."""
        running: dict[Future[Report], WorkerTask] = {}
        while self.remaining:
            for task in self._next(pool.size, list(running.values())):
                running[pool.submit(task, failed, force)] = task
            ended, _ = wait(running, timeout=POLL_INTERVAL, return_when=FIRST_COMPLETED)
            for event in pool.events():
                relay.handle(event)
            for future in ended:
                if isinstance(future.exception(), BrokenProcessPool):
                    yield from self._worker_died(list(running.values()))
                    return
                task = running.pop(future)
                yield task, future.result()
                del self.remaining[task.id]

    def _next(self, size: int, running: Sequence[WorkerTask]) -> list[WorkerTask]:
        """The tasks to start now. One that has lost a worker runs alone, so that no other task can be the cause."""
        if any(self._lost[task.id] for task in running):
            return []
        waiting = [task for task in self.remaining.values() if task not in running]
        ready = [task for task in waiting if not set(task.after) & self.remaining.keys()]
        suspects = [task for task in ready if self._lost[task.id]]
        if suspects:
            return [] if running else suspects[:1]
        return ready[: size - len(running)]

    def _worker_died(self, running: Sequence[WorkerTask]) -> Iterator[tuple[WorkerTask, None]]:
        """Count a lost worker for every running task; yields those that are not tried again."""
        self._lost.update(task.id for task in running)
        for task in running:
            if self._lost[task.id] > RETRIES:
                yield task, None
                del self.remaining[task.id]


class _Pool:
    """Worker processes and the events that they post; usable until one of the processes dies."""

    def __init__(self, size: int, config: WorkerConfig) -> None:
        self.size, self._config = size, config

    def __enter__(self) -> _Pool:
        context = multiprocessing.get_context("spawn")  # a forked process would inherit the locks of torch's threads
        self._posts: SimpleQueue[Event] = context.SimpleQueue()
        configs: SimpleQueue[WorkerConfig] = context.SimpleQueue()
        for config in _configs(self._config, self.size):
            configs.put(config)
        self._pids: list[int] = []
        self._executor = ProcessPoolExecutor(self.size, context, _start_worker, (configs, self._posts))
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:  # such as Ctrl-C: stop the running tasks
            list(self.events())
            for pid in self._pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        self._executor.shutdown(wait=True, cancel_futures=True)

    def submit(self, task: WorkerTask, failed: Mapping[str, str], force: bool) -> Future[Report]:
        """Submit a task, with the failed jobs that it depends on."""
        dependencies = {id_ for job in task.jobs for id_ in job.after}
        relevant = {id_: reason for id_, reason in failed.items() if id_ in dependencies}
        return self._executor.submit(_run_task, task, relevant, force)

    def events(self) -> Iterator[Event]:
        """The events posted since the last call."""
        while not self._posts.empty():
            event = self._posts.get()
            if event[0] == "pid":
                self._pids.append(event[2])
            else:
                yield event


def _oversubscription(processes: int, threads: int, cores: int) -> str:
    """A sentence if processes that compute at once have more threads than there are cores; empty if they have not."""
    if processes < 2 or processes * threads <= cores:
        return ""
    enough = cores // threads
    advice = f"; with --jobs {enough}, every thread has a core of its own" if enough else ""
    return (
        f"{processes} processes with {counted_threads(threads)} each share {cores} core{'s' * (cores != 1)}, which "
        f"changes no number{advice}."
    )


def _configs(config: WorkerConfig, count: int) -> list[WorkerConfig]:
    """One configuration per process; several GPUs are assigned in turn, unless the user names one."""
    device = choose_device(config.device)
    gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 0
    return [replace(config, device=f"cuda:{index % gpus}") if gpus > 1 else config for index in range(count)]


def _start_worker(configs: Any, posts: Any) -> None:
    """Set up a process of the pool."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends this process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    posts.put(("pid", "", os.getpid()))
    _worker = Worker(configs.get(), posts.put)


def _exit_with_parent() -> None:
    """Exit when the parent process ends: a killed parent cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run_task(task: WorkerTask, failed: Mapping[str, str], force: bool) -> Report:
    if _worker is None:
        raise AssertionError("a process of the pool must be set up before its first task")
    return _worker.run(task, failed, force)
