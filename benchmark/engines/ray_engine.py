"""Runs jobs on the machines of a Ray cluster (`--engine ray`).

Ray does the scheduling, retries and assignment of GPUs: every task is a Ray task, whose arguments are the reports of
the tasks that it waits for. Workers write artifacts to the store themselves; this process writes the records.
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
from typing import Any, NamedTuple

from oodbench.benchmark.engines.engine import RETRIES, Outcome, Progress, Report
from oodbench.benchmark.engines.ray_preflight import NodeInfo, check_node, inspect_node
from oodbench.benchmark.engines.ray_progress import TIMEOUT, event_buffer, poll
from oodbench.benchmark.engines.relay import Relay, lost_task_report, portable_config
from oodbench.benchmark.engines.tasks import PART, WorkerTask, pack_tasks
from oodbench.benchmark.engines.worker import Worker
from oodbench.benchmark.errors import StoreError, UserError, first_line
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.plan.threads import counted_threads
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.worker_config import WorkerConfig

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.2
"""Seconds between two polls of the events that workers have posted."""

NO_RAY = "--engine ray needs Ray: pip install 'oodbench[ray]'."

Resources = Mapping[str, float]
"""The resources of a node by name: CPU, GPU, ..."""

_workers: dict[WorkerConfig, Worker] = {}
"""In a process of the cluster: its workers, by configuration."""


class Needs(NamedTuple):
    """What Ray sets aside for a task: CPUs, and GPUs (or a share of one) for a task that runs a network."""

    cpus: float
    gpus: float


class Cluster:
    """The engine that runs jobs on a Ray cluster: the one at `address`, one running on this machine, or a new one."""

    def __init__(
        self,
        address: str = "",
        gpus: float = 1.0,
        perform: Callable[..., Report] | None = None,
        part: int = PART,
    ) -> None:
        self.address, self.gpus, self.part = address, gpus, part
        self.perform = perform
        """Replaces `run_task` in workers, to measure the overhead of the engine alone."""

    def planning_device(self, requested: str) -> str:
        """Any device: workers run the networks."""
        return "auto"

    def layout(self, jobs: Sequence[Job], context: JobContext) -> list[str]:
        """The tasks, their dependencies and resources, and those of the cluster; starts no cluster."""
        config, tasks = portable_config(context, jobs), pack_tasks(jobs, self.part)
        with self._connected(start=False) as ray:
            nodes = _nodes(ray) if ray.is_initialized() else [_this_machine()]
            running = "running" if ray.is_initialized() else "to be started here"
        needs = self._needs_of(config, nodes)
        available = "; ".join(
            f"{_counted(node.get('CPU', 0), 'CPU')}, {_counted(node.get('GPU', 0), 'GPU')}" for node in nodes
        )
        lines = [f"Ray cluster, {running}, of {_counted(len(nodes), 'node')} ({available})"]
        lines.append(f"  {len(tasks)} tasks, {sum(len(task.after) for task in tasks)} dependencies")
        for kind, count in Counter(task.kind for task in tasks).items():
            of_kind = [task for task in tasks if task.kind == kind]
            on_gpu = sum(task.network for task in of_kind) if needs.gpus else 0
            each = _counted(needs.cpus, "CPU") + (f", {needs.gpus:g} GPU for {on_gpu}" if on_gpu else "")
            job_count = _counted(sum(len(task.jobs) for task in of_kind), "job")
            lines.append(f"  {kind:8} {_counted(count, 'task'):>11} of {job_count}; each {each}")
        return [*lines, *_shared_cpus(config, needs)]

    def run(self, jobs: Sequence[Job], context: JobContext, progress: Progress, force: bool) -> Iterator[Outcome]:
        """Run jobs on the cluster, after checking its resources and its nodes."""
        if not jobs:
            return
        config, tasks = portable_config(context, jobs), pack_tasks(jobs, self.part)
        with self._connected() as ray:
            needs = self._needs_of(config, _nodes(ray))
            _check_nodes(ray, config)
            for line in _shared_cpus(config, needs):
                logger.warning(line)
            relay, failed = Relay(progress, tasks), dict[str, str]()
            perform = self.perform or run_task
            with event_buffer(ray) as events, _submitted(ray, perform, tasks, config, needs, events, force) as pending:
                while pending:
                    done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=POLL_INTERVAL)
                    for event in poll(ray, events):
                        relay.handle(event)
                    for ref in done:
                        task = pending.pop(ref)
                        report = _report(ray, ref) or lost_task_report(task, context, failed, DIED)
                        failed.update(report.failed)
                        yield from relay.outcomes(report)

    @contextmanager
    def _connected(self, start: bool = True) -> Iterator[Any]:
        """The connected `ray` module. Starts a cluster if none runs and `start` is set, and ends it afterwards."""
        ray = _ray()
        connect = not ray.is_initialized()
        if connect:
            self._connect(ray, start)
        try:
            yield ray
        finally:
            if connect:
                ray.shutdown()

    def _connect(self, ray: Any, start: bool) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # for a cluster that is started here
        options = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        joining = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address == "local":
                if start:
                    ray.init(address="local", **options)
            elif self.address:
                _check_address(self.address)
                ray.init(address=self.address, **joining)
            else:
                try:
                    ray.init(address="auto", **joining)
                except ConnectionError:
                    if start:
                        logger.info("No Ray cluster is running: starting one on this machine for this command.")
                        ray.init(address="local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"Cannot connect to the Ray cluster at '{self.address or 'auto'}': {first_line(error)}. Start it with "
                "the same versions of Python and Ray as here, and give HOST:PORT of its head node with --ray-address."
            ) from error

    def _needs_of(self, config: WorkerConfig, nodes: Sequence[Resources]) -> Needs:
        """The resources of a task: a CPU per thread, or all CPUs of a node if no node has so many.

        A job computes on all its threads all the same. Raises `UserError` if no node has a CPU, or the GPUs of a task.
        """
        gpus, most = self._gpus_of(config, nodes), {name: _most(name, nodes) for name in ("CPU", "GPU")}
        if most["CPU"] <= 0:
            raise UserError("No node of the Ray cluster has a CPU, and a job needs one. Add a node that has.")
        if gpus > most["GPU"]:
            raise UserError(
                f"A job requests {gpus:g} GPUs, but the largest node of the Ray cluster has {most['GPU']:g}. Choose "
                "another --gpus or --device cpu."
            )
        cpus = min(config.threads, most["CPU"])
        return Needs(int(cpus) if cpus >= 1 else cpus, gpus)  # Ray takes no fractions of more than one CPU

    def _gpus_of(self, config: WorkerConfig, nodes: Sequence[Resources]) -> float:
        """GPUs per task that runs a network: 0 if the user chose the CPU, or no device while the nodes have no GPU."""
        available = any(node.get("GPU") for node in nodes)
        return self.gpus if config.device.startswith("cuda") or (config.device == "auto" and available) else 0.0


DIED = f"its worker died {RETRIES + 1} times before it was done; it was killed, ran out of memory, or lost its node"


def run_task(config: WorkerConfig, events: Any, force: bool, task: WorkerTask, *before: Report) -> Report:
    """Run a task in a process of the cluster. `before`: the reports of the tasks that it waits for."""
    worker = _workers.setdefault(config, Worker(config, lambda event: None))
    worker.post = events.post.remote
    failed = {id_: reason for report in before for id_, reason in report.failed.items()}
    return worker.run(task, failed, force)


@contextmanager
def _submitted(
    ray: Any,
    perform: Callable[..., Report],
    tasks: Sequence[WorkerTask],
    config: WorkerConfig,
    needs: Needs,
    events: Any,
    force: bool,
) -> Iterator[dict[Any, WorkerTask]]:
    """Submit all tasks to Ray, and yield them by object reference; at the end, cancel those still in the dictionary."""
    remote = ray.remote(perform)
    refs: dict[str, Any] = {}
    on_cpu, on_gpu = (ray.put(replace(config, device=device)) for device in ("cpu", "cuda"))
    for task in tasks:
        share = needs.gpus if task.network else 0.0
        options = {"num_cpus": needs.cpus, "num_gpus": share, "max_retries": RETRIES, "name": task.title}
        before = [refs[id_] for id_ in task.after]
        refs[task.id] = remote.options(**options).remote(on_gpu if share else on_cpu, events, force, task, *before)
    pending = {refs[task.id]: task for task in tasks}
    try:
        yield pending
    finally:
        for ref in pending:
            with suppress(Exception):
                ray.cancel(ref, force=True)


def _report(ray: Any, ref: Any) -> Report | None:
    """The report on a task; None if its worker, or that of a task before it, died too often."""
    try:
        report: Report = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ray.exceptions.RayError):
            return None
        raise StoreError(f"A worker cannot start its task: {first_line(error.cause)}.") from error
    except ray.exceptions.RayError:
        return None
    return report


def _check_nodes(ray: Any, config: WorkerConfig) -> None:
    """Inspect every node. Raises `UserError` or `StoreError` if one would not do the same work as this one."""
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
        inspect = ray.remote(inspect_node)
        inspections = {
            node["NodeManagerHostname"] + " " + node["NodeID"][:6]: inspect.options(
                num_cpus=0, scheduling_strategy=On(node["NodeID"], soft=False)
            ).remote(config, mark.name)
            for node in nodes
        }
        for name, ref in inspections.items():
            if (info := _node_info(ray, name, ref)) is not None:
                check_node(name, config.code, info)
    finally:
        mark.unlink(missing_ok=True)


def _node_info(ray: Any, name: str, ref: Any) -> NodeInfo | None:
    """What a node reports about itself; None if it has left the cluster."""
    try:
        info: NodeInfo = ray.get(ref)
    except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
        return None
    except ray.exceptions.RayError as error:
        reason = first_line(getattr(error, "cause", None) or error)
        raise UserError(
            f"Node {name} cannot run oodbench: {reason}. Install the same version of oodbench there as here."
        ) from error
    return info


def _counted(count: float, noun: str) -> str:
    return f"{count:g} {noun}{'s' * (count != 1)}"


def _nodes(ray: Any) -> list[Resources]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _this_machine() -> Resources:
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _most(resource: str, nodes: Sequence[Resources]) -> float:
    """How much of a resource the node with the most of it has."""
    return max((node.get(resource, 0.0) for node in nodes), default=0.0)


def _shared_cpus(config: WorkerConfig, needs: Needs) -> list[str]:
    """A sentence if no node has a CPU for every thread of a job."""
    if needs.cpus >= config.threads:
        return []
    return [
        f"The largest node of the Ray cluster has {_counted(needs.cpus, 'CPU')} for the "
        f"{counted_threads(config.threads)} of a job, which share what is there: this changes no number, but takes "
        "longer."
    ]


def _check_address(address: str) -> None:
    """Raise `UserError` if no cluster answers at an address; Ray itself would keep trying for a long time."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        raise UserError(
            f"'{address}' is not the address of a Ray cluster. Give HOST:PORT of its head node, or 'local'."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"No Ray cluster answers at '{address}' ({first_line(error)}). Start one with 'ray start --head', or leave "
            "out --ray-address to start one on this machine."
        ) from error


def _ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise UserError(NO_RAY) from error
    return ray
