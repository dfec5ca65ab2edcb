"""Writes files atomically: under a temporary name, flushed, renamed, and the folder flushed.

Without the first flush, a power failure can leave a file that has its name but not its content. Without the second, a
file can be lost while a later one that depends on it exists.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store import atomic

SLUG = 100
"""Most characters of a slug; file systems allow 255 bytes."""

SUFFIX = ".tmp"
"""Suffix of files that are being written; their names begin with a dot."""


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """An empty file in `path`'s folder, to be filled and passed to `rename`; deleted if the block raises."""
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=SUFFIX)
    os.close(handle)
    try:
        yield Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Flush a file's content to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def rename(temporary: Path, path: Path) -> None:
    """Move a flushed file to `path`, readable by all users, and flush the folder."""
    temporary.chmod(0o644)
    temporary.replace(path)
    flush_folder(path.parent)


def write(path: Path, content: bytes) -> None:
    """Write a file so that a power failure at any time leaves either the old or the new one."""
    with temporary_beside(path) as temporary:
        temporary.write_bytes(content)
        flush(temporary)
        rename(temporary, path)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and flush their names to the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush_folder(folder.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's names to the disk; without effect on Windows, which cannot open folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def slug(text: str) -> str:
    """A file name made from `text`: ASCII letters, digits, '.', '-' and '_', with runs of anything else as one '_'.

    Leading dots are removed, so that it is neither a hidden file nor a parent folder. At most 100 characters. Different
    texts can have the same slug: it makes a name readable. Where it must identify the text, use `unique_slug`.
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else " " for c in text)
    return "_".join(kept.split()).lstrip(".")[:SLUG] or "_"


def unique_slug(text: str) -> str:
    """`text` if it is a slug already, else its slug and a hash: different texts get different file names.

    Texts that differ only in how accents are encoded (Unicode's NFC and NFD) are the same: file systems may change it.
    The slug of the result is the result itself. At most 100 characters.
    """
    text = unicodedata.normalize("NFC", text)
    readable = slug(text)
    if readable == text:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{readable[: SLUG - 9]}-{digest[:8]}"


def write_atomically(path: Path, content: bytes | str, option: str = "--results") -> None:
    """Write a file so that a power failure at any time leaves either the old or the new one.

    Raises `StoreError` if it cannot be written, which names the option that chose the place.
    """
    # Text may quote a file name that is not valid Unicode; in JSON, the escape is read back as the original.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        atomic.write(path, data)
    except OSError as error:
        raise StoreError(
            f"Cannot write '{path}': {error.strerror or error}. Choose a writable folder with {option}."
        ) from error


def to_json(value: object) -> str:
    """JSON with sorted keys, an indentation of two spaces and a final newline. `ValueError` for NaN and infinity."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
