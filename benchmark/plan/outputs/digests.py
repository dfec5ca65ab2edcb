"""Hashes of given arrays, which identify them in keys. Of large files they are computed once and remembered."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.outputs.formats.spool import row_blocks


def array_sha256(array: np.ndarray, cache: DataCache | None = None) -> str:
    """SHA-256 over type, shape and values; independent of where they lie, of their order in memory and of the machine.

    `cache`: where the hash of an array that is mapped from a file is kept, as long as the file stays as it is.
    """
    path = _file_of(array)
    if cache is None or path is None:
        return _computed(array)
    place = f"{getattr(array, 'offset', 0)} {array.__array_interface__['data'][0] - _start(array)}"
    part = f"array {array.dtype.str} {array.shape} {array.strides} at {place}"
    return cache.hash_in(path, part, lambda: _computed(array))


def combined_sha256(*digests: str) -> str:
    """One hash for several."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _computed(array: np.ndarray) -> str:
    little = array.dtype.newbyteorder("<")
    digest = hashlib.sha256(f"{little.str} {array.shape}".encode())
    for block in row_blocks(array):
        digest.update(np.ascontiguousarray(block, dtype=little).data)
    return digest.hexdigest()


def _file_of(array: np.ndarray) -> Path | None:
    """The file that an array is mapped from; None if it is in memory, or its file has no name any more."""
    name: Any = getattr(array, "filename", None)
    path = Path(name) if isinstance(name, str | Path) else None
    return path if path is not None and path.is_file() else None


def _start(array: np.ndarray) -> int:
    """The address of the first byte of the mapping that an array is a view of."""
    base: Any = array
    while isinstance(getattr(base, "base", None), np.ndarray):
        base = base.base
    address: int = base.__array_interface__["data"][0]
    return address
