"""One pass over the pictures of a set: what is compared across sets, and what is wrong with those that cannot be used.

Of each picture: the SHA-256 of its stored bytes, a thumbnail, its size and mode, and a CRC-32 of its bytes, against
which they are checked whenever they are read. The pass is made in parts of `PART` pictures. With a folder for them
(`cache/data`), parts are kept until the index is complete, so that a pass that is killed goes on where it was.

    NAME-KEY.fingerprints.npy, .thumbnails.npy, .facts.npy    see `index_files.Part`
    NAME-KEY.json                                             checksums, and what is wrong with pictures; written last
    NAME-KEY-DIGEST.part                                      a part of an unfinished pass

KEY is a hash of the names and stamps of all files: a set of which a file was changed, added or removed is read again.
"""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from oodbench.benchmark.data.pictures import index_files
from oodbench.benchmark.data.pictures.index_files import Part, PictureIndex, Wrong, facts_of
from oodbench.benchmark.data.pictures.source import PictureFiles
from oodbench.benchmark.data.pictures.stored import BadImageError, DamagedImageError, look
from oodbench.benchmark.store.atomic import slug, write_atomically
from oodbench.benchmark.store.cores import usable_cores
from oodbench.benchmark.store.locks import Locks

logger = logging.getLogger(__name__)

INDEX_VERSION = 1
"""Part of the key of an index. Raise it when the same files would give other thumbnails or reasons."""

PART = 1024
"""Pictures of a part."""

SECONDS = 30.0
"""Between two messages about the progress of a long pass."""


def index_of(
    label: str, files: PictureFiles, root: Path | None, exif: bool = False, part: int = PART, again: bool = False
) -> PictureIndex:
    """The index of a set, read from `root` or made and stored there; without a folder, it stays in memory.

    Args:
        label: Name of the set and its split, for file names and messages.
        files: The pictures.
        root: The folder of cached data.
        exif: Whether pictures are rotated as their EXIF data state.
        part: Pictures of a part, which a pass that is killed loses at most.
        again: Whether all files are hashed and compared with the index, whatever their stamps.

    Pictures that cannot be used, or are not there, are in its `wrong`.
    """
    count = len(files.names)
    digests = {rows: _digest(files, rows, exif) for rows in _ranges(count, part)}
    key = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
    index = PictureIndex(root / f"{slug(label)}-{key[:12]}" if root else None, key, count)
    if index.stem is None or root is None:
        index.keep(_parts(label, files, digests, None, exif))
        return index
    if again and index.load() and not _matches(files, index):
        index_files.drop(index.stem)
    if not index.load():
        with Locks(root).hold(index.stem.name, f"is indexing '{label}'"):
            if not index.load():
                made_from = {"names": [str(files.place)], "label": label, "exif": exif}
                index.store(_parts(label, files, digests, index.stem, exif), made_from)
                _tidy(index.stem, digests, made_from)
    return index


def _ranges(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _digest(files: PictureFiles, rows: range, exif: bool) -> str:
    """A hash of the names and stamps of some pictures, and of how they are indexed."""
    digest = hashlib.sha256(f"{INDEX_VERSION} {exif} {rows.start}\n".encode())
    for row, stamp in zip(rows, files.stamps(rows), strict=True):
        digest.update(f"{files.names[row]}\0{stamp}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _parts(label: str, files: PictureFiles, digests: dict[range, str], stem: Path | None, exif: bool) -> Iterator[Part]:
    """The parts in order, from their files where these are there."""
    count = len(files.names)
    started = said = time.monotonic()
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for rows, digest in digests.items():
                part = _stored_part(stem, digest, len(rows))
                if part is None:
                    part = _look_at(files, rows, exif, pool)
                    if stem is not None:
                        write_atomically(_part_file(stem, digest), part.packed())
                yield part
                now = time.monotonic()
                if now - said >= SECONDS and rows.stop < count:
                    rest = (now - started) / rows.stop * (count - rows.stop)
                    logger.info(f"Indexing '{label}': {rows.stop:,} of {count:,} images, about {rest:,.0f} s more.")
                    said = now
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _part_file(stem: Path, digest: str) -> Path:
    return stem.with_name(f"{stem.name}-{digest[:24]}.part")


def _stored_part(stem: Path | None, digest: str, count: int) -> Part | None:
    if stem is None:
        return None
    try:
        return Part.unpacked(_part_file(stem, digest).read_bytes(), count)
    except OSError:
        return None


def _look_at(files: PictureFiles, rows: range, exif: bool, pool: ThreadPoolExecutor) -> Part:
    """Read and decode consecutive pictures in the threads of a pool."""
    part = Part.empty(len(rows))

    def work(place: int) -> Wrong | None:
        row = rows[place]
        try:
            content = files.read(row)
            part.fingerprints[place] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            looked = look(content, exif)
        except BadImageError as error:
            return Wrong(row, files.names[row], str(error), isinstance(error, DamagedImageError))
        part.thumbnails[place] = looked.thumbnail
        part.facts[place] = facts_of(looked, len(content), zlib.crc32(content))
        return None

    part.wrong.extend(found for found in pool.map(work, range(len(rows))) if found is not None)
    return part


def _matches(files: PictureFiles, index: PictureIndex) -> bool:
    """Whether the stored bytes of all usable pictures still have the hashes that the index says."""
    known = index.array("fingerprints")

    def is_same(row: np.int64) -> bool:
        try:
            return bool(hashlib.sha256(files.read(int(row))).digest() == known[row].tobytes())
        except BadImageError:
            return False

    usable = index.usable
    with ThreadPoolExecutor(usable_cores()) as pool:
        starts = range(0, len(usable), PART)
        return all(all(pool.map(is_same, usable[start : start + PART])) for start in starts)


def _tidy(stem: Path, digests: dict[range, str], made_from: dict[str, object]) -> None:
    """Remove the parts of a finished pass, and the indexes of the same files as they were before."""
    for digest in digests.values():
        _part_file(stem, digest).unlink(missing_ok=True)
    for path in stem.parent.glob(f"{stem.name.rpartition('-')[0]}-*.json"):
        other = path.with_name(path.name.removesuffix(".json"))
        side = index_files.read_side(other)
        if other != stem and side is not None and side.get("made_from") == made_from:
            index_files.drop(other)
