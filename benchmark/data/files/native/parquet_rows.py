"""Pictures in a Parquet file by row, read by row group: the column as a whole would not fit in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.pictures.source import DamagedImageError, refuse_large, stamp_of_file
from oodbench.benchmark.errors import first_line

HELD_BYTES = 1 << 28
"""Bytes of encoded pictures that stay in memory, if that is more than two row groups."""

HELD_GROUPS = 2


class ParquetPictures:
    """The rows of a column of {bytes, path}. Pictures are named after their rows."""

    def __init__(
        self, path: Path, column: str, rows_of_groups: Sequence[int], labels: NDArray[np.int64] | None
    ) -> None:
        """`rows_of_groups`: number of rows of each row group."""
        self.place, self.labels, self.groups = path, labels, None
        self._column, self._starts = column, np.concatenate([[0], np.cumsum(rows_of_groups)])
        self.names = [f"row {row}" for row in range(int(self._starts[-1]))]
        self._held: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def stamps(self, rows: Sequence[int]) -> list[str]:
        """The stamp of the file, which all rows share."""
        return [stamp_of_file(self.place)] * len(rows)

    def read(self, row: int) -> bytes:
        """The bytes of one row."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        try:
            with self._lock:
                content = self._group(group)[row - int(self._starts[group])]["bytes"].as_py()
        except Exception as error:  # pyarrow raises its own errors, and those of its decompressors
            raise DamagedImageError(f"cannot be read ({first_line(error)})") from error
        if not isinstance(content, bytes):
            raise DamagedImageError("holds no bytes")
        refuse_large(len(content))
        return content

    def _group(self, group: int) -> Any:
        """The column of a row group; the last ones stay in memory."""
        if group in self._held:
            self._held.move_to_end(group)
            return self._held[group]
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.place) as file:
            self._held[group] = file.read_row_group(group, columns=[self._column]).column(0).combine_chunks()
        while len(self._held) > HELD_GROUPS and sum(column.nbytes for column in self._held.values()) > HELD_BYTES:
            self._held.popitem(last=False)
        return self._held[group]
