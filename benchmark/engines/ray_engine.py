"""Jobs on the machines of a Ray cluster (`--engine ray`).

Scheduling, retries and GPUs are Ray's: every task is a Ray task, the reports of those that it waits for are its
arguments, and what a job makes goes to the store from where it is made. This process writes the records.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import ModuleType
from typing import Any

from oodbench.benchmark.engines.engine import RETRIES, Outcome, Progress, Report
from oodbench.benchmark.engines.ray_preflight import NodeInfo, check_node, inspect_node, this_node
from oodbench.benchmark.engines.ray_progress import ANSWER, open_board, poll
from oodbench.benchmark.engines.relay import Relay, lost_task_report, portable_config
from oodbench.benchmark.engines.tasks import WorkerTask, pack_tasks
from oodbench.benchmark.engines.worker import Worker
from oodbench.benchmark.errors import StoreError, UserError, first_line
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.worker_config import WorkerConfig

logger = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between two looks at what the workers have posted."""

NO_RAY = "--engine ray needs Ray: pip install 'oodbench[ray]'."

Resources = Mapping[str, float]
"""What a node has, by name: CPU, GPU, ..."""

_workers: dict[WorkerConfig, Worker] = {}
"""In a process of the cluster: the benches that it has opened."""


class Cluster:
    """The engine of a Ray cluster: the one at `address`, one that runs here, or else one that is started here."""

    def __init__(self, address: str = "", gpus: float = 1.0, perform: Callable[..., Report] | None = None) -> None:
        self.address, self.gpus = address, gpus
        self.perform = perform
        """What a worker does with a task (`do_task`); another where the engine alone is measured."""

    def threads(self, cores: int) -> int:
        """One: a cluster is kept busy by many jobs."""
        return 1

    def planning_device(self, asked: str) -> str:
        """Any: workers run the networks."""
        return "auto"

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """The graph of tasks, with resources, and whether the cluster has them; no cluster is started for it."""
        config, tasks = portable_config(context), pack_tasks(jobs)
        with self._connected(context, start=False) as ray:
            nodes = _nodes(ray) if ray.is_initialized() else [_this_machine()]
            running = "running" if ray.is_initialized() else "to be started here"
        gpus = self._gpus_of(config, nodes)
        _refuse_impossible(config, gpus, nodes)
        have = "; ".join(
            f"{_so_many(node.get('CPU', 0), 'CPU')}, {_so_many(node.get('GPU', 0), 'GPU')}" for node in nodes
        )
        out = [f"Ray cluster, {running}, of {_so_many(len(nodes), 'node')} ({have})"]
        out.append(f"  {len(tasks)} tasks, {sum(len(task.after) for task in tasks)} dependencies")
        for kind, count in Counter(task.kind for task in tasks).items():
            some = [task for task in tasks if task.kind == kind]
            on_gpu = sum(task.network for task in some) if gpus else 0
            needs = _so_many(config.threads, "CPU") + (f", {gpus:g} GPU for {on_gpu}" if on_gpu else "")
            inside = _so_many(sum(len(task.jobs) for task in some), "job")
            out.append(f"  {kind:8} {_so_many(count, 'task'):>11} of {inside}; each {needs}")
        return out

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Do jobs on the cluster."""
        if not jobs:
            return
        config, tasks = portable_config(context), pack_tasks(jobs)
        with self._connected(context) as ray:
            gpus = self._gpus_of(config, _nodes(ray))
            _refuse_impossible(config, gpus, _nodes(ray))
            _refuse_unfit(ray, config, context)
            relay, failed = Relay(progress, tasks), dict[str, str]()
            perform = self.perform or do_task
            with open_board(ray) as board, _submitted(ray, perform, tasks, config, gpus, board, force) as flying:
                while flying:
                    done, _ = ray.wait(list(flying), num_returns=len(flying), timeout=LOOK)
                    for event in poll(ray, board):
                        relay.hear(event)
                    for ref in done:
                        task = flying.pop(ref)
                        report = _report(ray, ref) or lost_task_report(task, context, failed, DIED)
                        failed.update(report.failed)
                        yield from relay.outcomes(report)

    @contextmanager
    def _connected(self, context: JobContext, start: bool = True) -> Iterator[Any]:
        """Ray, connected; a cluster that was started for it ends with it. Without `start`, none is."""
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray, context, start)
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any, context: JobContext, start: bool) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
        options = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        joining = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address == "local":
                if start:
                    ray.init(address="local", **options)
            elif self.address:
                _refuse_silent(self.address)
                ray.init(address=self.address, **joining)
            else:
                try:
                    ray.init(address="auto", **joining)
                except ConnectionError:
                    if start:
                        logger.info("No Ray cluster runs here: one is started for this command, on this machine.")
                        ray.init(address="local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"Cannot join the Ray cluster at '{self.address or 'auto'}': {first_line(error)}. Start it with the "
                "same versions of Python and Ray as here, and give HOST:PORT of its head node with --ray-address."
            ) from error

    def _gpus_of(self, config: WorkerConfig, nodes: Sequence[Resources]) -> float:
        """GPUs that a task wants which runs a network: none where there are none, or the CPU was asked for."""
        there = any(node.get("GPU") for node in nodes)
        return self.gpus if config.device.startswith("cuda") or (config.device == "auto" and there) else 0.0


DIED = f"its worker died {RETRIES + 1} times before it was done; it was killed, ran out of memory, or lost its node"


def do_task(config: WorkerConfig, board: Any, force: bool, task: WorkerTask, *before: Report) -> Report:
    """Do a task, in a process of the cluster. `before`: the reports of the tasks that it waits for."""
    worker = _workers.setdefault(config, Worker(config, lambda event: None))
    worker.post = board.post.remote
    failed = {id_: why for report in before for id_, why in report.failed.items()}
    return worker.do(task, failed, force)


@contextmanager
def _submitted(
    ray: Any,
    perform: Callable[..., Report],
    tasks: Sequence[WorkerTask],
    config: WorkerConfig,
    gpus: float,
    board: Any,
    force: bool,
) -> Iterator[dict[Any, WorkerTask]]:
    """Hand all tasks to Ray; those that are still under way at the end are given up."""
    do = ray.remote(perform)
    refs: dict[str, Any] = {}
    on_cpu, on_gpu = (ray.put(replace(config, device=device)) for device in ("cpu", "cuda"))
    for task in tasks:
        share = gpus if task.network else 0.0
        options = {"num_cpus": config.threads, "num_gpus": share, "max_retries": RETRIES, "name": task.title}
        before = [refs[id_] for id_ in task.after]
        refs[task.id] = do.options(**options).remote(on_gpu if share else on_cpu, board, force, task, *before)
    flying = {refs[task.id]: task for task in tasks}
    try:
        yield flying
    finally:
        for ref in flying:
            with suppress(Exception):
                ray.cancel(ref, force=True)


def _report(ray: Any, ref: Any) -> Report | None:
    """What a task says of itself; None if its worker, or that of one before it, died too often."""
    try:
        report: Report = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ray.exceptions.RayError):
            return None
        raise StoreError(f"A worker cannot begin its task: {first_line(error.cause)}.") from error
    except ray.exceptions.RayError:
        return None
    return report


def _refuse_unfit(ray: Any, config: WorkerConfig, context: JobContext) -> None:
    """Ask every node who it is, and stop where one could not do the same work."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    token = secrets.token_hex(8)
    mark = config.cache / f".{token}"
    try:
        config.cache.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise StoreError(f"Cannot write '{config.cache}': {error.strerror}. Choose another --results.") from error
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        ask = ray.remote(inspect_node)
        asked = {
            node["NodeManagerHostname"] + " " + node["NodeID"][:6]: ask.options(
                num_cpus=0, scheduling_strategy=On(node["NodeID"], soft=False)
            ).remote(config, mark.name)
            for node in nodes
        }
        for name, ref in asked.items():
            if (greeting := _greeting(ray, name, ref)) is not None:
                check_node(name, this_node(), greeting, config)
    finally:
        mark.unlink(missing_ok=True)


