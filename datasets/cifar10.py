"""CIFAR-10: 32 x 32 colour photographs of 10 classes."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, Source, own_files
from oodbench.datasets._cifar import CifarBinary

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = File(
    ("cifar-10-binary.tar.gz",),
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    size=170_052_171,
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
MEMBERS = {
    "train": tuple(f"cifar-10-batches-bin/data_batch_{k}.bin" for k in range(1, 6)),
    "test": ("cifar-10-batches-bin/test_batch.bin",),
}
TREES = {
    "train": "9ff9269d2c9b5d84dbbfafa1e9e0f6a36d730ef5b3e35bb928c18ef7e9050dcc",
    "test": "34fdde2f30c5a0dc96edfe07c1515581e572fa6f648923cd7a39b41c53aaafcc",
}
"""Checksums of the sorted trees, measured on a copy that was compared with samples of the published batches."""


@dataset(
    "cifar10",
    title="CIFAR-10: tiny photographs of 10 kinds of things",
    paper="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    display_name="CIFAR-10",
    cite="krizhevsky2009cifar",
)
class Cifar10(FileDataset):
    """50,000 + 10,000 colour photographs, 32 x 32, with balanced classes."""

    channels = 3
    classes = CLASSES
    sizes = {"train": 50_000, "test": 10_000}
    sources = {
        split: (
            Source((ARCHIVE,), CifarBinary(members, 1, len(CLASSES))),
            *own_files(f"cifar10-{split}", CLASSES, checksum=TREES[split]),
        )
        for split, members in MEMBERS.items()
    }
    licence = "No explicit licence; free for research with citation of the report"
    origin = (
        "https://www.cs.toronto.edu/~kriz/cifar.html, binary version (torchvision loads the pickled Python version). "
        "Pixels as published. The archive has the published order; a tree of images is read sorted by class and file "
        "name. Training on the same images in another order gives a different network."
    )
    caveats = (
        "Near duplicates occur between train and test: about 3.3% of the test images (Barz and Denzler, Do We Train on "
        "Test Data?, 2020). The labels are those of the 2009 release, with its known errors. The reader of the binary "
        "archive was tested on synthetic files in its format, that of image folders on the real images."
    )
