"""Arrays in .safetensors files, memory-mapped where they lie, without torch.

Errors are `OSError`, or `ValueError` with the end of a sentence, to which `files.py` adds the name of the file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from oodbench.benchmark.data.outputs.formats.spool import row_blocks, spooled_bytes
from oodbench.benchmark.store.safe_read import MAX_JSON, parse_json
from oodbench.benchmark.store.schema import Count, convert

BFLOAT16 = "BF16"

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    BFLOAT16: "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "|b1",
}
"""Types of tensors -> NumPy's; bfloat16, which NumPy lacks, is widened to float32, which is exact."""


class Entry(TypedDict):
    """A tensor in the header."""

    dtype: str
    shape: list[Count]
    data_offsets: list[Count]


def safetensors_arrays(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a .safetensors file by name."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_JSON):
            raise ValueError("is not a .safetensors file, or it is truncated; save it again")
        header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("is not a .safetensors file: its header is no JSON object; save it again")
    start = 8 + length
    return {
        name: _mapped(path, name, convert(entry, Entry), start, size - start)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _mapped(path: Path, name: str, entry: Entry, start: int, size: int) -> np.ndarray:
    kind, shape, offsets = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if kind not in DTYPES:
        raise ValueError(f"has a tensor '{name}' of type {kind[:20]}; save it as float32")
    dtype: np.dtype[Any] = np.dtype(DTYPES[kind])
    begin, end = offsets if len(offsets) == 2 else (0, -1)
    if not (0 <= begin <= end <= size and min(shape, default=0) >= 0):
        raise ValueError(f"has a tensor '{name}' outside of the file, which is truncated or damaged; save it again")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"has a tensor '{name}' whose size does not fit its shape {shape}; save it again")
    if begin == end:
        return np.empty(shape, dtype)
    array = np.memmap(path, dtype, "r", start + begin, shape)
    if kind != BFLOAT16:
        return array
    widened = ((block.astype("<u4") << 16).tobytes() for block in row_blocks(array.reshape(-1)))
    return spooled_bytes(widened, 2 * (end - begin), np.dtype("<f4")).reshape(shape)
