"""Faults of disks, data, memory and detectors: the messages they cause, and that no finished work is lost."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.decode import Decoded, Reader
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.engines.time_limit import refuse_impossible
from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.plan.jobs import ExtractJob, Job, ScoreJob
from oodbench.benchmark.plugins.inputs import Classifier, ForwardOutput
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages import extract
from oodbench.benchmark.store import atomic
from oodbench.benchmark.views.tables.markdown import table_markdown
from tests.chaos.distributed import MATRIX, TRAINING
from tests.support import cut_last_byte, flip_last_bit, run_suite, tables_of, write_suite

if TYPE_CHECKING:
    from tests.chaos.conftest import ForkServer
    from tests.chaos.distributed import Tables

pytestmark = pytest.mark.usefixtures("one_thread")

BAD = """
import signal
import torch
from oodbench.benchmark import Detector, detector

@detector("test_memory", title="Allocates too much")
class Greedy(Detector):
    def score(self, batch):
        raise MemoryError("Unable to allocate 7.28 TiB for an array")

@detector("test_torch", title="Allocates too much in torch")
class GreedyOfTorch(Detector):
    def score(self, batch):
        return torch.empty(1 << 60)

@detector("test_cuda", title="Allocates too much on a GPU")
class GreedyOfCuda(Detector):
    def score(self, batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

@detector("test_hangs", title="Hangs")
class Hangs(Detector):
    def score(self, batch):
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)  # so that the test does not wait for the limit
        while True:
            try:
                sum(range(1000))
            except Exception:
                pass
