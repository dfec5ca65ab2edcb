"""What readers share: the `Reader` protocol and its result, decoding in threads, and checks of labels and classes."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from oodbench.benchmark.data.files.class_names import advice, label_of_folder
from oodbench.benchmark.data.files.pixels import GREY_MODES, SIDE, SUFFIXES, BadImageError, Fit, decode
from oodbench.benchmark.data.files.tree import LeftOut, Member, Tree
from oodbench.benchmark.errors import DataError

DECODER_VERSION = 2
"""Part of the cache key of decoded images. Raise it when the same files would give other pixels, labels or order."""

MAX_IMAGE = 1 << 28
"""Bytes of one image file; larger ones count as bad images."""

MAX_IMAGES = 2_000_000
"""Images of one split, which take 6 GiB of decoded pixels."""

CHUNK = 128
"""Images per task of the thread pool."""

CHUNK_BYTES = 1 << 26
"""Bytes of encoded images per task. A task is full when it reaches this size or `CHUNK` images."""

HELD_BYTES = 1 << 30
"""Bytes of encoded images that may wait in memory to be decoded."""

NOTHING: Mapping[Any, Any] = MappingProxyType({})

Flaws: TypeAlias = dict[int, tuple[str, BadImageError]]
"""Row -> an image's name and what is wrong with it."""


class Decoded(NamedTuple):
    """What a reader returns: the images of one split, in the data set's order."""

    images: np.ndarray
    """uint8 (N, C, 32, 32), C being 1 if all images are stored in grey, else 3; the rows of bad images are zero and are
    removed later."""
    labels: np.ndarray | None
    """int64 (N,)."""
    groups: np.ndarray | None = None
    """int64 (N,): images with the same number depend on each other."""
    bad: Mapping[int, str] = NOTHING
    """Row -> name of an image that could not be used, and the reason."""
    modes: Mapping[str, int] = NOTHING
    """How the images were stored: Pillow's mode -> count."""
    left_out: Mapping[int, LeftOut] = NOTHING
    """Row -> an image that is left out in any case, unlike a bad one, which may make its set an error."""
    remarks: Mapping[str, int] = NOTHING
    """What was done with some images and is worth a note, as a clause -> their count."""


class Rows(NamedTuple):
    """Decoded images, some of which may be bad."""

    images: np.ndarray
    """uint8 (N, C, 32, 32), C being 1 if all images are stored in grey; the rows of bad images are zero."""
    bad: Mapping[int, tuple[str, BadImageError]]
    """Row -> an image's name and what is wrong with it."""
    modes: Mapping[str, int]
    """Pillow's mode of the stored image -> count."""


class Reader(Protocol):
    """Reads the files of one source. Its repr is part of the cache key, so it must show whatever changes the pixels."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read one split. Raises `DataError` for files that do not have the expected format."""
        ...


def decode_members(tree: Tree, order: Sequence[int], fit: Fit) -> tuple[np.ndarray, dict[int, str], dict[str, int]]:
    """Decode the members with the given indices: pixels in that order, reasons of bad images by row, counts by mode."""
    names = [f"{tree.members[index].name} in {tree.path.name}" for index in order]
    refused = {row: reason for row, index in enumerate(order) if (reason := _refusal(tree.members[index]))}
    bad = {row: f"{names[row]} {reason}" for row, reason in refused.items()}
    row_of = {index: row for row, index in enumerate(order) if row not in bad}
    stored = ((row_of[index], names[row_of[index]], content) for index, content in tree.read(row_of))
    images, undecodable, modes = decode_all(stored, len(order), fit)
    return images, {**bad, **undecodable}, modes


def _refusal(member: Member) -> str:
    """Why a member is not read at all; empty if it is to be read."""
    if not member.name.lower().endswith(SUFFIXES):
        return f"has no image's file name ({', '.join(SUFFIXES)})"
    return f"has {member.size:,} bytes, more than {MAX_IMAGE:,}" if member.size > MAX_IMAGE else ""


def decode_all(
    stored: Iterable[tuple[int, str, bytes]],
    count: int,
    fit: Fit,
    *,
    max_images: int = MAX_IMAGES,
    chunk_bytes: int = CHUNK_BYTES,
    held_bytes: int = HELD_BYTES,
) -> tuple[np.ndarray, dict[int, str], dict[str, int]]:
    """As `decode_rows`: pixels by row, names and reasons of bad images by row, counts by mode."""
    limits = {"max_images": max_images, "chunk_bytes": chunk_bytes, "held_bytes": held_bytes}
    rows = decode_rows(stored, count, lambda content: decode(content, fit), **limits)
    return rows.images, {row: f"{name} {error}" for row, (name, error) in rows.bad.items()}, dict(rows.modes)


