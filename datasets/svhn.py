"""SVHN, cropped digits (format 2), and subsets of it that are distributed separately."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, Joined, Parquet, Source, tree_file
from oodbench.datasets._svhn import CAVEATS, CLASSES, LICENCE, PAPER, SvhnMat, numbered_tree

ARCHIVES = {
    "train": File(
        ("train_32x32.mat", "svhn/train_32x32.mat"),
        ("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),
        size=182_040_794,
        md5="e26dedcc434d2e4c54c9b2d4a06d8373",
        sha256="435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    "test": File(
        ("test_32x32.mat", "svhn/test_32x32.mat"),
        ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
        size=64_275_384,
        md5="eb5a983be6a315427106f1b164d9cef3",
        sha256="cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
}
TRAIN_PART = tree_file(
    "svhn-train-first4434", sha256="e833e2b8a7e79eef7db14386ac11995d7f0306ce302e177baa5313c29002d744"
)
TEST_PART = tree_file("svhn-test-first10000", sha256="ae50549a8329e73f3d9b24a721f349a1f4ee99ee9967f88fd20a4261db00f75a")
RECROPPED = (
    "the training digits were cropped again from the first 2,000 full-number training photographs (square of side "
    "max(w, h) centred on the box, resized to 32x32, bicubic): on 1,952 test digits, the same procedure reproduced the "
    "published crops with a mean squared error below 0.2 on the scale 0 to 255, so they are close but not bit-identical"
)
RECOVERED = (
    "the test digits were recovered from 360x360 renderings (pilot7747/toloka-image-classification) by reading one "
    "pixel of each cell; rendering them again reproduces those images exactly"
)
PART = "This is a part of SVHN under its own name: its numbers are not those of the standard split."
CUT = 8000
"""In `svhn-small`, test digits below this index belong to train, the others to test."""


@dataset(
    "svhn",
    title="SVHN: house numbers from street photographs, cropped digits",
    paper=PAPER,
    display_name="SVHN",
    cite="netzer2011svhn",
)
class Svhn(FileDataset):
    """73,257 + 26,032 colour images of digits, 32 x 32; the 531,131 easier 'extra' images are not used."""

    channels = 3
    classes = CLASSES
    sizes = {"train": 73_257, "test": 26_032}
    sources = {
        split: (
            Source((archive,), SvhnMat()),
            Source((tree_file(f"svhn-{split}"),), numbered_tree()),
            Source((File((f"svhn-{split}.parquet",)),), Parquet(CLASSES)),
        )
        for split, archive in ARCHIVES.items()
    }
    licence = LICENCE
    origin = (
        "http://ufldl.stanford.edu/housenumbers/, format 2, the files that torchvision downloads. Pixels as published, "
        "in stored order; the published label 10 is the digit 0. A tree of images must be DIGIT/INDEX.png."
    )
    caveats = f"{CAVEATS} The reader of the .mat files was tested on synthetic files in their format."


@dataset(
    "svhn-test-first10000",
    title="SVHN, the first 10,000 digits of the test split",
    paper=PAPER,
    display_name="SVHN (first 10,000)",
    cite="netzer2011svhn",
)
class SvhnTestPart(FileDataset):
    """The first 10,000 of the 26,032 test digits, in their published order."""

    splits = ("test",)
    channels = 3
    family = "svhn"
    classes = CLASSES
    sizes = {"test": 10_000}
    sources = {
        "test": (
            Source(
                (TEST_PART,),
                numbered_tree(),
                checksum="60ac7a474c9741bbf39b70422824ba1d2f043abe4b34d4f5d493d3997dafd452",
                note=f"svhn-test-first10000: {PART}",
            ),
        )
    }
    licence = LICENCE
    origin = (
        f"{RECOVERED[0].upper()}{RECOVERED[1:]}. A tree DIGIT/INDEX.webp, INDEX from 0 in the published test split."
    )
    caveats = f"{PART} 16,032 of the test digits are missing. {CAVEATS}"


@dataset(
    "svhn-train-first4434",
    title="SVHN, the first 4,434 digits of the training split",
    paper=PAPER,
    display_name="SVHN (first 4,434)",
    cite="netzer2011svhn",
)
class SvhnTrainPart(FileDataset):
    """The first 4,434 of the 73,257 training digits, cropped again, in their published order."""

    splits = ("train",)
    channels = 3
    family = "svhn"
    classes = CLASSES
    sizes = {"train": 4434}
    sources = {
        "train": (
            Source(
                (TRAIN_PART,),
                numbered_tree(),
                checksum="f2c50cfd48aa9c3965ccd06b5b5f80bc7ffece63bd5d5058cc53f7b267e77ee8",
                note=f"svhn-train-first4434: {PART}",
            ),
        )
    }
    licence = LICENCE
    origin = f"{RECROPPED[0].upper()}{RECROPPED[1:]}. A tree DIGIT/INDEX.webp, INDEX from 0 in the published split."
    caveats = f"{PART} 68,823 of the training digits are missing. {CAVEATS}"


@dataset(
    "svhn-small",
    title="SVHN in small: 12,434 digits to train on, 2,000 to test",
    paper=PAPER,
    display_name="SVHN (small)",
    cite="netzer2011svhn",
)
class SvhnSmall(FileDataset):
    """Both subsets as one ID set. Train: the 4,434 training digits and test digits 0 to 7,999. Test: the others."""

    channels = 3
    family = "svhn"
    classes = CLASSES
    sizes = {"train": 12_434, "test": 2000}
    sources = {
        "train": (
            Source(
                (TRAIN_PART, TEST_PART),
                Joined(((numbered_tree(), 0, None), (numbered_tree(), 0, CUT))),
                checksum="1b2c1c70578ff48fd603f42b3444d49f7a83bd3a481fcdb6187901874465ff36",
                note="svhn-small trains on 4,434 training digits and test digits 0 to 7,999 of SVHN, and tests on test "
                "digits 8,000 to 9,999: its numbers are not those of the standard split.",
            ),
        ),
        "test": (
            Source(
                (TEST_PART,),
                Joined(((numbered_tree(), CUT, None),)),
                checksum="010381100bf860d6046b8bbc5bc8e60bc652d678d6761683869ab3027e17d12c",
            ),
        ),
    }
    licence = LICENCE
    origin = f"Combines svhn-train-first4434 and svhn-test-first10000: {RECROPPED}; {RECOVERED}."
    caveats = (
        "A small ID set of digits for experiments, split by index because neighbouring digits share a photograph; not "
        f"a standard split. The photograph at the boundary may occur on both sides. {CAVEATS}"
    )
