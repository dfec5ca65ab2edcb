"""Labels, card texts and readers shared by SVHN and its subsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark import DataError
from oodbench.benchmark.data.files import AS_STORED, Decoded, ImageTree, in_range
from oodbench.benchmark.errors import first_line

CLASSES = tuple("0123456789")
PAPER = "Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, NIPS workshop 2011"
LICENCE = "Non-commercial research use only"
NEIGHBOURS = 50
"""Digits per group. Digits from the same photograph are adjacent, but the format does not mark where a photograph ends,
so a group may begin inside one. Larger groups split fewer photographs."""
CAVEATS = (
    "Crops show parts of the neighbouring digits. Digits from the same photograph are adjacent and not marked, so "
    f"groups are runs of {NEIGHBOURS} consecutive digits: at most one photograph is split at the end of each group. "
    "Classes are imbalanced: 1 is about three times as frequent as 9."
)
MAX_FILE = 1 << 32


def numbered_tree() -> ImageTree:
    """DIGIT/INDEX.png, where INDEX is the position in the published split."""
    return ImageTree(CLASSES, AS_STORED, numbered=True, group=NEIGHBOURS)


@dataclass(frozen=True)
class SvhnMat:
    """The published MATLAB files with X, uint8 (32, 32, 3, N), and y, 1 to 10, where 10 is the digit 0."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read one split in stored order. Digit 0 gets label 0, as in torchvision."""
        from scipy.io import loadmat

        path = paths[0]
        if path.stat().st_size > MAX_FILE:
            raise DataError(f"'{path}' has more than {MAX_FILE:,} bytes: it is not an SVHN file.")
        try:
            stored = loadmat(path, variable_names=("X", "y"))
        except Exception as error:  # SciPy may raise anything for a damaged file
            raise DataError(
                f"'{path}' cannot be read as a MATLAB file ({first_line(error)}). Download it again."
            ) from error
        pixels, labels = stored.get("X"), stored.get("y")
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[:3] != (32, 32, 3):
            raise DataError(f"'{path}' has no X of uint8 (32, 32, 3, N): it is not an SVHN file in format 2.")
        if not isinstance(labels, np.ndarray) or labels.size != pixels.shape[-1]:
            raise DataError(f"'{path}' has no y with {pixels.shape[-1]:,} labels: it is damaged. Download it again.")
        digits = labels.reshape(-1).astype(np.int64)
        digits = np.where(digits == 10, 0, digits)
        in_range(digits, len(CLASSES), path)
        images = np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
        return Decoded(images, digits, np.arange(len(images)) // NEIGHBOURS, modes={"RGB": len(images)})
