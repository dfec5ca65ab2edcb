"""Reads Parquet files in the format of the Hugging Face Hub. Needs pyarrow, an optional dependency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.data.files.class_names import same_classes
from oodbench.benchmark.data.files.decode import MAX_IMAGES, Decoded, decode_all, few, in_range, refuse_many
from oodbench.benchmark.data.files.native.parquet_rows import ParquetPictures
from oodbench.benchmark.data.files.pixels import AS_STORED, Fit
from oodbench.benchmark.data.pictures.source import PictureFiles
from oodbench.benchmark.errors import DataError, UserError, first_line
from oodbench.benchmark.store.safe_read import parse_json

MAX_PARQUET = 1 << 34
"""Uncompressed bytes that a file may declare."""


@dataclass(frozen=True)
class Parquet:
    """A Parquet file as the Hugging Face Hub stores images: a column of {bytes, path}, and one of integer labels."""

    classes: tuple[str, ...]
    fit: Fit = AS_STORED
    images: tuple[str, ...] = ("image", "img")
    """Names of the image column, in order of preference."""
    labels: tuple[str, ...] = ("label", "fine_label", "labels")
    """Names of the label column, in order of preference."""
    max_images: int = field(default=MAX_IMAGES, repr=False)
    max_bytes: int = field(default=MAX_PARQUET, repr=False)
    """Limits change no pixels and are left out of the repr, which is part of the cache key."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the file in stored order."""
        path = paths[0]
        with _opened(path) as file:
            self._refuse_size(path, file.metadata)
            image, label = self._columns(path, file)
            table = file.read([image] + ([label] if label else []))
        return self._decoded(path, table, image, label)

    def pictures(self, paths: Sequence[Path], root: Path | None) -> PictureFiles | None:
        """The same images, read by row group; None for images that are stored in one size, or cut."""
        if self.fit.stored is not None or self.fit.how == "cut":
            return None
        path = paths[0]
        with _opened(path) as file:
            refuse_many(file.metadata.num_rows, self.max_images)
            image, label = self._columns(path, file)
            labels = None if label is None else self._labels_of(path, file.read([label]), label)
            rows = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
        return ParquetPictures(path, image, rows, labels)

    def _columns(self, path: Path, file: Any) -> tuple[str, str | None]:
        """The names of the image column, and of the label column of a set with classes."""
        names = file.schema_arrow.names
        image, label = self._column(path, self.images, names), None
        if self.classes:
            label = self._column(path, self.labels, names)
            self._same_names(path, file.schema_arrow.metadata or {}, label)
        return image, label

    def _refuse_size(self, path: Path, metadata: Any) -> None:
        refuse_many(metadata.num_rows, self.max_images)
        size = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
        if size > self.max_bytes:
            raise DataError(
                f"'{path}' declares {size:,} bytes, more than the limit of {self.max_bytes:,}. It was not read."
            )

    def _decoded(self, path: Path, table: Any, image: str, label: str | None) -> Decoded:
        if not len(table):
            raise DataError(f"'{path}' contains no images.")
        rows = table.column(image)
        stored = ((row, f"row {row} in {path.name}", _bytes(rows[row].as_py(), path)) for row in range(len(table)))
        labels = None if label is None else self._labels_of(path, table, label)
        images, bad, modes = decode_all(stored, len(table), self.fit, max_images=self.max_images)
        return Decoded(images, labels, None, bad, modes)

    def _labels_of(self, path: Path, table: Any, label: str) -> np.ndarray:
        column = table.column(label)
        if column.null_count or not str(column.type).startswith(("int", "uint")):
            raise DataError(
                f"Column '{label}' of '{path}' is {column.type} with {column.null_count} nulls; expected integers."
            )
        labels: np.ndarray = column.to_numpy().astype(np.int64)
        in_range(labels, len(self.classes), path)
        return labels

    def _column(self, path: Path, wanted: Sequence[str], names: Sequence[str]) -> str:
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise DataError(f"'{path}' has the columns {few(list(names))}; expected one named {few(wanted)}.")
        return found

    def _same_names(self, path: Path, metadata: dict[bytes, bytes], label: str) -> None:
        """Raise `DataError` if the file names its classes and they are not the card's, in the card's order."""
        try:
            info = parse_json(metadata.get(b"huggingface", b"{}"))
            names = info.get("info", {}).get("features", {}).get(label, {}).get("names")
        except (ValueError, AttributeError):
            return
        if names is not None and not same_classes(list(names), self.classes):
            raise DataError(
                f"'{path}' numbers the classes {few([str(name) for name in names])}; expected {few(self.classes)}."
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file. Raises `DataError` if it is damaged, `UserError` without pyarrow."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"'{path}' is a Parquet file, which needs pyarrow: pip install 'oodbench[parquet]'.") from error
    try:
        with ParquetFile(path) as file:
            yield file
    except (ArrowException, OSError) as error:
        raise DataError(f"'{path}' cannot be read as Parquet ({first_line(error)}). Download it again.") from error


def _bytes(cell: Any, path: Path) -> bytes:
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise DataError(
            f"The image column of '{path}' contains no bytes; expected {{bytes, path}} as on the Hugging Face Hub."
        )
    return content
