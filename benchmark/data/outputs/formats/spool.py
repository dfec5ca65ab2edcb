"""Arrays that must be converted or unpacked before use: in memory if they are small, else in a temporary file.

The file has no name (it is deleted at once), lies in the folder for temporary files (`TMPDIR`), and is memory-mapped,
so that an array of any size takes little memory. Its space is freed when nothing uses the array any more.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

BLOCK = 1 << 22
"""Bytes that are read, converted or hashed at a time."""

IN_MEMORY = 1 << 26
"""Bytes of an array that is kept in memory."""


def spooled_bytes(
    pieces: Iterable[bytes | memoryview], total: int, dtype: np.dtype[Any], in_memory: int = IN_MEMORY
) -> np.ndarray:
    """A flat array from pieces of its bytes, `total` in all. `ValueError` if the disk has no room for them."""
    if total <= in_memory:
        flat = np.empty(total // dtype.itemsize if dtype.itemsize else 0, dtype)
        place = flat.view(np.uint8).reshape(-1).data if total else memoryview(b"")
        start = 0
        for piece in pieces:
            place[start : start + len(piece)] = piece
            start += len(piece)
        return flat
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < total:
        raise ValueError(
            f"needs {total / 1e9:.1f} GB in '{folder}' to be unpacked or converted, which has {free / 1e9:.1f} GB; "
            "save it uncompressed as float32 or float64 (np.savez), or set TMPDIR to a folder with more room"
        )
    with tempfile.TemporaryFile() as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        return np.memmap(file, dtype, "r", shape=(total // dtype.itemsize,))


def converted(array: np.ndarray, dtype: DTypeLike, in_memory: int = IN_MEMORY) -> np.ndarray:
    """The array with another type, converted in blocks of rows."""
    wanted = np.dtype(dtype)
    total = math.prod(array.shape) * wanted.itemsize
    if total <= in_memory:
        return np.asarray(array, dtype=wanted, order="C")
    pieces = (np.asarray(block, dtype=wanted, order="C").tobytes() for block in row_blocks(array))
    return spooled_bytes(pieces, total, wanted, in_memory).reshape(array.shape)


def row_blocks(array: np.ndarray, size: int = BLOCK) -> Iterator[np.ndarray]:
    """The array's rows, in blocks of about `size` bytes."""
    rows = rows_per_block(array, size)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def rows_per_block(array: np.ndarray, size: int = BLOCK) -> int:
    """Number of rows that have about `size` bytes."""
    return max(1, size // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
