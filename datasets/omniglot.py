"""Omniglot: handwritten characters of 50 alphabets."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, ImageTree, Source
from oodbench.benchmark.data.files.pixels import Fit

URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
PARTS = {
    "train": ("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
    "test": ("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
}
TORCHVISION = "omniglot-py"


def source(stem: str, md5: str) -> Source:
    """One of the published zips, under its own name or where torchvision stores it."""
    archive = File((f"{stem}.zip", f"{TORCHVISION}/{stem}.zip"), (f"{URL}/{stem}.zip",), md5=md5)
    return Source((archive,), ImageTree(fit=Fit(stored=(105, 105)), under=stem))


@dataset(
    "omniglot",
    title="Omniglot: handwritten characters of 50 alphabets",
    paper="Lake et al., Human-level concept learning through probabilistic program induction, Science 350, 2015",
    display_name="Omniglot",
    cite="lake2015omniglot",
)
class Omniglot(FileDataset):
    """19,280 + 13,180 drawings of characters, 20 per character. Train and test have different alphabets."""

    channels = 1
    sizes = {"train": 19_280, "test": 13_180}
    sources = {split: (source(stem, md5),) for split, (stem, md5) in PARTS.items()}
    licence = "MIT (the repository's)"
    origin = (
        "https://github.com/brendenlake/omniglot, python/images_background.zip (train) and "
        "python/images_evaluation.zip (test), the files that torchvision downloads. Black and white, 105 x 105; "
        "resized to 32 x 32 (bilinear with antialiasing), in one channel. Read sorted by path; without labels, because "
        "no character is in both splits."
    )
    caveats = (
        "Dark strokes on white, where MNIST and similar sets are bright on black: the pixel mean alone separates them. "
        "`omniglot+inverted` is bright on black. No original file was available when this was written; the reader was "
        "tested on synthetic files in its format."
    )
