"""Reads files that others may have written: sizes, nesting and numbers are bounded, and nothing in them is executed.

Errors are `OSError` and `ValueError`; callers turn them into a sentence that names the file. What a JSON file must
contain is declared in schema.py.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

MAX_JSON = 1 << 24
"""Bytes of a JSON file. Parsed, it can take twenty times as much memory."""

MAX_DEPTH = 64
"""How deep lists and objects may be nested."""

MAX_BITS = 14_000
"""Bits of an integer; Python refuses to print one of more than 4,300 digits."""


CHUNK = 1 << 20
"""Bytes that are read at a time from a file that is longer than it said."""


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises `OSError` if it is not a regular file, such as a pipe, which might never end; `ValueError` if it is larger.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    too_large = ValueError(f"it is larger than {limit:,} bytes, the most that is read")
    if found.st_size > limit:
        raise too_large
    pieces, total = [], 0
    with path.open("rb") as file:
        # Not read(limit): Python allocates as much as it is asked for, which may be more than there is.
        while piece := file.read(max(CHUNK, found.st_size + 1 - total)):
            pieces.append(piece)
            total += len(piece)
            if total > limit:  # it has grown, or its size is unknown
                raise too_large
    return b"".join(pieces)


def is_file(path: Path) -> bool:
    """Whether the path is a regular file; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; False for a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_json(path: Path) -> Any:
    """Read a JSON file; see `read_bounded` and `parse_json` for the limits and errors."""
    return parse_json(read_bounded(path, MAX_JSON))


def parse_json(content: bytes | str) -> Any:
    """Parse JSON. `ValueError` for numbers that are not finite or absurdly long, and for nesting beyond `MAX_DEPTH`."""
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    check_limits(value)
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it contains the number {text[:20]}, which is not finite")
    return value


def check_limits(value: Any) -> None:
    """Raise `ValueError` for nesting beyond `MAX_DEPTH`, on which recursive code would fail, and for huge integers."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(item, int) and item.bit_length() > MAX_BITS for item in level):
            raise ValueError("it contains an integer of thousands of digits")
        level = [inner for item in level for inner in _children(item)]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def escapes_root(name: str) -> bool:
    """Whether a path written with '/' would leave the folder that it is joined to, on any operating system."""
    outside = ".." in PurePosixPath(name).parts or name.startswith("/") or bool(PureWindowsPath(name).drive)
    return outside or "\\" in name or "\0" in name
