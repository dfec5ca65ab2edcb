"""Reading what others may have written: files of bounded size, JSON without surprises, values of the expected types.

Nothing here runs, follows or believes what a file says. Errors are `OSError` and `ValueError`; callers make them a
sentence that names the file.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import reprlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

MAX_JSON = 1 << 24
"""Bytes of a JSON file. Parsed, it can take twenty times as much memory."""

MAX_DEPTH = 64
"""How deep lists and objects may be nested."""

MAX_BITS = 14_000
"""Of a whole number; Python refuses to print one of more than 4,300 digits."""

MAX_NUMBER = 1e100
"""Beyond it, squares and sums of numbers are no longer finite."""

WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "nothing"}

LISTS = (list, tuple, Sequence)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a plain file.

    OSError for what is none, such as a pipe, which might never end; ValueError for more than `limit` bytes.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    with path.open("rb") as file:
        content = file.read(limit + 1) if found.st_size <= limit else b""
    if found.st_size > limit or len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes, the most that is read")
    return content


def is_file(path: Path) -> bool:
    """Whether there is a plain file; no error for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder; no error for a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_json(path: Path) -> Any:
    """A JSON file's value; see `read_bounded` and `parse_json`."""
    return parse_json(read_bounded(path, MAX_JSON))


def parse_json(content: bytes | str) -> Any:
    """A JSON value. ValueError for numbers that are not finite or absurdly long, and for nesting beyond `MAX_DEPTH`."""
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    check_limits(value)
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it holds the number {text[:20]}, which is not finite")
    return value


def check_limits(value: Any) -> None:
    """ValueError for nesting beyond `MAX_DEPTH`, at which recursive code would fail, and for endless whole numbers."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(isinstance(item, int) and item.bit_length() > MAX_BITS for item in level):
            raise ValueError("it holds a whole number of thousands of digits")
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def escapes_root(name: str) -> bool:
    """Whether a path written with '/' would leave the folder that it is joined to, on any system."""
    away = ".." in PurePosixPath(name).parts or name.startswith("/") or bool(PureWindowsPath(name).drive)
    return away or "\\" in name or "\0" in name


def type_error(value: Any, expected: Any, where: str = "it") -> str:
    """What of a parsed JSON value is not as a type says, in words; empty if all is.

    Types: str, int, float, bool, None, Any, unions, `list[X]`, `tuple[X, ...]`, `Sequence[X]`, `Mapping[str, X]`,
    TypedDicts and dataclasses. Names that a TypedDict or dataclass does not have are ignored; those that a dataclass
    lacks as well.
    """
    if expected is Any:
        return ""
    kind, inner = get_origin(expected), get_args(expected)
    if kind in (Union, UnionType):
        return "" if any(not type_error(value, one) for one in inner) else _wrong(value, where, map(_describe, inner))
    if is_typeddict(expected) or dataclasses.is_dataclass(expected):
        return _fields_error(value, expected, where)
    if kind in LISTS:
        if not isinstance(value, list):
            return _wrong(value, where, ["a list"])
        return next(filter(None, (type_error(item, inner[0], f"an item of {where}") for item in value)), "")
    if kind is not None:
        if not isinstance(value, dict):
            return _wrong(value, where, ["an object"])
        return next(
            filter(None, (type_error(item, inner[1], f"'{key}' of {where}") for key, item in value.items())), ""
        )
    return "" if _is_plain(value, expected) else _wrong(value, where, [_describe(expected)])


def _fields_error(value: Any, expected: Any, where: str) -> str:
    if not isinstance(value, dict):
        return _wrong(value, where, ["an object"])
    for name in sorted(getattr(expected, "__required_keys__", frozenset())):
        if name not in value:
            return f"{where} lacks '{name}'"
    hints = _hints(expected)
    told = (type_error(value[name], hint, f"'{name}'") for name, hint in hints.items() if name in value)
    return next(filter(None, told), "")


@cache
def _hints(expected: Any) -> Mapping[str, Any]:
    return get_type_hints(expected)


def _is_plain(value: Any, expected: type) -> bool:
    if expected in (int, float):
        known = (int,) if expected is int else (int, float)
        return isinstance(value, known) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    return isinstance(value, expected)


def _describe(expected: Any) -> str:
    return WORDS.get(expected, "a list" if get_origin(expected) in LISTS else "an object")


def _wrong(value: Any, where: str, expected: Any) -> str:
    return f"{where} is {reprlib.repr(value)}, expected {' or '.join(expected)}"
