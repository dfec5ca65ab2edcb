"""notMNIST's hand-cleaned part, as its author published it."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, ImageTree, Source
from oodbench.benchmark.data.files.pixels import Fit

LETTERS = tuple("ABCDEFGHIJ")
UNREADABLE = (
    "A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png",
    "F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png",
)
"""Two files of the published archive that no decoder reads."""


@dataset(
    "notmnist-small",
    title="notMNIST, the hand-cleaned part: letters A to J from fonts",
    paper="Bulatov, notMNIST, 2011",
)
class NotMnistSmall(FileDataset):
    """18,724 letters A to J in found fonts."""

    splits = ("test",)
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
        "http://yaroslavvb.com/upload/notMNIST/notMNIST_small.tar.gz, by hand: no checksum is published. Grey, 28 x "
        "28; resized to 32 x 32 (bilinear) and repeated in three channels, as `notmnist`."
    )
    caveats = (
        "Of 18,726 files, two are empty and left out by name. The folder inside the archive and the count are from "
        "descriptions of it, not from the file itself. Some 0.5% of the labels are said to be wrong."
    )