"""


@pytest.fixture
def run_tiny(tiny: Path) -> Callable[..., StoredRun]:
    """Run two detectors on the tiny suite, in this process, without plots."""

    def run(detectors: str = "msp,energy", **options: Any) -> StoredRun:
        return run_suite(tiny, detectors, **{"epochs": 1, "ood_sets": "greek", **options})

    return run


@pytest.fixture(scope="module")
def undisturbed_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    before = torch.get_num_threads()
    run_suite(write_suite(folder, MATRIX, training=TRAINING), "msp,energy", results=folder, epochs=1, ood_sets="greek")
    torch.set_num_threads(before)
    return folder / "cache"


@pytest.fixture(scope="module")
def undisturbed(undisturbed_cache: Path) -> Tables:
    """The tables of an undisturbed run."""
    return tables_of(undisturbed_cache.parent / "runs/tiny")


class At(Quiet):
    """Calls a function when the first job of a kind starts; counts the jobs."""

    def __init__(self, kind: type[Job] = Job, act: Callable[[], object] = lambda: None) -> None:
        self.kind, self.act, self.jobs = kind, act, 0

    def start(self, job: Job) -> None:
        self.jobs += 1
        if isinstance(job, self.kind):
            self.kind = type(None)  # type: ignore[assignment]
            self.act()


def temporary(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.endswith(".tmp") or path.name.startswith(".pass-")]


# Disks


def failing(original: Callable[..., Any], at: int, error: OSError) -> Callable[..., Any]:
    """A function that raises from its n-th call on."""
    calls = iter(range(1, 1_000_000))

    def called(*arguments: Any, **named: Any) -> Any:
        if next(calls) >= at:
            raise error
        return original(*arguments, **named)

    return called


FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


CASES = [
    (atomic, "flush", FULL, 12),
    (tempfile, "mkstemp", READ_ONLY, 6),
    *(
        pytest.param(owner, name, error, at, marks=pytest.mark.slow)
        for owner, name, error in ((atomic, "flush", FULL), (tempfile, "mkstemp", READ_ONLY))
        for at in (1, 2, 3, 9, 15, 18)
    ),
]


@pytest.mark.parametrize("owner, name, error, at", CASES)
def test_a_disk_that_cannot_be_written(
    run_tiny: Callable[..., StoredRun],
    undisturbed: Tables,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: OSError,
    at: int,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), at, error))
        with pytest.raises(StoreError, match=rf"^Cannot write '.*': {error.strerror}\. Choose a.* --results\.$"):
            run_tiny()
    assert temporary(tmp_path / "results") == []
    finished = len(list((tmp_path / "results/cache/scores").glob("*.npy.json")))
    watch = At()
    assert tables_of(run_tiny(progress=watch).path) == undisturbed
    assert watch.jobs <= 7 - finished, "finished jobs are not repeated"


@pytest.mark.slow
@pytest.mark.parametrize("largest", [2_000, 12_000])
def test_a_limit_of_the_system_on_files(fork_server: ForkServer, reference: Tables, largest: int) -> None:
    results = f"limited{largest}"
    assert fork_server.run(results, largest=largest) == 2
    assert "Error: Cannot write '" in fork_server.output(results)
    assert "File too large" in fork_server.output(results)
    assert "Traceback" not in fork_server.output(results)
    assert fork_server.run(results) == 0
    assert fork_server.tables(results) == reference
    assert fork_server.left_over(results) == []


@pytest.fixture
def small_disk(fork_server: ForkServer) -> Iterator[Callable[[str, str], None]]:
    """Mount a disk of a given size as a results folder, or resize it; needs root."""
    mounted: list[Path] = []

    def resize(results: str, size: str) -> None:
        folder = fork_server.folder / results
        folder.mkdir(exist_ok=True)
        options = f"remount,size={size}" if folder in mounted else f"size={size}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot mount a disk: {done.stderr.decode().strip()}")
        mounted.append(folder)

    yield resize
    for folder in dict.fromkeys(mounted):
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="this system has no mount command")
@pytest.mark.parametrize("size", ["24k", "160k", "480k"])
def test_a_disk_that_is_full(
    fork_server: ForkServer, reference: Tables, small_disk: Callable[[str, str], None], size: str
) -> None:
    results = f"full{size}"
    small_disk(results, size)
    assert fork_server.run(results) == 2
    output = fork_server.output(results)
    assert "No space left on device" in output
    assert "Error: Cannot " in output
    assert "Traceback" not in output
    small_disk(results, "64m")
    assert fork_server.run(results) == 0
    assert fork_server.tables(results) == reference
    assert fork_server.left_over(results) == []


@pytest.mark.parametrize("kind", [pytest.param(ExtractJob, marks=pytest.mark.slow), ScoreJob])
def test_the_results_folder_is_removed(
    run_tiny: Callable[..., StoredRun], undisturbed: Tables, tmp_path: Path, kind: type[Job]
) -> None:
    remove = At(kind, lambda: shutil.rmtree(tmp_path / "results"))
    with pytest.raises(StoreError, match=r"is missing from the store\. Run the same command again"):
        run_tiny(progress=remove)
    assert tables_of(run_tiny().path) == undisturbed


def test_the_folder_of_the_run_is_removed(
    run_tiny: Callable[..., StoredRun], undisturbed: Tables, tmp_path: Path
) -> None:
    remove = At(ScoreJob, lambda: shutil.rmtree(tmp_path / "results/runs/tiny"))
    with pytest.raises(StoreError, match=r"was removed during the run\. Run the same command again"):
        run_tiny(progress=remove)
    watch = At()
    assert tables_of(run_tiny(progress=watch).path) == undisturbed
    assert watch.jobs == 0, "the cache has everything"


# Data


@pytest.mark.parametrize("damage", [flip_last_bit, pytest.param(cut_last_byte, marks=pytest.mark.slow)])
def test_an_artifact_that_is_damaged_after_it_was_verified(
    run_tiny: Callable[..., StoredRun],
    undisturbed: Tables,
    tmp_path: Path,
    damage: Callable[[Path], None],
    logged: list[str],
) -> None:

    def strike() -> None:
        for path in (tmp_path / "results/cache/logits").glob("*.npy"):
            damage(path)

    with pytest.raises(StoreError, match="is missing from the store"):
        run_tiny(progress=At(ScoreJob, strike))
    assert len(logged) == 1
    assert "does not match its checksum. It was moved to" in logged[0]
    assert tables_of(run_tiny().path) == undisturbed


@pytest.mark.parametrize("damage", [flip_last_bit, cut_last_byte])
def test_decoded_images_that_are_damaged(tmp_path: Path, damage: Callable[[Path], None], logged: list[str]) -> None:
    pixels = np.arange(5 * 3 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(5, 3, 32, 32)
    reads: list[None] = []

    def read() -> Decoded:
        reads.append(None)
        return Decoded(pixels.copy(), None, None, {}, {"RGB": 5})

    def cached() -> np.ndarray:
        cache = DataCache(tmp_path)  # as in another process
        entry = cache.find("pets", {"pets.zip": "0" * 64}, cast("Reader", "a reader"), (), read)
        return np.array(entry.images.images)

    assert np.array_equal(cached(), pixels)
    assert np.array_equal(cached(), pixels)
    assert (len(reads), logged) == (1, [])
    path = next(tmp_path.glob("*.images.npy"))
    damage(path)
    assert np.array_equal(cached(), pixels)
    assert len(reads) == 2
    assert len(logged) == 1
    assert logged[0].endswith("is damaged: its source is decoded again.")
    assert np.array_equal(cached(), pixels)
    assert len(reads) == 2


# Memory


@pytest.mark.parametrize(
    "detector, reason",
    [
        ("test_memory", "MemoryError: Unable to allocate 7.28 TiB"),
        ("test_torch", "RuntimeError: "),
        ("test_cuda", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
)
def test_memory_that_runs_out_in_a_detector(
    run_tiny: Callable[..., StoredRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detector: str, reason: str
) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(BAD)
    released: list[None] = []
    monkeypatch.setattr("oodbench.benchmark.stages.memory.release", lambda: released.append(None))
    records = run_tiny(f"msp,{detector}", plugins=[plugin]).records
    status = {record.detector: (record.status, record.reason) for record in records}
    assert status["msp"] == ("ok", "")
    assert status[detector][0] == "failed"
    assert reason in status[detector][1]
    assert len(released) == 2, "once for each set"


@pytest.mark.slow
def test_memory_that_runs_out_in_extraction(
    run_tiny: Callable[..., StoredRun], undisturbed_cache: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    original, sizes = extract._forward, []

    def forward(
        classifier: Classifier, block: np.ndarray, device: torch.device, maps: bool, size: int
    ) -> ForwardOutput:
        sizes.append(size)
        if size > 64:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return original(classifier, block, device, maps, size)

    monkeypatch.setattr(extract, "_forward", forward)
    small = run_tiny()
    assert sizes[:4] == [256, 128, 64, 64]
    assert len(logged) == 4, "twice for each of two sets"
    assert "continuing in blocks of 64. The last bits of its logits and features may differ" in logged[1]
    for path in sorted((undisturbed_cache / "logits").glob("*.npy")):
        array = small.path.parents[1] / "cache/logits" / path.name
        assert np.load(array) == pytest.approx(np.load(path), abs=1e-5)
        assert json.loads(array.with_name(array.name + ".json").read_text())["about"]["block"] == 64
    sentence = (
        "memory was short, so that last bits may differ from those of other machines: forwarded in blocks of 64 images"
    )
    assert all(sentence in record.notes for record in small.records)
    assert sentence in " ".join(table_markdown(small).split())


def test_memory_that_holds_no_block(run_tiny: Callable[..., StoredRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oodbench.benchmark.stages.memory.release", lambda: None)
    monkeypatch.setattr(extract, "_forward", failing(lambda: None, 1, cast("OSError", MemoryError("nothing left"))))
    records = run_tiny("msp").records
    assert [record.status for record in records] == ["failed"]
    assert "MemoryError: nothing left" in records[0].reason


# Time


def test_a_detector_that_hangs_is_stopped(run_tiny: Callable[..., StoredRun], tmp_path: Path) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(BAD)
    records = run_tiny("test_hangs,msp", plugins=[plugin], cell_timeout=1000.0).records
    assert {record.detector: record.status for record in records} == {"test_hangs": "failed", "msp": "ok"}
    assert next(r.reason for r in records if r.detector == "test_hangs").endswith(
        "it did not end within 1000 s (--cell-timeout)"
    )


HANGS_IN_NATIVE_CODE = """
import hashlib
from oodbench.benchmark import Detector, detector

