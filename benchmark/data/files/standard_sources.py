"""Builds the sources that many data sets share: CLASS/IMAGE trees, Parquet files and IDX pairs."""

from __future__ import annotations

from oodbench.benchmark.data.files.file_source import File, Source, tree_file
from oodbench.benchmark.data.files.idx import Idx
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.data.files.parquet import Parquet
from oodbench.benchmark.data.files.pixels import AS_STORED, Fit

RAW = {"train": "train", "test": "t10k"}
"""Split -> its name in MNIST's file names."""


def own_files(name: str, classes: tuple[str, ...], fit: Fit = AS_STORED, checksum: str = "") -> tuple[Source, ...]:
    """A user's own copy: NAME.zip (or .tar, .tar.gz, or a folder) of CLASS/IMAGE, or NAME.parquet.

    `checksum` is `ImageSet.checksum` of the tree's content.
    """
    return (
        Source((tree_file(name),), ImageTree(classes, fit), checksum),
        Source((File((f"{name}.parquet",)),), Parquet(classes, fit)),
    )


def idx_pair(
    prefix: str,
    split: str,
    reader: Idx,
    folder: str = "",
    mirrors: tuple[str, ...] = (),
    md5: tuple[str, str] = ("", ""),
    checksum: str = "",
) -> Source:
    """PREFIX-{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz, gzipped or not, or in torchvision's FOLDER/raw.

    `mirrors` are URL prefixes, to which the file names without PREFIX are appended. `md5` is of images and labels.
    """
    files = []
    for what, known in zip(("images-idx3", "labels-idx1"), md5, strict=True):
        raw = f"{RAW[split]}-{what}-ubyte"
        places = [f"{prefix}-{raw}", *([f"{folder}/raw/{raw}"] if folder else [])]
        names = tuple(place + suffix for place in places for suffix in (".gz", ""))
        files.append(File(names, tuple(f"{mirror}{raw}.gz" for mirror in mirrors) if known else (), md5=known))
    return Source(tuple(files), reader, checksum)
