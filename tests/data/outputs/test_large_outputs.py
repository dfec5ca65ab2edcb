"""Arrays larger than the memory that reading and checking them takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from oodbench.benchmark.data.outputs import check_outputs, head_of, read_outputs, read_scores
from tests.data.outputs.folders import write_folder

ROWS, DIM, CLASSES = 60_000, 512, 10

T = TypeVar("T")


def peak_of(work: Callable[[], T]) -> tuple[T, int]:
    """The result, and the most bytes that were in use by it and on the way to it; mapped files do not count."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def sparse(path: Path, width: int, rows: dict[int, Any]) -> int:
    """A .npy file of zeros, which take no space on the disk, but for some rows. Returns the bytes of the array."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (ROWS, width))
    for row, values in rows.items():
        array[row] = values
    return int(array.nbytes)


def test_arrays_are_read_and_checked_in_blocks(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(CLASSES, DIM)).astype(np.float32)

    def outputs(count: int) -> dict[str, Any]:
        features = draw.normal(size=(count, DIM)).astype(np.float32)
        return {"features": features, "logits": features @ weight.T}

    write_folder(tmp_path, id_test=outputs(50), svhn=outputs(50))
    train = outputs(1000)
    places = range(0, ROWS, ROWS // 1000)
    size = sum(
        sparse(tmp_path / f"id_train_{what}.npy", array.shape[1], dict(zip(places, array, strict=True)))
        for what, array in train.items()
    )
    given, opened = peak_of(lambda: read_outputs(tmp_path))
    assert opened < size / 100
    _, checked = peak_of(lambda: check_outputs(given))
    assert checked < size / 4
    head, found = peak_of(lambda: head_of(given))
    assert head is not None
    np.testing.assert_allclose(head.weight, weight, atol=1e-5)
    assert found < size / 2


@pytest.mark.slow
def test_a_csv_file_is_read_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    rows = 40_000
    with path.open("w") as file:
        file.write("set,split,method,score,image\n")
        for name, split in (("id", "id"), ("svhn", "ood")):
            file.writelines(f"{name},{split},a method with a long name {'x' * 200},{k},{k}\n" for k in range(rows))
    given, peak = peak_of(lambda: read_scores(path))
    assert given.ood["svhn"].count == rows
    assert peak < path.stat().st_size
