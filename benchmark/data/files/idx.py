"""Idx files, the format of MNIST and its kin."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from oodbench.benchmark.data.files.decode import Decoded, in_range, refuse_many
from oodbench.benchmark.data.files.pixels import MAX_SIDE, resized_all
from oodbench.benchmark.errors import DataError, first_line

MAX_IDX = 1 << 30
"""Bytes that an idx file may declare."""


@dataclass(frozen=True)
class Idx:
    """A pair of idx files as MNIST has them, gzipped or not: grey images, then labels."""

    classes: int
    first_label: int = 0
    """The number of the first class in the file."""
    transposed: bool = False
    """Whether rows and columns are exchanged in the file."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read images and labels."""
        with idx_file(paths[0]) as images, idx_file(paths[1]) as labels:
            return self.decode(idx_array(images, 3, paths[0]), idx_array(labels, 1, paths[1]), paths)

    def decode(self, images: np.ndarray, labels: np.ndarray, paths: Sequence[Path]) -> Decoded:
        """Grey images uint8 (N, H, W) and labels uint8 (N,), checked against each other."""
        if len(images) != len(labels):
            raise DataError(
                f"'{paths[0]}' holds {len(images):,} images and '{paths[-1]}' {len(labels):,} labels: they do not "
                "belong together. Get both from one place."
            )
        shifted = labels.astype(np.int64) - self.first_label
        in_range(shifted, self.classes, paths[-1], self.first_label)
        images = images.transpose(0, 2, 1) if self.transposed else images
        return Decoded(resized_all(np.ascontiguousarray(images)), shifted, modes={"L": len(images)})


def idx_file(path: Path) -> IO[bytes]:
    """Open an idx file; what is gzipped is told by its first bytes, not by its name."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if zipped else path.open("rb")


def idx_array(file: IO[bytes], dimensions: int, path: Path) -> np.ndarray:
    """Read an idx array of bytes: two zero bytes, type 8, the number of dimensions, big-endian sizes, values.

    torchvision's reader takes no gzip file, trusts the sizes, and fails with a bare assertion.
    """
    try:
        header = file.read(4 * (dimensions + 1))
        if header[:4] != bytes([0, 0, 8, dimensions]):
            raise DataError(
                f"'{path}' is no idx file of bytes in {dimensions} dimension{'s' * (dimensions > 1)}: it begins with "
                f"{header[:4].hex() or 'nothing'}, expected {bytes([0, 0, 8, dimensions]).hex()}."
            )
        shape = tuple(int(size) for size in np.frombuffer(header, ">u4", dimensions, offset=4))
        size = int(np.prod(shape, dtype=object))
        if not 0 < size <= MAX_IDX:
            raise DataError(f"'{path}' declares {shape} values; expected at least one and at most {MAX_IDX:,}.")
        if max(shape[1:], default=1) > MAX_SIDE:
            raise DataError(f"'{path}' declares {shape} values; expected at most {MAX_SIDE:,} on a side.")
        refuse_many(shape[0])
        values = file.read(size + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"'{path}' is damaged or not whole ({first_line(error)}). Get it again.") from error
    if len(values) != size:
        told = "more" if len(values) > size else f"{len(values):,}"
        raise DataError(f"'{path}' declares {size:,} values and holds {told}: it is not whole. Get it again.")
    return np.frombuffer(values, np.uint8).reshape(shape)
