"""What readers of files share: the form of their answer, decoding in threads, checks of labels and classes."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from oodbench.benchmark.data.files.archives import Member, Tree
from oodbench.benchmark.data.files.pixels import SIDE, SUFFIXES, BadImageError, Fit, decode
from oodbench.benchmark.errors import DataError

DECODER_VERSION = 1
"""Raised when the same files would give other pixels, labels or another order."""

MAX_IMAGE = 1 << 28
"""Bytes of one image's file."""

MAX_IMAGES = 2_000_000
"""Of one split: 6 GiB of pixels."""

CHUNK = 128
"""Images a task of the pool decodes."""

CHUNK_BYTES = 1 << 26
"""Bytes of files that a task takes, one image more or less."""

HELD_BYTES = 1 << 30
"""Bytes of files in memory at once, that are waiting to be decoded."""

NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Decoded(NamedTuple):
    """What a reader found, in the data set's order."""

    images: np.ndarray
    """uint8 (N, 3, 32, 32); rows of bad images are zero until they are left out."""
    labels: np.ndarray | None
    """int64 (N,)."""
    groups: np.ndarray | None = None
    """int64 (N,): images that depend on each other."""
    bad: Mapping[int, str] = NOTHING
    """Row -> name and reason of each image that could not be used."""
    modes: Mapping[str, int] = NOTHING
    """How the images were stored: Pillow's mode -> count."""


class Reader(Protocol):
    """Reads the files of one source. Its repr is part of the cache's key: whatever changes the pixels must be in it."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read one split. Raises `DataError` for a file that is not what the reader expects."""
        ...


def decode_members(tree: Tree, order: Sequence[int], fit: Fit) -> tuple[np.ndarray, dict[int, str], dict[str, int]]:
    """Decode the members of a tree by index: pixels in that order, bad ones by row, and how many of each mode."""
    told = [f"{tree.members[index].name} in {tree.path.name}" for index in order]
    bad = {row: f"{told[row]} {why}" for row, index in enumerate(order) if (why := _unlikely(tree.members[index]))}
    row_of = {index: row for row, index in enumerate(order) if row not in bad}
    stored = ((row_of[index], told[row_of[index]], content) for index, content in tree.read(row_of))
    images, undecodable, modes = decode_all(stored, len(order), fit)
    return images, {**bad, **undecodable}, modes


def _unlikely(member: Member) -> str:
    """Why a member is not even read; empty if it is."""
    if not member.name.lower().endswith(SUFFIXES):
        return f"has no image's file name ({', '.join(SUFFIXES)})"
    return f"has {member.size:,} bytes, more than {MAX_IMAGE:,}" if member.size > MAX_IMAGE else ""


def decode_all(
    stored: Iterable[tuple[int, str, bytes]], count: int, fit: Fit
) -> tuple[np.ndarray, dict[int, str], dict[str, int]]:
    """Decode (row, name, file content) in a pool of threads; Pillow lets go of the interpreter while it decodes."""
    refuse_many(count)
    images = np.zeros((count, 3, SIDE, SIDE), np.uint8)
    bad: dict[int, str] = {}
    modes: Counter[str] = Counter()

    def work(batch: list[tuple[int, str, bytes]]) -> tuple[dict[int, str], Counter[str]]:
        reasons: dict[int, str] = {}
        seen: Counter[str] = Counter()
        for row, name, content in batch:
            try:
                images[row], mode = decode(content, fit)
                seen[mode] += 1
            except BadImageError as error:
                reasons[row] = f"{name} {error}"
        return reasons, seen

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[tuple[Future[tuple[dict[int, str], Counter[str]]], int]] = deque()
        held = 0
        for batch in _batched(stored):
            size = sum(len(content) for _, _, content in batch)
            pending.append((pool.submit(work, batch), size))
            held += size
            while len(pending) > 4 * workers or held > HELD_BYTES:  # no more in memory than is being worked on
                future, size = pending.popleft()
                _collect(future, bad, modes)
                held -= size
        for future, _ in pending:
            _collect(future, bad, modes)
    return images, bad, dict(modes)


def _collect(future: Future[tuple[dict[int, str], Counter[str]]], bad: dict[int, str], modes: Counter[str]) -> None:
    reasons, seen = future.result()
    bad.update(reasons)
    modes.update(seen)


def _batched(stored: Iterable[tuple[int, str, bytes]]) -> Iterator[list[tuple[int, str, bytes]]]:
    batch, size = [], 0
    for item in stored:
        batch.append(item)
        size += len(item[2])
        if len(batch) == CHUNK or size >= CHUNK_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def refuse_many(count: int) -> None:
    """Refuse more images than fit into memory, before there is room made for them."""
    if count > MAX_IMAGES:
        raise DataError(f"{count:,} images are declared, and at most {MAX_IMAGES:,} are read. Split the set.")


def in_range(labels: np.ndarray, classes: int, path: Path, first: int = 0) -> None:
    """Refuse labels outside 0..classes - 1; they are told as the file has them."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"'{path}' has labels from {labels.min() + first} to {labels.max() + first}, expected {first} to "
            f"{classes - 1 + first}: it is another data set, or damaged."
        )


def differing_classes(path: Path, found: set[str], expected: Sequence[str]) -> None:
    """Refuse class folders that are not the expected ones."""
    if "" in found:
        raise DataError(f"'{path}' holds images that lie in no class folder; expected CLASS/IMAGE.")
    strange, absent = sorted(found - set(expected)), sorted(set(expected) - found)
    if strange or absent:
        told = [f"has the class folder{'s' * (len(strange) > 1)} {few(strange)}"] if strange else []
        told += [f"lacks {few(absent)}"] if absent else []
        raise DataError(f"'{path}' {' and '.join(told)}; expected the {len(expected)} classes {few(expected)}.")


def few(names: Sequence[str], most: int = 4) -> str:
    """Some names in quotes, for a sentence."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