def decode_rows(
    stored: Iterable[tuple[int, str, bytes]],
    count: int,
    decoder: Callable[[bytes], tuple[np.ndarray, str]],
    *,
    max_images: int = MAX_IMAGES,
    chunk_bytes: int = CHUNK_BYTES,
    held_bytes: int = HELD_BYTES,
) -> Rows:
    """Decode (row, name, encoded image) in a thread pool.

    `decoder` returns pixels and Pillow's mode, or raises `BadImageError`. Pixels are uint8 (count, C, 32, 32): C is 1
    if every usable image is stored in grey; one image in colour makes it 3, and grey images are then repeated.

    Threads suffice because Pillow releases the global interpreter lock while it decodes. Reading pauses while
    `held_bytes` wait to be decoded. Raises `DataError` for a `count` of more than `max_images`.
    """
    refuse_many(count, max_images)
    images = np.zeros((count, 3, SIDE, SIDE), np.uint8)
    bad: Flaws = {}
    modes: Counter[str] = Counter()

    def work(batch: list[tuple[int, str, bytes]]) -> tuple[Flaws, Counter[str]]:
        reasons: Flaws = {}
        counts: Counter[str] = Counter()
        for row, name, content in batch:
            try:
                images[row], mode = decoder(content)  # grey fills all three channels
                counts[mode] += 1
            except BadImageError as error:
                reasons[row] = name, error
        return reasons, counts

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[tuple[Future[tuple[Flaws, Counter[str]]], int]] = deque()
        held = 0
        for batch in _batched(stored, chunk_bytes):
            size = sum(len(content) for _, _, content in batch)
            pending.append((pool.submit(work, batch), size))
            held += size
            while len(pending) > 4 * workers or held > held_bytes:
                future, size = pending.popleft()
                _collect(future, bad, modes)
                held -= size
        for future, _ in pending:
            _collect(future, bad, modes)
    return Rows(images_as_stored(images, modes), bad, modes)


def images_as_stored(images: np.ndarray, modes: Iterable[str]) -> np.ndarray:
    """The first of three channels, (N, 1, H, W), if all images were stored in grey; else the images themselves."""
    stored = set(modes)
    return np.ascontiguousarray(images[:, :1]) if stored and stored <= GREY_MODES else images


def _collect(future: Future[tuple[Flaws, Counter[str]]], bad: Flaws, modes: Counter[str]) -> None:
    reasons, counts = future.result()
    bad.update(reasons)
    modes.update(counts)


def _batched(stored: Iterable[tuple[int, str, bytes]], chunk_bytes: int) -> Iterator[list[tuple[int, str, bytes]]]:
    batch, size = [], 0
    for item in stored:
        batch.append(item)
        size += len(item[2])
        if len(batch) == CHUNK or size >= chunk_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def refuse_many(count: int, max_images: int = MAX_IMAGES) -> None:
    """Raise `DataError` for more images than are read, before memory is allocated for them."""
    if count > max_images:
        raise DataError(f"{count:,} images are declared, but at most {max_images:,} are read. Split the set.")


def in_range(labels: np.ndarray, classes: int, path: Path, first: int = 0) -> None:
    """Raise `DataError` for labels outside 0..classes - 1. The message counts from `first`, as the file does."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"'{path}' has labels from {labels.min() + first} to {labels.max() + first}, expected {first} to "
            f"{classes - 1 + first}: it is another data set, or it is damaged."
        )


def differing_classes(path: Path, found: set[str], expected: Sequence[str]) -> None:
    """Raise `DataError` unless the class folders are those of the expected classes (`label_of_folder`), once each."""
    if "" in found:
        raise DataError(f"'{path}' contains images that are in no class folder; expected CLASS/IMAGE.")
    labels = label_of_folder(found, expected)
    folder_of: dict[int, str] = {}
    for folder in sorted(labels):
        if other := folder_of.get(labels[folder]):
            raise DataError(
                f"'{path}' has the class folders '{other}' and '{folder}', which both stand for the class "
                f"'{expected[labels[folder]]}'. Put their images into one."
            )
        folder_of[labels[folder]] = folder
    unknown = sorted(found - set(labels))
    absent = [name for label, name in enumerate(expected) if label not in folder_of]
    if unknown or absent:
        problems = [f"has the class folder{'s' * (len(unknown) > 1)} {few(unknown)}"] if unknown else []
        problems += [f"lacks {few(sorted(absent))}"] if absent else []
        raise DataError(
            f"'{path}' {' and '.join(problems)}; expected the {len(expected)} classes {few(expected)}."
            f"{advice(expected, absent)}"
        )


def few(names: Sequence[str], most: int = 4) -> str:
    """Up to `most` names in quotes, and how many more there are, for a message."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
