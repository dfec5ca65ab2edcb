"""Arrays in .npy and .npz files, memory-mapped where they lie; nothing in the files is executed.

A member of an .npz that was stored without compression (`np.savez`) is mapped at its offset in the archive; a
compressed one (`np.savez_compressed`) is unpacked block by block (`spool.py`). Errors are `OSError`, or `ValueError`
with the end of a sentence, to which `files.py` adds the name of the file.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from oodbench.benchmark.data.outputs.formats.spool import BLOCK, spooled_bytes
from oodbench.benchmark.errors import first_line

KINDS = "biufUS"
"""Kinds of arrays that are read: numbers and texts."""

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""A member's header inside a zip file: signature, then the lengths of its name and of its extra field."""

MAX_MEMBERS = 1000
"""Most members of an .npz."""

PICKLED = (
    "contains Python objects (pickle), which are never read because they can run code; save numbers, such as "
    "np.asarray(x, dtype=np.float32), and texts, such as np.array(names, dtype=str)"
)


class Header(NamedTuple):
    """What a .npy file declares, and where its data begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int
    """Bytes of the header."""

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize

    def shaped(self, flat: np.ndarray) -> np.ndarray:
        """The flat data in the declared shape."""
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def npy_array(path: Path) -> np.ndarray:
    """Memory-map a .npy file."""
    with path.open("rb") as file:
        header = read_header(file)
    return _mapped(path, 0, path.stat().st_size, header)


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise ValueError(f"has {len(members):,} members; at most {MAX_MEMBERS:,} are read")
            found: dict[str, np.ndarray] = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in found:
                    raise ValueError(f"contains '{name}' twice")
                found[name] = _member(path, archive, file, member)
            return found
    except (OSError, ValueError):
        raise
    except Exception as error:  # zipfile lets errors of decompressors, struct and others through
        raise ValueError(f"is not a readable .npz archive ({first_line(error).rstrip('.')})") from error


def read_header(file: IO[bytes]) -> Header:
    """Read the header of a .npy file; the file is left where the data begin."""
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version[0]}.{version[1]}")
        shape, fortran, dtype = read(file)
    except OSError:
        raise
    except Exception as error:  # NumPy's header parser lets errors of the tokenizer and others through
        raise ValueError(f"is not a NumPy array ({first_line(error).rstrip('.')})") from error
    if dtype.hasobject:
        raise ValueError(PICKLED)
    if dtype.kind not in KINDS:
        raise ValueError(f"contains {dtype}; expected numbers, or texts for names")
    if any(size < 0 for size in shape):
        raise ValueError(f"declares the shape {shape}, which no array has")
    return Header(shape, fortran, dtype, file.tell())


def _member(path: Path, archive: zipfile.ZipFile, file: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray:
    try:
        if member.flag_bits & 1:
            raise ValueError("is encrypted; save it without a password")
        with archive.open(member) as opened:
            header = read_header(opened)
            if header.nbytes > member.file_size - header.length:
                raise ValueError(
                    f"declares {header.nbytes:,} bytes of data but has {member.file_size - header.length:,}: the file "
                    "is truncated or damaged; save it again"
                )
            if member.compress_type != zipfile.ZIP_STORED or not header.nbytes:
                return header.shaped(spooled_bytes(_rest(opened, header.nbytes), header.nbytes, header.dtype))
        file.seek(member.header_offset)
        signature, name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise ValueError("is damaged: its place in the archive is wrong; save it again")
        start = member.header_offset + LOCAL_HEADER.size + name + extra
        return _mapped(path, start, member.file_size, header)
    except ValueError as error:
        raise ValueError(f"has a member '{member.filename}' that {error}") from error


def _rest(opened: IO[bytes], total: int) -> Iterator[bytes]:
    while total > 0 and (piece := opened.read(min(BLOCK, total))):
        total -= len(piece)
        yield piece
    if total > 0:
        raise ValueError("ends early: the file is truncated or damaged; save it again")


def _mapped(path: Path, start: int, size: int, header: Header) -> np.ndarray:
    """Map the data of a .npy file that lies within another file, at `start`, and has `size` bytes."""
    present = min(size, path.stat().st_size - start) - header.length
    if header.nbytes > present:
        raise ValueError(
            f"declares {header.nbytes:,} bytes of data but has {max(present, 0):,}: the file is truncated or damaged; "
            "save it again"
        )
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    return np.memmap(path, header.dtype, "r", start + header.length, header.shape, order="F" if header.fortran else "C")
