"""STL-10: photographs of 10 classes, selected from ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark import DataError, dataset
from oodbench.benchmark.data.files import (
    Decoded,
    File,
    FileDataset,
    Fit,
    Source,
    in_range,
    open_tree,
    own_files,
    resized_all,
)

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SIDE = 96
ARCHIVE = File(
    ("stl10_binary.tar.gz",),
    ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
    md5="91f7769df0f17e558f3565bffb0c7dfb",
)


@dataclass(frozen=True)
class StlBinary:
    """The published binary files: 96 x 96 planes in column-major order, and labels 1 to 10."""

    split: str

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read one labelled split in stored order; the unlabelled images are skipped."""
        names = [f"stl10_binary/{self.split}_{what}.bin" for what in "Xy"]
        tree = open_tree(paths[0])
        index = {member.name: k for k, member in enumerate(tree.members)}
        for name in names:
            if name not in index:
                raise DataError(f"'{paths[0]}' lacks '{name}': it is not STL-10's binary archive. Download it again.")
        content = {tree.members[k].name: data for k, data in tree.read({index[name] for name in names})}
        pixels, labels = (np.frombuffer(content[name], np.uint8) for name in names)
        if not len(labels) or len(pixels) != len(labels) * 3 * SIDE * SIDE:
            raise DataError(f"'{names[0]}' in '{paths[0]}' has {len(pixels):,} bytes for {len(labels):,} labels.")
        numbers = labels.astype(np.int64) - 1
        in_range(numbers, len(CLASSES), paths[0], first=1)
        images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 1, 3, 2)
        return Decoded(resized_all(images), numbers, modes={"RGB": len(images)})


@dataset(
    "stl10",
    title="STL-10: photographs of 10 kinds of things",
    paper="Coates et al., An Analysis of Single-Layer Networks in Unsupervised Feature Learning, AISTATS 2011",
    display_name="STL-10",
    cite="coates2011stl10",
)
class Stl10(FileDataset):
    """5,000 + 8,000 labelled photographs, with balanced classes; the 100,000 unlabelled images are not used."""

    channels = 3
    classes = CLASSES
    sizes = {"train": 5000, "test": 8000}
    sources = {
        split: (
            Source((ARCHIVE,), StlBinary(split)),
            *own_files(f"stl10-{split}", CLASSES, Fit(stored=(SIDE, SIDE))),
        )
        for split in ("train", "test")
    }
    licence = "ImageNet's terms: non-commercial research"
    origin = (
        "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz (2.6 GB), the archive that torchvision downloads. "
        "96 x 96; resized to 32 x 32 (bilinear with antialiasing)."
    )
    caveats = (
        "Nine of the ten classes are CIFAR-10's (monkey instead of frog), so it is not an OOD set for CIFAR-10 except "
        "for that class, stl10[7]. Reading decompresses all 2.6 GB once. No original file was available when this was "
        "written; the reader was tested on synthetic files in its format."
    )
