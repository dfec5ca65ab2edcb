"""Parquet files as the Hugging Face hub has them. Needs pyarrow, an optional extra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.data.files.decode import Decoded, decode_all, few, in_range, refuse_many
from oodbench.benchmark.data.files.pixels import AS_STORED, Fit
from oodbench.benchmark.errors import DataError, UserError, first_line
from oodbench.benchmark.store.safe_read import parse_json

MAX_PARQUET = 1 << 34
"""Bytes that a file may declare, unpacked."""


@dataclass(frozen=True)
class Parquet:
    """A parquet file as Hugging Face's hub stores images: a column {bytes, path}, and one of label numbers."""

    classes: tuple[str, ...]
    fit: Fit = AS_STORED
    images: tuple[str, ...] = ("image", "img")
    """Names of the image column, in order of preference."""
    labels: tuple[str, ...] = ("label", "fine_label", "labels")

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the one file, in stored order."""
        path = paths[0]
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise UserError(
                f"'{path}' is a parquet file, which needs pyarrow: pip install 'oodbench[parquet]'."
            ) from error
        try:
            with ParquetFile(path) as file:
                self._refuse_size(path, file.metadata)
                names = file.schema_arrow.names
                image, label = self._column(path, self.images, names), None
                if self.classes:
                    label = self._column(path, self.labels, names)
                    self._same_names(path, file.schema_arrow.metadata or {}, label)
                table = file.read([image] + ([label] if label else []))
        except (ArrowException, OSError) as error:
            raise DataError(f"'{path}' cannot be read as parquet ({first_line(error)}). Get it again.") from error
        return self._decoded(path, table, image, label)

    def _refuse_size(self, path: Path, metadata: Any) -> None:
        refuse_many(metadata.num_rows)
        size = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
        if size > MAX_PARQUET:
            raise DataError(f"'{path}' declares {size:,} bytes, more than {MAX_PARQUET:,}: not read.")

    def _decoded(self, path: Path, table: Any, image: str, label: str | None) -> Decoded:
        if not len(table):
            raise DataError(f"'{path}' holds no image.")
        rows = table.column(image)
        stored = ((row, f"row {row} in {path.name}", _bytes(rows[row].as_py(), path)) for row in range(len(table)))
        labels = None
        if label is not None:
            column = table.column(label)
            if column.null_count or not str(column.type).startswith(("int", "uint")):
                raise DataError(
                    f"Column '{label}' of '{path}' is {column.type} with {column.null_count} empty; expected integers."
                )
            labels = column.to_numpy().astype(np.int64)
            in_range(labels, len(self.classes), path)
        images, bad, modes = decode_all(stored, len(table), self.fit)
        return Decoded(images, labels, None, bad, modes)

    def _column(self, path: Path, wanted: Sequence[str], names: Sequence[str]) -> str:
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise DataError(f"'{path}' has the columns {few(list(names))}; expected one called {few(wanted)}.")
        return found

    def _same_names(self, path: Path, metadata: dict[bytes, bytes], label: str) -> None:
        """Where the file says what its labels mean, they must be the card's classes in the card's order."""
        try:
            info = parse_json(metadata.get(b"huggingface", b"{}"))
            names = info.get("info", {}).get("features", {}).get(label, {}).get("names")
        except (ValueError, AttributeError):
            return
        if names is not None and list(names) != list(self.classes):
            raise DataError(f"'{path}' numbers the classes {few(list(names))}; expected {few(self.classes)}.")


def _bytes(cell: Any, path: Path) -> bytes:
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise DataError(
            f"The image column of '{path}' holds no bytes; expected {{bytes, path}} as on the Hugging Face hub."
        )
    return content
