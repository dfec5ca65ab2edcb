"""EMNIST letters: handwritten a to z."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oodbench.benchmark import DataError, dataset
from oodbench.benchmark.data.files import Decoded, File, FileDataset, Idx, Source, idx_array, open_tree

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
IDX = Idx(len(LETTERS), first_label=1, transposed=True)
ARCHIVE = File(
    ("emnist-gzip.zip", "EMNIST/raw/gzip.zip"),
    ("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",),
    md5="58c8d27c78d21e728a6bc7b3cc06412e",
)


@dataclass(frozen=True)
class EmnistZip:
    """Two gzipped IDX files inside the zip that contains all of EMNIST."""

    part: str

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the images and labels of one part, such as 'letters-train'."""
        names = [f"gzip/emnist-{self.part}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
        tree = open_tree(paths[0])
        index = {member.name: k for k, member in enumerate(tree.members)}
        for name in names:
            if name not in index:
                raise DataError(f"'{paths[0]}' lacks '{name}': it is not EMNIST's gzip.zip. Download it again.")
        content = {tree.members[k].name: data for k, data in tree.read({index[name] for name in names})}
        images, labels = (
            idx_array(gzip.GzipFile(fileobj=io.BytesIO(content[name])), dimensions, paths[0] / name)  # type: ignore[arg-type]
            for name, dimensions in zip(names, (3, 1), strict=True)
        )
        return IDX.decode(images, labels, [paths[0] / name for name in names])


def pair(split: str) -> Source:
    """The two files by themselves, gzipped or not, or in torchvision's folder."""
    files = []
    for what in ("images-idx3", "labels-idx1"):
        name = f"emnist-letters-{split}-{what}-ubyte"
        files.append(File((f"{name}.gz", name, f"EMNIST/raw/{name}.gz", f"EMNIST/raw/{name}")))
    return Source(tuple(files), IDX)


@dataset(
    "emnist-letters",
    title="EMNIST letters: handwritten a to z",
    paper="Cohen et al., EMNIST: an extension of MNIST to handwritten letters, arXiv:1702.05373, 2017",
    display_name="EMNIST letters",
    cite="cohen2017emnist",
)
class EmnistLetters(FileDataset):
    """124,800 + 20,800 handwritten letters; upper and lower case are one class."""

    channels = 1
    classes = LETTERS
    sizes = {"train": 124_800, "test": 20_800}
    sources = {split: (Source((ARCHIVE,), EmnistZip(f"letters-{split}")), pair(split)) for split in ("train", "test")}
    licence = "No explicit licence found; made by NIST from its Special Database 19"
    origin = (
        "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip, the archive that torchvision downloads, named "
        "emnist-gzip.zip. Rows and columns are swapped in the files, which is undone here. Greyscale, 28 x 28; resized "
        "to 32 x 32 (bilinear), in one channel, like `mnist`."
    )
    caveats = (
        "From the same NIST forms as MNIST: o and 0, i, l and 1, s and 5, z and 2 often have the same shape. No "
        "original file was available when this was written; the reader was tested on synthetic files in its format."
    )
