"""Sizes of folders, and how sizes are printed."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path


def in_bytes(count: int) -> str:
    """A number of bytes for people: 0 MB, 1.3 MB, 820 MB, 2.4 GB."""
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:.1f} MB" if 0 < count < 10e6 else f"{count / 1e6:,.0f} MB"


def bytes_in(folder: str | Path, without: Collection[str] = ()) -> int:
    """The bytes of all files below a folder, without its own subfolders `without`.

    Links are not followed. What cannot be read, or disappears meanwhile, counts nothing.
    """
    total = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    total += 0 if entry.name in without else bytes_in(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
