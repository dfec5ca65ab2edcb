"""Tiny ImageNet, 200 classes at 64 x 64 resized to 32 x 32, and a separately distributed copy of its test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark import DataError, dataset
from oodbench.benchmark.data.files import (
    AS_STORED,
    Decoded,
    File,
    FileDataset,
    Fit,
    ImageTree,
    Source,
    decode_members,
    open_tree,
    tree_file,
)

PAPER = (
    "Le and Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231n, 2015; Deng et al., ImageNet, CVPR 2009"
)
LICENCE = "ImageNet's terms: non-commercial research"
STORED = Fit(stored=(64, 64))
ROOT = "tiny-imagenet-200"
ARCHIVE = File(
    ("tiny-imagenet-200.zip",),
    ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
    size=248_100_043,
    md5="90528d7ca1a48142e341f4ef8d21d0de",
)


@dataclass(frozen=True)
class TinyImageNetZip:
    """train/WNID/images/NAME.JPEG, or val/images/NAME.JPEG with val/val_annotations.txt; classes are sorted WNIDs."""

    split: str

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read one split, sorted by path."""
        tree = open_tree(paths[0])
        found = {k: m.name for k, m in enumerate(tree.members) if m.name.startswith(f"{ROOT}/{self.split}/")}
        images = {k: name for k, name in found.items() if "/images/" in name}
        if self.split == "train":
            wnid = {k: name.split("/")[2] for k, name in images.items()}
        else:
            listed = self._listed(next((dict(tree.read([k]))[k] for k, n in found.items() if n.endswith(".txt")), b""))
            wnid = {k: listed.get(name.rpartition("/")[2], "") for k, name in images.items()}
        classes = sorted(set(wnid.values()))
        if len(classes) != 200 or "" in classes:
            raise DataError(f"'{paths[0]}' has {len(classes)} classes in {self.split}/, expected 200: it is damaged.")
        number = {name: label for label, name in enumerate(classes)}
        order = sorted(images, key=lambda k: images[k])
        pixels, bad, modes = decode_members(tree, order, STORED)
        return Decoded(pixels, np.array([number[wnid[k]] for k in order], dtype=np.int64), None, bad, modes)

    @staticmethod
    def _listed(content: bytes) -> dict[str, str]:
        rows = [line.split("\t") for line in content.decode("utf-8").splitlines()]
        return {row[0]: row[1] for row in rows if len(row) > 1}


@dataset(
    "tinyimagenet",
    title="Tiny ImageNet, reduced to 32 x 32",
    paper=PAPER,
    display_name="Tiny ImageNet",
    cite="le2015tinyimagenet",
)
class TinyImageNet(FileDataset):
    """100,000 + 10,000 photographs of 200 classes. The published validation images are the test split."""

    channels = 3
    classes = tuple(f"class {k:03d}" for k in range(200))
    sizes = {"train": 100_000, "test": 10_000}
    sources = {
        "train": (Source((ARCHIVE,), TinyImageNetZip("train")),),
        "test": (Source((ARCHIVE,), TinyImageNetZip("val")),),
    }
    licence = LICENCE
    origin = (
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip. 64 x 64 JPEG; resized to 32 x 32 (bilinear with "
        "antialiasing, Pillow). The published test images have no labels, so the validation images are the test split. "
        "Class k is the k-th WordNet id in alphabetical order."
    )
    caveats = (
        "Several classes also occur in CIFAR-10 and CIFAR-100. Not the ODIN archives, which were made from the test "
        "images: those are `tinyimagenet-resize` and `tinyimagenet-crop`. Some images are greyscale. The archive was "
        "not available when this was written; the reader was tested on synthetic files in its format."
    )


@dataset(
    "tinyimagenet-resize-pillow",
    title="Tiny ImageNet's test images, resized with antialiasing",
    paper=PAPER,
    display_name="Tiny ImageNet (resized)",
    cite="le2015tinyimagenet",
)
class TinyImageNetPillow(FileDataset):
    """The 10,000 test images of Tiny ImageNet at 32 x 32, resized by Pillow."""

    splits = ("test",)
    channels = 3
    family = "tinyimagenet"
    sizes = {"test": 10_000}
    sources = {
        "test": (
            Source(
                (
                    tree_file(
                        "tiny-imagenet-resize-test",
                        sha256="84a4717c64f69f820700d90a5f3ebd11343962bee6e014a23e177df3b68b8272",
                    ),
                ),
                ImageTree(fit=AS_STORED),
                checksum="76aa835fcc672138e610bd9979902ca0bd9975e9784daed9de6c716af7dc374d",
                note="tinyimagenet-resize-pillow was resized with antialiasing: it is not the ODIN archive "
                "(tinyimagenet-resize), on which detection is easier.",
            ),
        )
    }
    licence = LICENCE
    origin = (
        "The 64 x 64 JPEG files of the test split (from seshuad/IMagenet) resized to 32 x 32, bilinear with "
        "antialiasing (Pillow), stored losslessly. A tree of images, read sorted by path; folders have no meaning."
    )
    caveats = (
        "NOT the pixels of ODIN's Imagenet_resize archive, whose resizing left artefacts that make it easier (Tack et "
        "al., CSI, NeurIPS 2020): expect lower AUROC than published. No labels. 9,998 of the 10,000 images are "
        "distinct."
    )
