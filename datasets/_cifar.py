"""Reads the CIFAR binary archives: records of label bytes and 3,072 bytes of pixels, in files inside a tar.gz.

torchvision loads the Python version instead, which contains pickles, and unpickling can run arbitrary code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark import DataError
from oodbench.benchmark.data.files import Decoded, in_range, open_tree

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class CifarBinary:
    """Some members of the archive, concatenated. The last label byte of a record is the class."""

    members: tuple[str, ...]
    label_bytes: int
    classes: int

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the records in stored order: images uint8 (N, 3, 32, 32), as red, green and blue planes."""
        tree = open_tree(paths[0])
        index = {member.name: k for k, member in enumerate(tree.members)}
        for name in self.members:
            if name not in index:
                raise DataError(f"'{paths[0]}' lacks '{name}': it is not the binary archive. Download it again.")
        content = {tree.members[k].name: data for k, data in tree.read({index[name] for name in self.members})}
        records = np.concatenate([self._records(content[name], name, paths[0]) for name in self.members])
        labels = records[:, self.label_bytes - 1].astype(np.int64)
        in_range(labels, self.classes, paths[0])
        images = np.ascontiguousarray(records[:, self.label_bytes :]).reshape(-1, 3, 32, 32)
        return Decoded(images, labels, modes={"RGB": len(images)})

    def _records(self, data: bytes, name: str, path: Path) -> np.ndarray:
        length = self.label_bytes + PIXELS
        if not data or len(data) % length:
            raise DataError(f"'{name}' in '{path}' has {len(data):,} bytes, expected a multiple of {length:,}.")
        return np.frombuffer(data, np.uint8).reshape(-1, length)
