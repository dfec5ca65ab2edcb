"""The validation images of Places365: photographs of scenes."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, Fit, ImageTree, Source, tree_file

CENTRE = Fit(how="crop")
ARCHIVE = File(
    ("val_256.tar",),
    ("http://data.csail.mit.edu/places/places365/val_256.tar",),
    md5="e27b17d8d44f4af9a78502beb927f808",
)


@dataset(
    "places365",
    title="Places365, validation: photographs of scenes",
    paper="Zhou et al., Places: A 10 Million Image Database for Scene Recognition, TPAMI 40(6), 2018",
    display_name="Places365",
    cite="zhou2018places",
)
class Places365(FileDataset):
    """36,500 photographs of 365 kinds of scenes."""

    splits = ("test",)
    channels = 3
    sizes = {"test": 36_500}
    sources = {
        "test": (
            Source((ARCHIVE,), ImageTree(fit=CENTRE)),
            Source((tree_file("places365-val"),), ImageTree(fit=CENTRE)),
        )
    }
    licence = "Research and education only; the images' copyright stays with their owners"
    origin = (
        "http://places2.csail.mit.edu/, the validation images at 256 x 256 (val_256.tar), as torchvision downloads "
        "them. The centre square, here the whole image, is resized to 32 x 32 (bilinear with antialiasing). Without "
        "labels, which are in another file and not needed for an OOD set."
    )
    caveats = (
        "The 256 x 256 version does not keep the aspect ratio. Many scenes show objects of CIFAR-10 or CIFAR-100 "
        "classes. OpenOOD uses a filtered list of 35,195 (CIFAR-10) or 33,773 (CIFAR-100) images, other papers a "
        "random 10,000: numbers on all 36,500 are comparable to neither. No original file was available when this was "
        "written."
    )
