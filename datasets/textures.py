"""Describable Textures (DTD), and a subset of it that is distributed at 32 x 32."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import AS_STORED, File, FileDataset, Fit, ImageTree, Parquet, Source, tree_file

CLASSES = (
    "banded", "blotchy", "braided", "bubbly", "bumpy", "chequered", "cobwebbed", "cracked", "crosshatched",
    "crystalline", "dotted", "fibrous", "flecked", "freckled", "frilly", "gauzy", "grid", "grooved", "honeycombed",
    "interlaced", "knitted", "lacelike", "lined", "marbled", "matted", "meshed", "paisley", "perforated", "pitted",
    "pleated", "polka-dotted", "porous", "potholed", "scaly", "smeared", "spiralled", "sprinkled", "stained",
    "stratified", "striped", "studded", "swirly", "veined", "waffled", "woven", "wrinkled", "zigzagged",
)  # fmt: skip
PAPER = "Cimpoi et al., Describing Textures in the Wild, CVPR 2014"
LICENCE = "Research use"
ARCHIVE = File(
    ("dtd-r1.0.1.tar.gz", "dtd/dtd-r1.0.1.tar.gz"),
    ("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
    md5="fff73e5086ae6bdbea199a49dfb8a4c1",
)
CENTRE = Fit(how="crop")


@dataset("textures", title="Describable Textures (DTD)", paper=PAPER, display_name="Textures", cite="cimpoi2014dtd")
class Textures(FileDataset):
    """5,640 photographs of textures, 120 for each of 47 classes, from all three published splits."""

    splits = ("test",)
    channels = 3
    classes = CLASSES
    sizes = {"test": 5640}
    sources = {
        "test": (
            Source((ARCHIVE,), ImageTree(CLASSES, CENTRE, under="dtd/images")),
            Source((tree_file("textures"),), ImageTree(CLASSES, CENTRE)),
            Source((File(("textures.parquet",)),), Parquet(CLASSES, CENTRE)),
            Source((File(("images_classic/texture",)),), ImageTree(CLASSES, CENTRE)),  # OpenOOD's data folder
        )
    }
    licence = LICENCE
    origin = (
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/, release 1.0.1, the archive that torchvision downloads. "
        "Photographs of 300 to 640 pixels; the centre square is resized to 32 x 32 (bilinear with antialiasing), which "
        "keeps the aspect ratio. OOD papers use all images as one test set."
    )
    caveats = (
        "At 32 x 32 most of a texture's detail is lost. Stored as JPEG at the original size. The complete archive was "
        "not available when this was written; the reader was tested on synthetic files in its format."
    )


@dataset(
    "textures-10of47",
    title="Describable Textures, the first 10 of 47 kinds, at 32 x 32",
    paper=PAPER,
    display_name="Textures (10 of 47)",
    cite="cimpoi2014dtd",
)
class TexturesPart(FileDataset):
    """1,200 textures of 10 classes, from banded to crystalline."""

    splits = ("test",)
    channels = 3
    family = "textures"
    classes = CLASSES[:10]
    sizes = {"test": 1200}
    sources = {
        "test": (
            Source(
                (
                    tree_file(
                        "textures-resize-10of47",
                        sha256="e41dd13f11f861148451c6b15cce8255381ef0751426a2879a96b592dd8b6e88",
                    ),
                ),
                ImageTree(CLASSES[:10], AS_STORED),
                checksum="743c416134b25c52863f770be33d9523baaa668dc6cf632b10934524530c3a82",
                note="textures-10of47: 10 of the 47 kinds of DTD, squeezed to 32x32; not the set of the papers.",
            ),
        )
    }
    licence = LICENCE
    origin = (
        "JPEG files from pan8915/DeepTexture, all three DTD splits together; the whole image resized to 32 x 32 "
        "(aspect ratio not kept), bilinear with antialiasing, stored losslessly as CLASS/IMAGE.webp."
    )
    caveats = (
        "Only the first 10 classes in alphabetical order, resized differently from `textures`. Stored as JPEG at the "
        "original size."
    )
