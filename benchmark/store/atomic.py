"""How every file is written: under a temporary name, flushed, renamed, and its folder flushed.

Without the first flush a loss of power can leave a file with its name and without its content; without the second, a
file that a later one relies on can be gone while the later one is there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store import atomic

SUFFIX = ".tmp"
"""Of files that are being written; their names begin with a dot."""


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """An empty file in `path`'s folder, to be filled and then given to `rename`; gone if the block raises."""
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=SUFFIX)
    os.close(handle)
    try:
        yield Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Have a file's content on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def rename(temporary: Path, path: Path) -> None:
    """Give a flushed file its name, readable by all, and have the name on the disk."""
    temporary.chmod(0o644)
    temporary.replace(path)
    flush_folder(path.parent)


def write(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, whenever the power goes."""
    with temporary_beside(path) as temporary:
        temporary.write_bytes(content)
        flush(temporary)
        rename(temporary, path)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are not there, and have their names on the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Have a folder's names on the disk, where the system can be asked for it: Windows opens no folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def slug(text: str) -> str:
    """`text` with everything but letters, digits, '.', '-' and '_' turned into single '_', for file names.

    No leading dot: neither a hidden file nor a folder above.
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else " " for c in text)
    return "_".join(kept.split()).lstrip(".")[:100] or "_"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the new one, whenever the power goes."""
    # A reason may quote a file name that is no valid text; in JSON the escape reads back as what it was.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        atomic.write(path, data)
    except OSError as error:
        raise StoreError(
            f"Cannot write '{path}': {error.strerror or error}. Choose a writable folder with --results."
        ) from error


def to_json(value: object) -> str:
    """JSON as the harness writes it: sorted keys, two spaces, a final newline, no NaN."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
