"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark.errors import UserError


def user_path(path: str | Path) -> Path:
    """A path with a leading '~' or '~NAME' replaced by the home folder, which a shell does not do in '--option=~/x'.

    Raises `UserError` if there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"'{path}' begins with '~', but that home folder is not known. Write the full path.") from error
