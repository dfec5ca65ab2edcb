"""Given arrays are copied into the store in blocks: memory does not depend on their size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.api import prepare
from oodbench.benchmark.data.outputs import GivenArrays
from oodbench.benchmark.plan.outputs.jobs import ImportArraysJob
from oodbench.benchmark.stages import import_given
from oodbench.benchmark.stages.dispatch import run_job
from oodbench.benchmark.store.npy import load_array
from tests.support import give_outputs

pytestmark = [pytest.mark.usefixtures("unchanged_registry", "one_thread")]

WIDE, LARGE = 512, 200_000


def give_large(folder: Path, rows: int, width: int) -> None:
    """Outputs whose OOD set 'large' has features of `rows` images, zero but for the last row, in a sparse file."""
    draw = np.random.default_rng(0)
    parts = {"train": 40, "val": 20, "test": 20}
    features = {name: draw.normal(size=(count, width)).astype(np.float32) for name, count in parts.items()}
    small = {name: GivenArrays(len(f), features=f, labels=np.arange(len(f)) % 4) for name, f in features.items()}
    give_outputs(folder, id=small, ood={"other": GivenArrays(20, features=features["test"] + 1)}, groups={}, head=None)
    array = np.lib.format.open_memmap(folder / "ood" / "large_features.npy", "w+", np.float32, (rows, width))
    array[-1] = 1
    array.flush()


def import_large(tmp_path: Path, rows: int, width: int) -> np.ndarray:
    """Plan a run and import the large set; returns the stored features."""
    give_large(tmp_path / "mine", rows, width)
    prepared = prepare("knn[k=5]", outputs=tmp_path / "mine", results=tmp_path / "results", threads=1)
    (job,) = (j for j in prepared.work.jobs if isinstance(j, ImportArraysJob) and "of large" in j.title)
    run_job(prepared.context, job, lambda images: None)
    return load_array(tmp_path / "results" / "cache" / job.outputs.features.path)


def test_rows_of_several_blocks_are_copied_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_given, "BLOCK", 7 * 8 * 4)  # seven rows
    stored = import_large(tmp_path, 100, 8)
    assert stored.shape == (100, 8)
    assert stored.dtype == np.float32
    assert stored[:-1].max() == 0
    assert stored[-1].min() == 1


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        stored = import_large(tmp_path, LARGE, WIDE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert stored.shape == (LARGE, WIDE)
    assert stored.nbytes > 400_000_000
    assert stored[-1].min() == 1
    assert peak < 100_000_000
