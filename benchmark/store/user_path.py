"""Paths as users write them."""

from __future__ import annotations

from collections.abc import Sequence
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


def telling_ends(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart, as texts: 'photos', or 'a/photos' and 'b/photos'.

    Paths that are the same have the same text.
    """
    found = []
    for path in paths:
        others = [other for other in paths if other != path]
        count = next(
            (n for n in range(1, len(path.parts)) if all(other.parts[-n:] != path.parts[-n:] for other in others)),
            len(path.parts),
        )
        found.append(str(Path(*path.parts[-count:])) if path.parts else str(path))
    return found
