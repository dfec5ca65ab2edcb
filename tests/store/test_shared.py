"""A store shared by machines: one finds intact artifacts of the other, with few requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark import ImageSet
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.engines.local import run_jobs
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.plan.jobs import Job, TrainJob
from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.open_worker import open_context
from oodbench.benchmark.stages.training import train
from oodbench.benchmark.stages.training.snapshots import SnapshotIntervals
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.remote import Remote
from oodbench.benchmark.store.shared import SharedStore
from oodbench.benchmark.store.store import Store
from tests.support import array_key, noise_images, prepare_suite, tables_of, train_job, write_suite

IN_FILES = pytest.mark.parametrize("store_url", ["file"], indirect=True)
"""For tests that are slow or do not depend on the protocol."""

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)

MATRIX = """
[[id]]
set = "digits[0-2]"
ood = [{ set = "greek", group = "near" }]
"""


class Watched(Remote):
    """A remote that records every request."""

    def __init__(self, url: str) -> None:
        super().__init__(url, pause=0)
        self.asked: list[tuple[str, str]] = []

    def names(self, folder: str) -> set[str]:
        self.asked.append(("names", folder))
        return super().names(folder)

    def read(self, path: str) -> bytes | None:
        self.asked.append(("read", path))
        return super().read(path)

    def get(self, path: str, target: Path) -> bool:
        self.asked.append(("get", path))
        return super().get(path, target)

    def put(self, source: Path, path: str) -> None:
        self.asked.append(("put", path))
        super().put(source, path)


class Machine(SharedStore):
    """The store of a machine with a folder of its own; its requests are recorded."""

    def __init__(self, root: Path, url: str, **options: float) -> None:
        self.watched = Watched(url)
        super().__init__(root, self.watched, **options)

    def asked(self, what: str) -> list[str]:
        return [path for request, path in self.watched.asked if request == what]


@pytest.fixture
def machine(tmp_path: Path, store_url: str) -> Callable[[str], Machine]:
    """Create a machine by name; the same name again gives another process on that machine."""
    return lambda name: Machine(tmp_path / name, store_url)


@pytest.fixture
def eager(tmp_path: Path, store_url: str) -> Callable[[str], Machine]:
    """Create a machine that uploads every snapshot."""
    return lambda name: Machine(tmp_path / name, store_url, snapshot_every=0, snapshot_share=0)


def test_one_machine_finds_what_another_computed(machine: Callable[[str], Machine], logged: list[str]) -> None:
    one, other, key = machine("one"), machine("other"), array_key()
    made = one.save_array(key, ARRAY, {"seconds": 1.5})
    assert other.has(key)
    found = other.find(key)
    assert found == other.root / key.path
    for path in (found, found.with_name(f"{found.name}.json")):
        assert path.read_bytes() == (made.parent / path.name).read_bytes()
    assert np.array_equal(other.load_array(key), ARRAY)
    assert other.about(key) == {"seconds": 1.5}
    assert other.asked("get") == [key.path], "downloaded once"
    assert Store(other.root).find(key) == found, "the URL is not needed any more"
    assert logged == []


def test_a_missing_artifact(machine: Callable[[str], Machine]) -> None:
    store = machine("one")
    assert not store.has(array_key())
    assert store.find(array_key()) is None
    assert store.side(array_key()) == {}
    with pytest.raises(StoreError, match="is missing from the store"):
        store.load_array(array_key())


def test_a_query_downloads_nothing_and_lists_each_folder_once(machine: Callable[[str], Machine]) -> None:
    one, other = machine("one"), machine("other")
    keys = [array_key(n, kind=kind) for kind in ("logits", "features") for n in range(30)]
    for key in keys[::2]:
        one.save_array(key, ARRAY, {})
    assert [other.has(key) for key in keys] == [True, False] * 30
    assert other.watched.asked == [("names", "logits"), ("names", "features")]
    assert not list(other.root.rglob("*.npy"))


def test_a_side_file_is_read_without_its_artifact(machine: Callable[[str], Machine]) -> None:
    one, other, key = machine("one"), machine("other"), array_key()
    one.save_array(key, ARRAY, {"seconds": 2.5})
    for _ in range(2):
        assert other.side(key) == one.side(key)
        assert other.about(key) == {"seconds": 2.5}
    assert other.watched.asked == [("read", f"{key.path}.json")]
    assert other.side(array_key(2)) == {}


def test_an_artifact_written_after_the_listing_is_found(machine: Callable[[str], Machine]) -> None:
    """The planning process writes a record as soon as another machine has done its jobs."""
    one, other, key = machine("one"), machine("other"), array_key()
    assert not other.has(key)
    assert other.side(key) == {}
    one.save_array(key, ARRAY, {"seconds": 2.5})
    assert not other.has(key), "a listing stays valid for a while"
    assert other.has(key, now=True)
    assert not other.has(array_key(2), now=True)
    assert other.has(key)
    assert other.about(key) == {"seconds": 2.5}
    assert np.array_equal(other.load_array(key), ARRAY)


def test_processes_of_one_machine_download_once(machine: Callable[[str], Machine]) -> None:
    machine("one").save_array(array_key(), ARRAY, {})
    processes = [machine("other") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda store: store.find(array_key()), processes))
    assert found == [processes[0].root / array_key().path] * 4
    assert sum(len(store.asked("get")) for store in processes) == 1


def test_all_available_artifacts_are_downloaded_together(machine: Callable[[str], Machine]) -> None:
    one, other = machine("one"), machine("other")
    keys = [array_key(n) for n in range(40)]
    for key in keys[:30]:
        one.save_array(key, ARRAY, {})
    other.save_array(keys[0], ARRAY, {})
    other.remote.threads = 8
    other.bring([*keys, *keys])
    assert sorted(other.asked("get")) == sorted(key.path for key in keys[1:30])
    assert all(Store(other.root).find(key) for key in keys[:30])


# damage, and processes that are killed


def rewrite(store: Machine, path: str, change: Callable[[bytes], bytes]) -> None:
    content = store.remote._fs.cat_file(store.remote._at(path))
    store.remote._fs.pipe_file(store.remote._at(path), change(content))


def other_field(name: str, value: str) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), name: value}).encode()


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "truncated": ("", lambda content: content[:-1]),
    "one bit flipped": ("", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    "emptied": ("", lambda content: b""),
    "side file garbage": (".json", lambda content: b"\xff{"),
    "side file of another key": (".json", other_field("digest", array_key(2).digest)),
    "side file of another artifact": (".json", other_field("sha256", "0" * 64)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_reported_and_counts_as_missing(
    machine: Callable[[str], Machine], store_url: str, damage: str, logged: list[str]
) -> None:
    one, key = machine("one"), array_key()
    one.save_array(key, ARRAY, {})
    suffix, change = DAMAGE[damage]
    rewrite(one, f"{key.path}{suffix}", change)
    other = machine("other")
    assert other.has(key), "only a download detects it"
    with pytest.raises(StoreError, match="is missing from the store"):
        other.load_array(key)
    assert logged == [
        f"'{key.path}' in the store '{store_url}' does not match its checksum. It counts as missing and is computed "
        "again by the next command that needs it."
    ]
    assert not other.has(key)
    assert not list(other.root.rglob("*.npy")), "nothing damaged is kept locally"
    third = machine("third")
    assert not third.has(key)
    third.save_array(key, ARRAY, {})
    assert np.array_equal(machine("fourth").load_array(key), ARRAY)


def test_an_artifact_without_side_file_counts_as_missing(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    """The process is killed between the two uploads."""
    one, key = machine("one"), array_key()
    put = Remote.put

    def killed(self: Remote, source: Path, path: str) -> None:
        if path.endswith(".json"):
            raise KeyboardInterrupt
        put(self, source, path)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            one.save_array(key, ARRAY, {})
    other = machine("other")
    assert not other.has(key)
    assert other.find(key) is None
    assert logged == []
    again = machine("one")
    assert again.has(key)
    again.share([key])
    assert again.asked("put") == [key.path, f"{key.path}.json"], "not recomputed, only uploaded"
    assert np.array_equal(machine("third").load_array(key), ARRAY)


def test_an_old_side_file_never_validates_a_new_artifact(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    machine("one").save_array(array_key(), ARRAY, {})
    put = Remote.put

    def killed(self: Remote, source: Path, path: str) -> None:
        put(self, source, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            machine("two").save_array(array_key(), ARRAY + 1, {})
    other = machine("other")
    assert not other.has(array_key())
    assert other.find(array_key()) is None
    assert logged == []


def test_an_artifact_that_is_being_replaced_is_downloaded_at_the_second_attempt(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    machine("one").save_array(array_key(), ARRAY, {})
    other, get = machine("other"), Watched.get

    def late(self: Watched, path: str, target: Path) -> bool:
        if len(self.asked) == 1:  # the side file has been read
            machine("two").save_array(array_key(), ARRAY + 1, {})
        return get(self, path, target)

    monkeypatch.setattr(Watched, "get", late)
    assert np.array_equal(other.load_array(array_key()), ARRAY + 1)
    assert logged == []


def test_local_damage_is_repaired_from_the_remote(machine: Callable[[str], Machine], logged: list[str]) -> None:
    path = machine("one").save_array(array_key(), ARRAY, {})
    path.write_bytes(b"x")
    again = machine("one")
    assert np.array_equal(again.load_array(array_key()), ARRAY)
    assert len(logged) == 1


def test_an_unusable_artifact_is_not_downloaded_again(machine: Callable[[str], Machine]) -> None:
    """Such as undamaged weights that do not fit their network."""
    machine("one").save_array(array_key(), ARRAY, {})
    other = machine("other")
    other.load_array(array_key())
    assert other.set_aside(array_key()).is_file()
    for store in (other, machine("third")):
        assert not store.has(array_key())
        assert store.find(array_key()) is None


def test_a_lost_connection_loses_nothing(machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    one, key = machine("one"), array_key()
    one.remote.write("x", b"")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("network is unreachable")

    with monkeypatch.context() as patch:
        patch.setattr(one.remote._fs, "put_file", unreachable)
        with pytest.raises(StoreError, match=r"network is unreachable\. No finished work is lost: run the same"):
            one.save_array(key, ARRAY, {})
    assert Store(one.root).find(key) is not None
    machine("one").share([key, array_key(2)])
    assert np.array_equal(machine("other").load_array(key), ARRAY)


def test_nothing_is_uploaded_twice(machine: Callable[[str], Machine]) -> None:
    one = machine("one")
    Store(one.root).save_array(array_key(1), ARRAY, {})
    one.save_array(array_key(2), ARRAY, {})
    one.share([array_key(1), array_key(2), array_key(3)])
    one.share([array_key(1), array_key(2), array_key(3)])
    assert one.asked("put") == [f"{array_key(n).path}{end}" for n in (2, 1) for end in ("", ".json")]


# by-products and unfinished trainings


def test_by_products_are_uploaded_too(machine: Callable[[str], Machine]) -> None:
    one, key = machine("one"), array_key(kind="checkpoint")
    curve, folder, absent = (one.extra(key, suffix) for suffix in (".losses.csv", ".tensorboard", ".samples.png"))
    folder.mkdir(parents=True)
    (folder / "events").write_text("events")
    curve.write_text("epoch,loss\n1,0.5\n")
    one.save_array(key, ARRAY, {})
    assert one.remote.read(f"checkpoint/{curve.name}") == b"epoch,loss\n1,0.5\n"
    assert one.remote.read(f"checkpoint/{folder.name}/events") == b"events"
    assert one.remote.read(f"checkpoint/{absent.name}") is None
    assert machine("other").has(key)


def test_a_by_product_that_cannot_be_uploaded_is_only_logged(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    one, put = machine("one"), Remote.put

    def refused(self: Remote, source: Path, path: str) -> None:
        if path.endswith(".csv"):
            raise StoreError("No.")
        put(self, source, path)

    monkeypatch.setattr(Remote, "put", refused)
    for content in (1, 2):
        key = array_key(content, kind="checkpoint")
        curve = one.extra(key, ".losses.csv")
        curve.parent.mkdir(exist_ok=True, parents=True)
        curve.write_text("epoch,loss\n")
        one.save_array(key, ARRAY, {})
        assert machine("other").has(key)
    assert logged == ["The run continues without by-products in the store: No."]


@pytest.fixture
def context(context_with: Callable[[Mapping[str, ImageSet]], JobContext]) -> JobContext:
    """A context with the images of `job`."""
    return context_with({"id": ImageSet(noise_images(20), np.arange(20) % 4, tuple("abcd"))})


def job(tag: str = "") -> TrainJob:
    """The same job under different keys, for different tags."""
    return train_job(images=20, schedule=Schedule(3, 8, (0.5,), 0.1), tag=tag, precision="float32")


def train_with_snapshots(context: JobContext, job: TrainJob, tick: Callable[[int], None]) -> dict[str, object]:
    """Train, and take a snapshot after every step."""
    return train.train(context, job, tick, SnapshotIntervals(after_epoch=0.0, within_epoch=0.0))


def stopped_after(steps: int, context: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the training and kill the process after `steps` steps."""
    plugin, left = registry.get("recipe", "cross_entropy"), iter(range(steps))
    step = plugin.step

    def counted(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(plugin, "step", counted)
        with pytest.raises(KeyboardInterrupt):
            train_with_snapshots(context, job(), lambda images: None)


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_a_training_resumes_on_another_machine(
    context: JobContext, eager: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    context.store = eager("one")
    stopped_after(4, context, monkeypatch)
    assert eager("two").watched.names("unfinished") == {
        f"{job().makes[0].path.split('/')[1]}{e}" for e in ("", ".json")
    }
    context.store = other = eager("two")
    progress: list[int] = []
    about = train_with_snapshots(context, job(), progress.append)
    assert (about["stops"], progress[0], sum(progress)) == (1, 28, 60)
    stem = Path(job().makes[0].path).stem
    assert logged == [f"Resuming from a snapshot of '{stem}' that another machine has uploaded to the store."]
    assert other.watched.names("unfinished") == set()
    train_with_snapshots(context, job("whole"), lambda images: None)
    whole, cut = (context.store.require(job(tag).makes[0]).read_bytes() for tag in ("whole", ""))
    assert cut == whole


@IN_FILES
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("here", "there", "first"), [(2, 5, 36), (5, 2, 36), (3, 3, 20)])
def test_the_most_advanced_snapshot_is_used(
    context: JobContext,
    eager: Callable[[str], Machine],
    monkeypatch: pytest.MonkeyPatch,
    here: int,
    there: int,
    first: int,
    tmp_path: Path,
) -> None:
    context.store = Store(tmp_path / "here")
    stopped_after(here, context, monkeypatch)
    context.store = eager("there")
    stopped_after(there, context, monkeypatch)
    context.store = eager("here")
    progress: list[int] = []
    train_with_snapshots(context, job(), progress.append)
    assert progress[0] == first
    assert len(context.store.asked("get")) == (there > here)


@IN_FILES
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("why", ["another torch", "another device", "damaged", "no facts"])
def test_an_unsuitable_snapshot_is_ignored(
    context: JobContext, eager: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    context.store = one = eager("one")
    stopped_after(4, context, monkeypatch)
    name = f"unfinished/{Path(job().makes[0].path).name}"
    if why == "damaged":
        rewrite(one, name, lambda content: content[:-1])
    else:
        changed = {"another torch": {"torch": "0.1"}, "another device": {"device": "quantum"}, "no facts": None}[why]
        facts = {"done": [1, 8], "torch": torch.__version__, "device": "cpu"}
        rewrite(one, f"{name}.json", lambda content: json.dumps({**json.loads(content), "about": (
            {**facts, **changed} if changed else {})}).encode())  # fmt: skip
    context.store = eager("two")
    progress: list[int] = []
    train_with_snapshots(context, job(), progress.append)
    assert progress[0] == 8, "restarted from the beginning"
    assert not (context.store.root / name).exists()


def test_snapshots_are_uploaded_at_intervals(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = machine("one"), [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    put = Remote.put

    def slow(self: Remote, source: Path, path: str) -> None:
        now[0] += 10
        put(self, source, path)

    monkeypatch.setattr(Remote, "put", slow)
    path = store.root / "unfinished" / "x.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    uploaded = []
    for seconds in (0, 199, 2):
        now[0] += seconds
        store.share_unfinished(path, {})
        uploaded.append(len(store.asked("put")))
    assert uploaded == [1, 1, 2]


# runs


class Jobs(Quiet):
    """Records the jobs done."""

    def __init__(self) -> None:
        self.done: list[Job] = []

    def start(self, job: Job) -> None:
        self.done.append(job)


@pytest.fixture
def planned(tmp_path: Path, store_url: str, undrawn: None) -> Callable[..., Prepared]:
    """Plan the tiny suite for a results folder by name, with one shared URL."""
    suite = write_suite(
        tmp_path, MATRIX, backbone="small_cnn[hidden=16,width=8]"
    )  # vim needs features that span directions

    def plan(results: str, detectors: str = "msp,vim", **options: Any) -> Prepared:
        return prepare_suite(suite, detectors, **{"results": tmp_path / results, "store": store_url, **options})

    return plan


@pytest.mark.usefixtures("one_thread")
def test_a_run_continues_in_another_results_folder(planned: Callable[..., Prepared], tmp_path: Path) -> None:
    first = planned("one")
    assert len(first.work.jobs) > 5
    one = first.start()
    second, jobs = planned("two"), Jobs()
    assert second.work.jobs == []
    assert len(second.work.cells) == len(one.records)
    two = second.start(jobs)
    assert jobs.done == []
    assert tables_of(two.path) == tables_of(one.path)
    kinds = {path.parent.name for path in (tmp_path / "two" / "cache").rglob("*.npy")}
    assert kinds == {"scores", "logits"}, "no features, because they are large"
    assert not list((tmp_path / "two" / "cache").rglob("*.safetensors"))
    for second_record, first_record in zip(two.records, one.records, strict=True):
        assert second_record.provenance["artifacts"] == first_record.provenance["artifacts"]


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_another_machine_only_does_missing_jobs(planned: Callable[..., Prepared]) -> None:
    planned("one").start()
    jobs = Jobs()
    planned("two", "msp,vim,energy").start(jobs)
    assert {(type(job).__name__, job.detector) for job in jobs.done} == {("ScoreJob", "energy")}  # type: ignore[attr-defined]
    assert planned("three", "energy").work.jobs == []


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_artifacts_computed_without_a_store_are_uploaded(planned: Callable[..., Prepared]) -> None:
    planned("one", store="").start()
    assert planned("two").work.jobs != []
    assert planned("one").start(jobs := Jobs()).records
    assert jobs.done == []
    assert planned("two").work.jobs == []


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_a_worker_does_jobs_that_another_machine_planned(
    planned: Callable[..., Prepared], store_url: str, tmp_path: Path
) -> None:
    prepared = planned("driver")
    worker = open_context(WorkerConfig(tmp_path / "worker", tmp_path / "no data", "cpu", 1, store=store_url))
    assert [outcome.reason for outcome in run_jobs(prepared.work.jobs, worker, Quiet())] == [""] * len(
        prepared.work.jobs
    )
    run = prepared.start()
    assert [record.status for record in run.records] == ["ok", "ok"]
    assert not list((tmp_path / "driver" / "cache").rglob("*.safetensors")), "the driver repeated nothing"
    for artifact in run.records[0].provenance["artifacts"]:
        assert len(artifact["sha256"]) == 64
        assert artifact["seconds"] >= 0


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_a_connection_lost_during_a_run(
    planned: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uploads, put = iter(range(7)), Remote.put

    def disconnecting(self: Remote, source: Path, path: str) -> None:
        if next(uploads, None) is None:
            raise StoreError("Cannot write.")
        put(self, source, path)

    first = planned("one")
    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", disconnecting)
        with pytest.raises(StoreError, match="Cannot write"):
            first.start()
    made = [path for path in (tmp_path / "one" / "cache").rglob("*") if path.suffix in (".npy", ".safetensors")]
    again = planned("one")
    assert 0 < len(again.work.jobs) < len(first.work.jobs)
    times = {path: path.stat().st_mtime_ns for path in made}
    again.start()
    assert {path: path.stat().st_mtime_ns for path in made} == times, "nothing was computed twice"
    assert planned("two").work.jobs == []


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_scores_for_plots_are_downloaded_to_a_lost_cache(planned: Callable[..., Prepared], tmp_path: Path) -> None:
    planned("one").start()
    shutil.rmtree(tmp_path / "one" / "cache")
    prepared = planned("one")
    assert (prepared.work.cells, prepared.work.jobs) == ([], [])
    assert len(prepared.work.kept) == 2
    prepared.start()
    assert len(list((tmp_path / "one" / "cache" / "scores").glob("*.npy"))) == 4


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_planning_asks_once_per_folder(planned: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    planned("one").start()
    requests: list[str] = []

    def note(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            requests.append(name)
            return method(*given)

        return noted

    for name in ("names", "read", "get"):
        monkeypatch.setattr(Remote, name, note(name, getattr(Remote, name)))
    assert len(planned("two", "msp,vim,energy,max_logit").plan.jobs) > 10
    assert requests
    assert set(requests) == {"names"}
    assert len(requests) <= 6, "checkpoint, logits, features, fit, scores"


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_a_damaged_artifact_is_recomputed_by_the_same_command(
    planned: Callable[..., Prepared], machine: Callable[[str], Machine]
) -> None:
    prepared = planned("one")
    one = prepared.start()
    key = prepared.plan.cells[0].scores[0]
    rewrite(machine("any"), key.path, lambda content: content[:-1])
    with pytest.raises(StoreError, match=r"is missing from the store\. Run the same command again"):
        planned("two").start()
    jobs = Jobs()
    assert tables_of(planned("two").start(jobs).path) == tables_of(one.path)
    assert [job.makes for job in jobs.done] == [(key,)]
    assert planned("three").work.jobs == []


@IN_FILES
@pytest.mark.usefixtures("one_thread")
def test_the_url_is_written_nowhere(planned: Callable[..., Prepared], store_url: str, tmp_path: Path) -> None:
    keys = {job.id for job in planned("plain", store="").plan.jobs.values()}
    prepared = planned("one", "msp", store=f"{store_url}?token=s3cr3t", name="a run")
    assert {job.id for job in prepared.plan.jobs.values()} < keys
    prepared.start()
    for path in (tmp_path / "one").rglob("*"):
        assert not path.is_file() or not any(
            word in path.read_bytes() for word in (b"s3cr3t", b"memory://", b"file://")
        )
