"""Columns of Parquet files as arrays: lists of equal lengths are matrices. Needs pyarrow.

Columns are read one after the other, in batches, and those that are large are unpacked to a temporary file
(`spool.py`). Errors are `OSError`, or `ValueError` with the end of a sentence, to which `files.py` adds the name of the
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.data.outputs.formats.spool import spooled_bytes
from oodbench.benchmark.errors import UserError, first_line

ROWS = 1024
"""Rows of a batch."""

MAX_WIDTH = 1 << 20
"""Most elements of a list."""


def parquet_arrays(path: Path) -> dict[str, np.ndarray]:
    """The columns of a Parquet file by name. `UserError` without pyarrow."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"'{path}' is a Parquet file, which needs pyarrow: pip install 'oodbench[parquet]'.") from error
    try:
        with ParquetFile(path, memory_map=True) as file:
            schema = file.schema_arrow
            if twice := [name for k, name in enumerate(schema.names) if name in schema.names[:k]]:
                raise ValueError(f"has two columns '{twice[0]}'")
            return {name: _column(file, name, schema.field(name).type) for name in schema.names}
    except pyarrow.ArrowException as error:
        raise ValueError(f"cannot be read as Parquet ({first_line(error).rstrip('.')}); save it again") from error


def _column(file: Any, name: str, kind: Any) -> np.ndarray:
    from pyarrow import types

    rows = file.metadata.num_rows
    if types.is_string(kind) or types.is_large_string(kind) or _is_dictionary_of_texts(kind):
        return np.array([text for batch in _batches(file, name) for text in batch.to_pylist()], dtype=str)
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    element = kind.value_type if is_list else kind
    if not (types.is_floating(element) or types.is_integer(element)):
        raise ValueError(f"has a column '{name}' of type {kind}; expected numbers, lists of numbers, or texts")
    dtype = np.dtype(element.to_pandas_dtype())
    batches = _batches(file, name)
    if not is_list:
        pieces = (batch.to_numpy(zero_copy_only=False).astype(dtype).tobytes() for batch in batches)
        return spooled_bytes(pieces, rows * dtype.itemsize, dtype)
    first = next(batches, None)
    if first is None:
        return np.empty((0, 0), dtype)
    width = len(first[0])
    if width > MAX_WIDTH:
        raise ValueError(f"has lists of {width:,} numbers in the column '{name}'; at most {MAX_WIDTH:,} are read")
    flat = spooled_bytes(_matrices(name, chain([first], batches), width, dtype), rows * width * dtype.itemsize, dtype)
    return flat.reshape(rows, width)


def _is_dictionary_of_texts(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_dictionary(kind) and types.is_string(kind.value_type))


def _batches(file: Any, name: str) -> Iterator[Any]:
    """The column's values, batch by batch. `ValueError` for missing ones."""
    start = 0
    for batch in file.iter_batches(ROWS, columns=[name]):
        column = batch.column(0)
        if column.null_count:
            row = start + column.is_valid().to_pylist().index(False)
            raise ValueError(f"has no value in row {row} of the column '{name}'; fill it, or leave this image out")
        yield column
        start += len(column)


def _matrices(name: str, batches: Iterator[Any], width: int, dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The bytes of each batch of lists, all of one length."""
    start = 0
    for column in batches:
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if (other := np.flatnonzero(lengths != width)).size:
            raise ValueError(
                f"has a list of {lengths[other[0]]:,} numbers in row {start + other[0]} of the column '{name}', but "
                f"{width:,} in row 0; expected the same number in every row"
            )
        values = column.flatten()
        if values.null_count:
            row = start + values.is_valid().to_pylist().index(False) // width
            raise ValueError(f"has an empty value in row {row} of the column '{name}'; expected numbers")
        yield values.to_numpy(zero_copy_only=False).astype(dtype).tobytes()
        start += len(column)
