"""`--engine ray`, on a cluster of several nodes on this machine: the same table, whatever becomes of the workers."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from oodbench.benchmark.engines import tasks as engine
from oodbench.benchmark.errors import UserError
from tests.chaos.distributed import processes, struck

if TYPE_CHECKING:
    from tests.chaos.distributed import Tables, World

ray: Any = pytest.importorskip("ray", reason="needs Ray: pip install 'oodbench[ray]'")
pytestmark = pytest.mark.slow

MOMENTS = range(10)
WORKING = 3


class Nodes:
    """A head without CPUs, and nodes that work."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.options: dict[str, Any] = {"object_store_memory": 80_000_000}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self.options})
        self.working = [self.add() for _ in range(WORKING)]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, **self.options)

    def lose(self, seed: int) -> None:
        """A node is gone at once, with its workers."""
        lost = self.working.pop(random.Random(seed).randrange(len(self.working)))
        self.cluster.remove_node(lost, allow_graceful=False)

    def make_up(self) -> None:
        """Another takes its place; only the main thread can start one."""
        while len(self.working) < WORKING:
            self.working.append(self.add())


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    ray.init(address=made.cluster.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.cluster.shutdown()


def test_a_cluster_makes_the_same_table(world: World, of_one: Tables, nodes: Nodes) -> None:
    with world.nothing_twice("three"):
        world.run("three", engine="ray")
    assert world.tables("three") == of_one
    before = {p: p.stat().st_mtime_ns for p in (world.folder / "three/cache/scores").iterdir()}
    world.run("three")
    assert {p: p.stat().st_mtime_ns for p in before} == before, "a run on a cluster is finished for one process, too"


def test_large_sets_are_passed_in_parts_by_several_workers(
    world: World, of_one: Tables, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "pack_tasks", lambda jobs: pack_tasks(jobs, 256))
    from oodbench.benchmark.engines.tasks import pack_tasks

    world.run("parts", engine="ray")
    assert world.tables("parts") == of_one
    for kind in ("logits", "features", "maps"):
        for path in (world.folder / "whole/cache" / kind).glob("*.npy"):
            assert (world.folder / "parts/cache" / kind / path.name).read_bytes() == path.read_bytes()


def test_a_cluster_shares_a_store_at_a_url(world: World, of_one: Tables, nodes: Nodes) -> None:
    url = (world.folder / "shared").as_uri()
    world.run("url", engine="ray", store=url)
    assert world.tables("url") == of_one
    assert {path.name for path in (world.folder / "shared/scores").glob("*.npy")} == {
        path.name for path in (world.folder / "whole/cache/scores").glob("*.npy")
    }
    run = world.run("url-elsewhere", store=url)
    assert {record.status for record in run.records} == {"ok"}
    assert not list((world.folder / "url-elsewhere/cache").glob("checkpoint/*")), "nothing was left to do"


def at(kind: str) -> Callable[[], list[int]]:
    """The workers that are at a job of that kind."""
    return lambda: processes(lambda line: line.startswith(f"ray::{kind}"))


@pytest.mark.parametrize("seed", MOMENTS)
def test_killed_workers_are_replaced(world: World, of_one: Tables, nodes: Nodes, seed: int) -> None:
    results = f"workers-{seed}"
    with world.nothing_twice(results), struck(at("train"), seed) as first, struck(at("extract"), seed) as second:
        run = world.run(results, engine="ray")
    assert first
    assert second
    assert {record.status for record in run.records} == {"ok"}
    assert world.tables(results) == of_one


@pytest.mark.parametrize("seed", MOMENTS)
def test_lost_nodes_are_made_up_for(world: World, of_one: Tables, nodes: Nodes, seed: int) -> None:
    results, lose = f"nodes-{seed}", lambda pid: nodes.lose(seed)
    with world.nothing_twice(results), struck(at("train"), seed, lose) as first:  # noqa: SIM117
        with struck(at("extract"), seed, lose) as second:
            run = world.run(results, engine="ray")
    nodes.make_up()
    assert first
    assert second
    assert {record.status for record in run.records} == {"ok"}
    assert world.tables(results) == of_one


def test_a_detector_that_ends_its_worker_fails_its_own_cells(world: World, nodes: Nodes) -> None:
    world.only_the_deadly_fails("deadly-ray", "its worker died 4 times before it was done", engine="ray")


def test_a_killed_command_goes_on_where_it_was(world: World, of_one: Tables, nodes: Nodes) -> None:
    command = world.command("driver", "--quiet", "--engine", "ray", "--ray-address", nodes.cluster.address)
    with world.nothing_twice("driver"):
        bench = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while not at("extract")() and time.monotonic() < deadline:
            time.sleep(0.02)
        bench.kill()
        bench.wait()
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert world.tables("driver") == of_one


def test_a_detector_that_is_interrupted_leaves_no_worker_at_work(world: World, of_one: Tables, nodes: Nodes) -> None:
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
    assert world.tables("stopped") == of_one


def test_more_gpus_than_the_cluster_has_are_refused_before_work(world: World, nodes: Nodes) -> None:
    with pytest.raises(UserError, match=r"^A job wants 2 GPUs, and the largest node of the Ray cluster has 0\."):
        world.run("gpus", engine="ray", device="cuda", gpus=2)
    assert not (world.folder / "gpus/cache/checkpoint").exists()


def test_a_node_without_the_plugin_is_refused(world: World, nodes: Nodes, tmp_path: Path) -> None:
    """The file goes after the command has read it."""
    file = tmp_path / "mine.py"
    source = (world.folder / "slow.py").read_text(encoding="utf-8")
    file.write_text(source.replace("test_slow", "test_mine"), encoding="utf-8")
    from oodbench.benchmark.api import prepare

    made = prepare(
        "test_mine",
        suite=str(world.folder / "tiny.toml"),
        plugins=[file],
        results=world.folder / "plugin",
        engine="ray",
        threads=1,
    )
    file.unlink()
    with pytest.raises(
        UserError, match=r"^Node .* lacks a file that was named: .*mine\.py.* Put it where all nodes see"
    ):
        made.start()
