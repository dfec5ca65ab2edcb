"""Rows of an array that come block by block: in memory while they are few, else in a temporary file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from oodbench.benchmark.errors import StoreError

IN_MEMORY = 1 << 26
"""Bytes of one array that are kept in memory."""


class Rows:
    """Collects blocks (n, D) of one type and width; `array` is all of them, memory-mapped if they are large.

    The temporary file has no name, and its space is freed when nothing uses the array any more. A context manager, in
    which `array` is called.
    """

    def __init__(self, folder: Path | None = None, in_memory: int = IN_MEMORY) -> None:
        """`folder`: where the temporary file lies; by default `TMPDIR`."""
        self._folder, self._in_memory = folder, in_memory
        self._blocks: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._bytes = 0
        self.count = 0
        """Number of rows."""

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()  # a memory map outlives it

    def add(self, block: np.ndarray) -> None:
        """Append a block. Raises `StoreError` if the disk is full."""
        block = np.ascontiguousarray(block)
        self._bytes += block.nbytes
        self.count += len(block)
        if self._file is None and self._bytes <= self._in_memory:
            self._blocks.append(block)
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as the array
                for earlier in self._blocks:
                    self._file.write(earlier.data)
                self._blocks = [block[:0]]
            self._file.write(block.data)
        except OSError as error:
            where = self._folder or tempfile.gettempdir()
            raise StoreError(
                f"Outputs of the network cannot be written to '{where}': {error.strerror or error}. Free some space, "
                "or choose another folder (results=..., or the environment variable TMPDIR)."
            ) from error

    def array(self) -> np.ndarray[Any, Any]:
        """All rows, (N, D); memory-mapped and read-only if they are in a file."""
        if self._file is None:
            return np.concatenate(self._blocks)
        self._file.flush()
        empty = self._blocks[0]
        return np.memmap(self._file, empty.dtype, "r", shape=(self.count, *empty.shape[1:]))