@detector("test_stuck", title="Is stuck")
class Stuck(Detector):
    def score(self, batch):
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
"""


@pytest.mark.slow
def test_native_code_that_does_not_return_ends_the_process(fork_server: ForkServer) -> None:
    plugin = fork_server.folder / "stuck.py"
    plugin.write_text(HANGS_IN_NATIVE_CODE)
    more = ["--plugin", str(plugin), "--cell-timeout", "5"]
    assert fork_server.run("stuck", "msp,test_stuck", more=more, grace=1.0) == 1
    assert "stuck.py" in fork_server.output("stuck")
    assert fork_server.run("stuck", "msp") == 0
    assert fork_server.left_over("stuck") == []


def test_without_alarms_a_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_impossible(5.0)
    monkeypatch.delattr("signal.setitimer")
    refuse_impossible(0.0)
    with pytest.raises(UserError, match=r"^--cell-timeout works only on Linux or macOS"):
        refuse_impossible(5.0)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_limit_is_a_number_of_seconds(run_tiny: Callable[..., StoredRun], seconds: float) -> None:
    with pytest.raises(UserError, match="cell_timeout must be a number of seconds"):
        run_tiny(cell_timeout=seconds)


def jumps() -> Iterator[float]:
    """A clock that is set back by a day and forward by a year, again and again."""
    now = 1.8e9
    while True:
        yield now
        now += -86_400.0
        yield now
        now += 3.2e7


def test_a_clock_that_jumps(
    run_tiny: Callable[..., StoredRun], undisturbed: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = jumps()
    monkeypatch.setattr(time, "time", lambda: next(clock))
    assert tables_of(run_tiny().path) == undisturbed
    assert all(record.seconds >= 0 for record in run_tiny().records)
