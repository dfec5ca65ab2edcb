"""CIFAR-100 with its 100 fine labels."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, Source, own_files
from oodbench.datasets._cifar import CifarBinary

CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
ARCHIVE = File(
    ("cifar-100-binary.tar.gz",),
    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
    size=168_513_733,
    md5="03b5dce01913d631647c71ecec9e9cb8",
)
TREES = {"train": "", "test": "3ed828b797cee53bad35d19c9ad275db6a470b5c7ed53297e23de6b3a25a674b"}
"""Checksums of the sorted trees, measured on a copy that was not compared with the published archive."""


@dataset(
    "cifar100",
    title="CIFAR-100: tiny photographs of 100 kinds of things",
    paper="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    display_name="CIFAR-100",
    cite="krizhevsky2009cifar",
)
class Cifar100(FileDataset):
    """50,000 + 10,000 colour photographs, 32 x 32, balanced over the 100 fine classes."""

    channels = 3
    classes = CLASSES
    sizes = {"train": 50_000, "test": 10_000}
    sources = {
        split: (
            Source((ARCHIVE,), CifarBinary((f"cifar-100-binary/{split}.bin",), 2, len(CLASSES))),
            *own_files(f"cifar100-{split}", CLASSES, checksum=TREES[split]),
        )
        for split in ("train", "test")
    }
    licence = "No explicit licence; free for research with citation of the report"
    origin = (
        "https://www.cs.toronto.edu/~kriz/cifar.html, binary version (torchvision loads the pickled Python version). "
        "Pixels as published, with fine labels; the coarse labels are not read. A tree of images is read sorted by "
        "class and file name."
    )
    caveats = (
        "Two pairs of test images are equal in every pixel. Near CIFAR-10 by construction: photographs from the same "
        "source, and disjoint but related classes (such as pickup_truck and truck). Near duplicates occur between "
        "train and test: about 10% of the test images (Barz and Denzler, Do We Train on Test Data?, 2020). The reader "
        "of the binary archive was tested on synthetic files in its format, that of image folders on the real test "
        "images."
    )
