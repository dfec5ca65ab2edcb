"""Small samples of photographs at their own size, to try networks of ImageNet's classes on: an ID and three OOD sets.

They show that a pipeline works and how detectors behave on real photographs; they are too small to quote.
"""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import FileDataset, Fit, ImageTree, Source, tree_file

WNIDS = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
    "n03394916", "n03417042", "n03425413", "n03445777", "n03888257",
)  # fmt: skip
"""Tench, English springer, cassette player, chain saw, church, French horn, garbage truck, gas pump, golf ball and
parachute: Imagenette's ten classes, by WordNet's ids, which are the names of ImageNet's folders."""

CENTRE = Fit(how="crop")
"""For networks of 32 x 32 pixels, which have no preprocessing of their own."""

IMAGENET = "Deng et al., ImageNet: A Large-Scale Hierarchical Image Database, CVPR 2009"


@dataset(
    "imagenette-sample",
    title="ImageNet, a sample of ten classes at 224 x 224",
    paper=IMAGENET,
    display_name="Imagenette (sample)",
    cite="deng2009imagenet",
)
class ImagenetteSample(FileDataset):
    """500 training and 470 validation photographs of Imagenette's ten classes."""

    splits = ("train", "test")
    channels = 3
    native = True
    family = "imagenet1k"
    classes = WNIDS
    sizes = {"train": 500, "test": 470}
    sources = {
        "train": (
            Source(
                (
                    tree_file(
                        "imagenette-part-train",
                        sha256="b084ba1e57938d20fd9e76b5e552162cb80b26ea4f3a2d89906bff344b6c0e1f",
                    ),
                ),
                ImageTree(WNIDS, CENTRE),
            ),
        ),
        "test": (
            Source(
                (
                    tree_file(
                        "imagenette-part-val",
                        sha256="0c255a4f7724d85dc5e8c953a7c3b666cf6e90861b64b5fb26f51c5a4527c87d",
                    ),
                ),
                ImageTree(WNIDS, CENTRE),
            ),
        ),
    }
    licence = "ImageNet's terms: non-commercial research and education"
    origin = (
        "Imagenette (github.com/fastai/imagenette), divided as ImageNet is, which its own splits are not: train has 50 "
        "ImageNet training images of each class, and test ImageNet's validation images of the ten classes, without 30 "
        "in which a face detector fired. Put imagenette-part-train.zip and imagenette-part-val.zip there."
    )
    caveats = (
        "Networks trained on ImageNet have seen the training images. The whole image is squeezed to 224 x 224, aspect "
        "ratio not kept, before any preprocessing."
    )


@dataset(
    "textures-sample",
    title="Describable Textures, a sample at its own size",
    paper="Cimpoi et al., CVPR 2014",
    display_name="Textures (sample)",
    cite="cimpoi2014dtd",
)
class TexturesSample(FileDataset):
    """200 textures of the first 10 of 47 kinds."""

    splits = ("test",)
    channels = 3
    native = True
    kin = "textures"
    sizes = {"test": 200}
    sources = {
        "test": (
            Source(
                (
                    tree_file(
                        "textures-native",
                        sha256="b3fd891df3b9e18f92f23d1b4d9bb4b178e67eb09a2dd05d278e42351a0815dd",
                    ),
                ),
                ImageTree(fit=CENTRE),
            ),
        )
    }
    licence = "Research use"
    origin = "Describable Textures (DTD), resized to 288 pixels on the shorter side. Put textures-native.zip there."
    caveats = "Some show ImageNet objects: spider webs, bubbles, gourds."


@dataset(
    "places-sample",
    title="SUN scenes, a sample at its own size",
    paper="Xiao et al., SUN Database, CVPR 2010",
    display_name="SUN (sample)",
    cite="xiao2010sun",
)
class PlacesSample(FileDataset):
    """200 photographs of deserts, highways, parks, waterfalls and windmills."""

    splits = ("test",)
    channels = 3
    native = True
    sizes = {"test": 200}
    sources = {
        "test": (
            Source(
                (tree_file("places-like", sha256="7946a8bd758f7b4dddf7d15c79938930c8e89949dee8ac036756d31c89c2e9ac"),),
                ImageTree(fit=CENTRE),
            ),
        )
    }
    licence = "Research use"
    origin = "A part of SUN, at most 288 pixels on the shorter side. Put places-like.zip into the data folder."
    caveats = "Close to ImageNet's own scenes, such as lakeside, valley and cliff; some show cars and benches."


@dataset(
    "flowers-sample",
    title="Oxford flowers, a sample at its own size",
    paper="Nilsback and Zisserman, A Visual Vocabulary for Flower Classification, CVPR 2006",
    display_name="Flowers (sample)",
    cite="nilsback2006flowers",
)
class FlowersSample(FileDataset):
    """208 photographs of 16 kinds of flowers, without the daisy, which is a class of ImageNet."""

    splits = ("test",)
    channels = 3
    native = True
    sizes = {"test": 208}
    sources = {
        "test": (
            Source(
                (tree_file("flowers", sha256="f5176ead639328ad280153d1a542efda1c94f09d1ac86952dd2aac0015da3773"),),
                ImageTree(fit=CENTRE),
            ),
        )
    }
    licence = "No explicit licence; research with citation"
    origin = "Oxford 17 Category Flowers, 288 pixels on the shorter side. Put flowers.zip into the data folder."
    caveats = "Sunflowers, windflowers, coltsfoot and pansies are called daisy by networks of ImageNet's classes."
