"""Reads IDX files, the format of MNIST and similar data sets."""

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
"""Bytes that an IDX file may declare."""


@dataclass(frozen=True)
class Idx:
    """A pair of IDX files as in MNIST, gzipped or not: greyscale images, then labels."""

    classes: int
    first_label: int = 0
    """The label of the first class in the file."""
    transposed: bool = False
    """Whether rows and columns are swapped in the file."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the image file and the label file."""
        with idx_file(paths[0]) as images, idx_file(paths[1]) as labels:
            return self.decode(idx_array(images, 3, paths[0]), idx_array(labels, 1, paths[1]), paths)

    def decode(self, images: np.ndarray, labels: np.ndarray, paths: Sequence[Path]) -> Decoded:
        """Check greyscale images uint8 (N, H, W) against labels uint8 (N,), and resize the images."""
        if len(images) != len(labels):
            raise DataError(
                f"'{paths[0]}' contains {len(images):,} images but '{paths[-1]}' {len(labels):,} labels. Download both "
                "files from the same source."
            )
        shifted = labels.astype(np.int64) - self.first_label
        in_range(shifted, self.classes, paths[-1], self.first_label)
        images = images.transpose(0, 2, 1) if self.transposed else images
        return Decoded(resized_all(np.ascontiguousarray(images)), shifted, modes={"L": len(images)})


def idx_file(path: Path) -> IO[bytes]:
    """Open an IDX file, decompressed if its first bytes, not its name, say that it is gzipped."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb")) if gzipped else path.open("rb")


def idx_array(file: IO[bytes], dimensions: int, path: Path) -> np.ndarray:
    """Read an IDX array of bytes: two zero bytes, type 8, the number of dimensions, big-endian sizes, values.

    torchvision's reader is not used because it cannot read gzip files, trusts the declared sizes, and fails with a bare
    assertion. Raises `DataError` if the header or the number of values is wrong.
    """
    try:
        header = file.read(4 * (dimensions + 1))
        if header[:4] != bytes([0, 0, 8, dimensions]):
            raise DataError(
                f"'{path}' is not an IDX file of bytes in {dimensions} dimension{'s' * (dimensions > 1)}: it begins "
                f"with {header[:4].hex() or 'nothing'}, expected {bytes([0, 0, 8, dimensions]).hex()}."
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
        raise DataError(f"'{path}' is damaged or incomplete ({first_line(error)}). Download it again.") from error
    if len(values) != size:
        count = "more" if len(values) > size else f"{len(values):,}"
        raise DataError(f"'{path}' declares {size:,} values but contains {count}. Download it again.")
    return np.frombuffer(values, np.uint8).reshape(shape)
