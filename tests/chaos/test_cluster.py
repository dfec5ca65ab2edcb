"""`--engine ray` on a cluster of several nodes on this machine: the same table, even if workers and nodes are lost."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from oodbench.benchmark.engines.tasks import pack_tasks
from oodbench.benchmark.errors import UserError
from tests.chaos.distributed import killing, processes
from tests.support import share

if TYPE_CHECKING:
    from tests.chaos.distributed import Tables, World

ray: Any = pytest.importorskip("ray", reason="needs Ray: pip install 'oodbench[ray]'")
pytestmark = pytest.mark.slow

MOMENTS = share(range(10))
"""Seeds of kills."""
WORKING = 3


class Nodes:
    """A cluster: a head without CPUs, and worker nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.options: dict[str, Any] = {"object_store_memory": 80_000_000}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self.options})
        self.working = [self.add() for _ in range(WORKING)]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, **self.options)

    def lose(self, seed: int) -> None:
        """Remove a node at once, with its workers."""
        lost = self.working.pop(random.Random(seed).randrange(len(self.working)))
        self.cluster.remove_node(lost, allow_graceful=False)

    def replace_lost(self) -> None:
        """Replace lost nodes; only the main thread can start one."""
        while len(self.working) < WORKING:
            self.working.append(self.add())


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    ray.init(address=started.cluster.address, log_to_driver=False, logging_level="ERROR")
    yield started
    ray.shutdown()
    started.cluster.shutdown()


def test_a_cluster_makes_the_same_table(world: World, one_process: Tables, nodes: Nodes) -> None:
    with world.no_job_repeated("three"):
        world.run("three", engine="ray")
    assert world.tables("three") == one_process
    before = {p: p.stat().st_mtime_ns for p in (world.folder / "three/cache/scores").iterdir()}
    world.run("three")
    assert {p: p.stat().st_mtime_ns for p in before} == before, (
        "a run that a cluster has finished is finished for one process, too"
    )


def test_two_threads_on_nodes_of_one_cpu_share_it(world: World, nodes: Nodes, logged: list[str]) -> None:
    world.run("two-threads", threads=2)
    world.run("two-threads-ray", threads=2, engine="ray")
    assert world.tables("two-threads-ray") == world.tables("two-threads")
    start = "The largest node of the Ray cluster has 1 CPU for the 2 threads of a job"
    assert sum(line.startswith(start) for line in logged) == 1


def test_passes_over_large_sets_are_divided_among_workers(world: World, one_process: Tables, nodes: Nodes) -> None:
    from oodbench.benchmark.engines.ray_engine import Cluster

    prepared = world.prepared("parts", engine="ray")
    assert any(task.kind == "part" for task in pack_tasks(prepared.work.jobs, 256))
    replace(prepared, engine=Cluster(part=256)).start()
    assert world.tables("parts") == one_process
    for kind in ("logits", "features", "maps"):
        for path in (world.folder / "reference/cache" / kind).glob("*.npy"):
            assert (world.folder / "parts/cache" / kind / path.name).read_bytes() == path.read_bytes()


def test_a_cluster_shares_a_store_at_a_url(world: World, one_process: Tables, nodes: Nodes) -> None:
    url = (world.folder / "shared").as_uri()
    world.run("url", engine="ray", store=url)
    assert world.tables("url") == one_process
    assert {path.name for path in (world.folder / "shared/scores").glob("*.npy")} == {
        path.name for path in (world.folder / "reference/cache/scores").glob("*.npy")
    }
    run = world.run("url-elsewhere", store=url)
    assert {record.status for record in run.records} == {"ok"}
    assert not list((world.folder / "url-elsewhere/cache").glob("checkpoint/*")), "nothing remained to be done"


def at(kind: str) -> Callable[[], list[int]]:
    """The ids of workers that are running a task of that kind, which their command line names."""
    return lambda: processes(lambda line: line.startswith(f"ray::{kind}"))


@pytest.mark.parametrize("seed", MOMENTS)
def test_killed_workers_are_replaced(world: World, one_process: Tables, nodes: Nodes, seed: int) -> None:
    results = f"workers-{seed}"
    with world.no_job_repeated(results), killing(at("train"), seed) as first, killing(at("extract"), seed) as second:
        run = world.run(results, engine="ray")
    assert first
    assert second
    assert {record.status for record in run.records} == {"ok"}
    assert world.tables(results) == one_process


@pytest.mark.parametrize("seed", MOMENTS)
def test_work_of_lost_nodes_is_repeated_on_others(world: World, one_process: Tables, nodes: Nodes, seed: int) -> None:
    results, lose = f"nodes-{seed}", lambda pid: nodes.lose(seed)
    with world.no_job_repeated(results), killing(at("train"), seed, lose) as first:  # noqa: SIM117
        with killing(at("extract"), seed, lose) as second:
            run = world.run(results, engine="ray")
    nodes.replace_lost()
    assert first
    assert second
    assert {record.status for record in run.records} == {"ok"}
    assert world.tables(results) == one_process


def test_only_the_cells_of_a_detector_that_ends_its_worker_fail(world: World, nodes: Nodes) -> None:
    world.only_the_crashing_detector_fails("crashing-ray", "its worker died 4 times before it was done", engine="ray")


def test_a_killed_command_continues_where_it_was(world: World, one_process: Tables, nodes: Nodes) -> None:
    command = world.command("driver", "--quiet", "--engine", "ray", "--ray-address", nodes.cluster.address)
    with world.no_job_repeated("driver"):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while not at("extract")() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert world.tables("driver") == one_process


def test_an_interrupted_run_leaves_no_worker_running(world: World, one_process: Tables, nodes: Nodes) -> None:
    class Stop:
        def start(self, job: Any) -> None:
            if job.kind == "extract":
                raise KeyboardInterrupt

        def tick(self, job: Any, images: int) -> None: ...

        def finish(self, job: Any, reason: str) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        world.run("stopped", engine="ray", progress=Stop())
    deadline = time.monotonic() + 30
    while at("extract")() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not at("extract")()
    world.run("stopped")
    assert world.tables("stopped") == one_process


def test_more_gpus_than_the_cluster_has_are_refused_before_work(world: World, nodes: Nodes) -> None:
    with pytest.raises(UserError, match=r"^A job requests 2 GPUs, but the largest node of the Ray cluster has 0\."):
        world.run("gpus", engine="ray", device="cuda", gpus=2)
    assert not (world.folder / "gpus/cache/checkpoint").exists()


def test_a_node_without_the_plugin_is_refused(world: World, nodes: Nodes, tmp_path: Path) -> None:
    """The file is removed after the command has read it."""
    file = tmp_path / "mine.py"
    source = (world.folder / "slow.py").read_text(encoding="utf-8")
    file.write_text(source.replace("test_slow", "test_mine"), encoding="utf-8")
    from oodbench.benchmark.api import prepare

    prepared = prepare(
        "test_mine",
        suite=str(world.folder / "tiny.toml"),
        plugins=[file],
        results=world.folder / "plugin",
        engine="ray",
        threads=1,
    )
    file.unlink()
    with pytest.raises(
        UserError,
        match=r"^Node .* cannot load a plug-in or folder of this run: .*mine\.py.* Make it available to all nodes",
    ):
        prepared.start()
