"""Reads TOML files that users write: bounded, with or without a byte-order mark, with line ends of any system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.store.safe_read import check_limits, read_bounded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_toml(path: Path, limit: int) -> dict[str, Any]:
    """The content of a TOML file of at most `limit` bytes.

    Raises `OSError` if it cannot be read; `ValueError` or `RecursionError` if it is not valid.
    """
    return parse_toml_text(read_bounded(path, limit).decode("utf-8-sig"))


def parse_toml_text(text: str) -> dict[str, Any]:
    """The content of a TOML file's text. Raises `ValueError` or `RecursionError` if it is not valid."""
    data: dict[str, Any] = tomllib.loads(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    check_limits(data)
    return data


def read_toml(path: Path, limit: int, what: str) -> dict[str, Any]:
    """The same, where a file that cannot be read or is not valid is a `UserError`, which begins with `what` it is."""
    try:
        return parse_toml(path, limit)
    except OSError as error:
        raise UserError(f"{what} '{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} '{path}' is not valid TOML: {error}.") from error