def _greeting(ray: Any, name: str, ref: Any) -> NodeInfo | None:
    """What a node says; None if it is gone by now."""
    try:
        greeting: NodeInfo = ray.get(ref)
    except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
        return None
    except ray.exceptions.RayError as error:
        why = first_line(getattr(error, "cause", None) or error)
        raise UserError(
            f"Node {name} cannot run oodbench: {why}. Install the same version of oodbench there as here."
        ) from error
    return greeting


def _so_many(count: float, what: str) -> str:
    return f"{count:g} {what}{'s' * (count != 1)}"


def _nodes(ray: Any) -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _this_machine() -> Resources:
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _refuse_impossible(config: WorkerConfig, gpus: float, nodes: Sequence[Resources]) -> None:
    """Stop where no node has what one task wants."""
    for what, wanted, option in (("CPU", config.threads, "--threads"), ("GPU", gpus, "--gpus or --device cpu")):
        most = max((node.get(what, 0) for node in nodes), default=0)
        if wanted > most:
            raise UserError(
                f"A job wants {wanted:g} {what}s, and the largest node of the Ray cluster has {most:g}. Choose another "
                f"{option}."
            )


def _refuse_silent(address: str) -> None:
    """Ray itself would try for long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        raise UserError(f"'{address}' is no address of a Ray cluster. Give HOST:PORT of its head node, or 'local'.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"No Ray cluster answers at '{address}' ({first_line(error)}). Start one with 'ray start --head', or leave "
            "out --ray-address to have one started here."
        ) from error


def _ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError(NO_RAY) from error
    return ray
