"""The hand-cleaned part of notMNIST, as published by its author."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, ImageTree, Source
from oodbench.benchmark.data.files.pixels import Fit

LETTERS = tuple("ABCDEFGHIJ")
UNREADABLE = (
    "A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png",
    "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png",
)
"""Two files of the published archive that cannot be decoded."""


@dataset(
    "notmnist-small",
    title="notMNIST, the hand-cleaned part: letters A to J from fonts",
    paper="Bulatov, notMNIST, 2011",
    display_name="notMNIST (small)",
    cite="bulatov2011notmnist",
)
class NotMnistSmall(FileDataset):
    """18,724 letters A to J in publicly available fonts."""

    splits = ("test",)
    channels = 1
    family = "notmnist"
    classes = LETTERS
    sizes = {"test": 18_724}
    sources = {
        "test": (
            Source(
                (File(("notMNIST_small.tar.gz",), size=8_458_043),),
                ImageTree(
                    LETTERS,
                    Fit(stored=(28, 28)),
                    under="notMNIST_small",
                    leave_out=tuple(f"notMNIST_small/{name}" for name in UNREADABLE),
                ),
            ),
        )
    }
    licence = "No explicit licence"
    origin = (
        "http://yaroslavvb.com/upload/notMNIST/notMNIST_small.tar.gz, downloaded by hand because no checksum is "
        "published. Greyscale, 28 x 28; resized to 32 x 32 (bilinear), in one channel, like `notmnist`."
    )
    caveats = (
        "Of 18,726 files, two are empty and left out by name. The folder inside the archive and the number of files "
        "were taken from descriptions of the archive, not from the file itself. About 0.5% of the labels are reported "
        "to be wrong."
    )
