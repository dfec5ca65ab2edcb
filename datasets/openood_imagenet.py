"""The ImageNet boards of OpenOOD v1.5 with the released membership, and the sets that others take from them.

Pictures have their own sizes: a network gets them as its weights, the suite or the command line say. Without any of
these, they are reduced to 32 x 32 pixels as on the CIFAR boards.
"""

from __future__ import annotations

from typing import ClassVar

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, Fit, ImageTree, Source, tree_file
from oodbench.benchmark.data.imagenet_classes import imagenet_wnids
from oodbench.benchmark.data.lists import ClassFolders, ListedDataset, ListReader, ListSource, SynsetList
from oodbench.datasets import textures
from oodbench.datasets._openood import CLASSIC, LARGE, LARGE_COPY, MEMBERSHIP, NOT_RUN, ORIGIN, PAPER, listed

ONE_K, TWO_HUNDRED = "imagenet", "imagenet200"
EITHER = "imagenet imagenet200"
"""Boards that share their OOD sets: OpenOOD's configuration of ImageNet-200 names ImageNet-1K's lists."""

CLASSES, CLASSES_200 = imagenet_wnids(), imagenet_wnids(with_renditions=True)
IMAGENET = "Deng et al., ImageNet: A Large-Scale Hierarchical Image Database, CVPR 2009"
LICENCE = "ImageNet's terms: non-commercial research and education"
CENTRE = Fit(how="crop")
SELECTION = "The selection of Huang and Li (MOS, CVPR 2021) as a folder or archive"
LABELS = "Classes are WordNet ids in alphabetical order, as in torchvision's and timm's heads."


class Listed(ListedDataset):
    """A set of the ImageNet boards."""

    splits: ClassVar[tuple[str, ...]] = ("test",)
    channels = 3
    native = True
    membership = MEMBERSHIP
    origin = ORIGIN
    caveats = f"{LARGE_COPY} {NOT_RUN}"


@dataset("imagenet1k", title="ImageNet-1K (ILSVRC 2012) as OpenOOD v1.5 splits it", paper=PAPER,
         display_name="ImageNet-1K", cite="deng2009imagenet,zhang2023openood")  # fmt: skip
class ImageNet1k(Listed):
    """1,281,167 training images; of the 50,000 validation images, 5,000 validate and 45,000 are scored."""

    splits = ("train", "val", "test")
    optional = ("train", "val")
    classes = CLASSES
    sizes = {"train": 1_281_167, "val": 5000, "test": 45_000}
    sources = {
        "train": (
            *listed(ONE_K, "train_imagenet", LARGE, 1000),
            ListSource((File(("imagenet/train",)),), ClassFolders(classes=1000)),
        ),
        "val": listed(ONE_K, "val_imagenet", LARGE, 1000),
        "test": listed(ONE_K, "test_imagenet", LARGE, 1000),
    }
    licence = LICENCE
    origin = f"{ORIGIN} Training images may also lie in imagenet/train, one folder for each WordNet id."
    caveats = (
        f"{LABELS} Without training images, detectors that learn from them are left out, or use what is declared. "
        f"{Listed.caveats}"
    )


@dataset("imagenet-val", title="ImageNet-1K, all 50,000 validation images", paper=IMAGENET,
         display_name="ImageNet-1K", cite="deng2009imagenet")  # fmt: skip
class ImageNetVal(Listed):
    """The official validation images, all of them scored, as in tables with iNaturalist, SUN, Places and Textures."""

    splits = ("train", "test")
    optional = ("train",)
    family = "imagenet1k"
    classes = CLASSES
    sizes = {"train": 1_281_167, "test": 50_000}
    membership = ""
    sources = {
        "train": ImageNet1k.sources["train"],
        "test": (
            ListSource((File(("imagenet/val",)),), ClassFolders(classes=1000)),
            ListSource((File(("imagenet/val_synsets.txt",)),), SynsetList("val", 1000)),
            ListSource(
                (
                    File(("benchmark_imglist/imagenet/test_imagenet.txt",)),
                    File(("benchmark_imglist/imagenet/val_imagenet.txt",)),
                ),
                ListReader(f"../../{LARGE}", 1000),
            ),
        ),
    }
    licence = LICENCE
    origin = (
        "https://image-net.org (ILSVRC 2012, after registration): imagenet/val with one folder for each WordNet id, as "
        "torchvision expects it; or the archive's flat files in imagenet/val and, in imagenet/val_synsets.txt, the "
        "WordNet id of each in a line of its own, in the order of their numbers; or OpenOOD's data folder, whose two "
        "lists of validation images are read one after the other."
    )
    caveats = f"{LABELS} {NOT_RUN}"


@dataset("imagenet200", title="ImageNet-200, the classes of ImageNet-R, as OpenOOD v1.5 splits it", paper=PAPER,
         display_name="ImageNet-200", cite="deng2009imagenet,zhang2023openood")  # fmt: skip
class ImageNet200(Listed):
    """Images of the 200 classes that ImageNet-R has renditions of."""

    splits = ("train", "val", "test")
    optional = ("train", "val")
    family = "imagenet1k"
    classes = CLASSES_200
    sources = {
        "train": listed(TWO_HUNDRED, "train_imagenet200", LARGE, 200),
        "val": listed(TWO_HUNDRED, "val_imagenet200", LARGE, 200),
        "test": listed(TWO_HUNDRED, "test_imagenet200", LARGE, 200),
    }
    licence = LICENCE
    caveats = (
        "The lists' labels are taken to be places of ImageNet-R's WordNet ids in alphabetical order: no copy of these "
        f"lists was seen. {NOT_RUN}"
    )


@dataset("ssb-hard", title="SSB-hard: ImageNet-21K classes that are close to ImageNet-1K's", paper=PAPER,
         display_name="SSB-hard", cite="vaze2022openset,zhang2023openood")  # fmt: skip
class SsbHard(Listed):
    """49,000 images of the hard split of the Semantic Shift Benchmark, near-OOD."""

    sizes = {"test": 49_000}
    sources = {"test": listed(EITHER, "test_ssb_hard", LARGE)}
    licence = LICENCE
    caveats = f"From Vaze et al., Open-Set Recognition, ICLR 2022. {Listed.caveats}"


@dataset("ninco", title="NINCO: 64 classes, checked image by image to be none of ImageNet-1K's", paper=PAPER,
         display_name="NINCO", cite="bitterwolf2023ninco,zhang2023openood")  # fmt: skip
class Ninco(Listed):
    """5,879 images of classes that ImageNet-1K has not, near-OOD."""

    sizes = {"test": 5879}
    sources = {"test": listed(EITHER, "test_ninco", LARGE)}
    licence = "That of each photograph's source (Bitterwolf et al., In or Out?, ICML 2023)"
    caveats = f"Without the subsamples of other sets and the unit tests that belong to NINCO. {Listed.caveats}"


@dataset("inaturalist", title="iNaturalist, 10,000 plants that are no class of ImageNet-1K", paper=PAPER,
         display_name="iNaturalist", cite="vanhorn2018inaturalist,huang2021mos")  # fmt: skip
class INaturalist(Listed):
    """Huang and Li's selection of plants, far-OOD."""

    sizes = {"test": 10_000}
    sources = {
        "test": (
            *listed(EITHER, "test_inaturalist", LARGE),
            Source((tree_file("iNaturalist"),), ImageTree(fit=CENTRE)),
        )
    }
    licence = "That of each photograph (Van Horn et al., iNaturalist, CVPR 2018)"
    origin = f"{ORIGIN} Or: {SELECTION} iNaturalist."
    caveats = f"{LARGE_COPY} {NOT_RUN}"


@dataset("openimage-o", title="OpenImage-O, OpenOOD v1.5's part that is scored", paper=PAPER,
         display_name="OpenImage-O", cite="wang2022vim,zhang2023openood")  # fmt: skip
class OpenImageO(Listed):
    """15,869 photographs from Open Images, far-OOD; 1,763 more to tune on, its training split."""

    splits = ("train", "test")
    optional = ("train",)
    sizes = {"train": 1763, "test": 15_869}
    sources = {
        "train": listed(EITHER, "val_openimage_o", LARGE),
        "test": listed(EITHER, "test_openimage_o", LARGE),
    }
    licence = "CC BY 2.0, as listed by Open Images (Wang et al., ViM, CVPR 2022)"
    caveats = (
        "The training split is OpenOOD's OOD validation set, for the protocol val_ood alone: another part of the same "
        f"images, so that settings are tuned on the data set that is scored. {Listed.caveats}"
    )


@dataset("textures-43of47", title="Describable Textures without four kinds that show ImageNet classes", paper=PAPER,
         display_name="Textures", cite="cimpoi2014dtd,huang2021mos")  # fmt: skip
class Textures43(Listed):
    """5,160 photographs of 43 kinds of textures, far-OOD."""

    family = "textures"
    sizes = {"test": 5160}
    sources = {"test": listed(EITHER, "test_textures", CLASSIC)}
    licence = textures.LICENCE
    caveats = f"Without bubbly, cobwebbed, honeycombed and spiralled. {Listed.caveats}"


@dataset("imagenet-v2", title="ImageNet-V2: new test images of ImageNet-1K's classes", paper=PAPER,
         display_name="ImageNet-V2", cite="recht2019imagenetv2")  # fmt: skip
class ImageNetV2(Listed):
    """10,000 images collected as ImageNet's were, ten years later; ID in the full-spectrum metrics."""

    classes = CLASSES
    sizes = {"test": 10_000}
    sources = {"test": listed(ONE_K, "test_imagenet_v2", LARGE, 1000)}
    licence = "As ImageNet's (Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019)"


@dataset("imagenet-c", title="ImageNet-C: OpenOOD's 10,000 corrupted validation images", paper=PAPER,
         display_name="ImageNet-C", cite="hendrycks2019corruptions")  # fmt: skip
class ImageNetC(Listed):
    """Corruptions of 15 kinds and five strengths, drawn at random; ID in the full-spectrum metrics."""

    family = "imagenet1k"
    classes = CLASSES
    sizes = {"test": 10_000}
    sources = {"test": listed(ONE_K, "test_imagenet_c", LARGE, 1000)}
    licence = "CC BY 4.0 (Hendrycks and Dietterich, ICLR 2019); the images are ImageNet's"
    as_they_are = True
    caveats = (
        "Stored at 224 x 224. As in OpenOOD, they go to a network of this size as they are, not resized, not cropped. "
        f"{Listed.caveats}"
    )


@dataset("imagenet-r", title="ImageNet-R: renditions of 200 of ImageNet-1K's classes", paper=PAPER,
         display_name="ImageNet-R", cite="hendrycks2021many")  # fmt: skip
class ImageNetR(Listed):
    """30,000 drawings, paintings, toys and the like; ID in the full-spectrum metrics."""

    classes = CLASSES
    sizes = {"test": 30_000}
    sources = {"test": listed(ONE_K, "test_imagenet_r", LARGE, 1000)}
    licence = "That of each image's source (Hendrycks et al., The Many Faces of Robustness, ICCV 2021)"


@dataset(
    "imagenet-es",
    title="ImageNet-ES: photographs of displayed images under changed light and camera",
    paper=PAPER,
    display_name="ImageNet-ES",
    cite="baek2024imagenetes",
)
class ImageNetES(Listed):
    """ID in the full-spectrum metrics of ImageNet-1K; added to OpenOOD in July 2024."""

    classes = CLASSES
    sources = {"test": listed(ONE_K, "test_imagenet_es", LARGE, 1000)}
    licence = "As published by its authors (Baek et al., CVPR 2024); the displayed images are ImageNet's"
    caveats = (
        "With it, full-spectrum numbers differ from most on the board of 2025-07-19, which are older. No copy of the "
        f"list was seen. {NOT_RUN}"
    )


@dataset("imagenet200-v2", title="ImageNet-V2, the 200 classes of ImageNet-200", paper=PAPER,
         display_name="ImageNet-V2", cite="recht2019imagenetv2")  # fmt: skip
class ImageNet200V2(Listed):
    """ID in the full-spectrum metrics of ImageNet-200."""

    family = "imagenet-v2"
    classes = CLASSES_200
    sources = {"test": listed(TWO_HUNDRED, "test_imagenet200_v2", LARGE, 200)}
    licence = ImageNetV2.licence
    caveats = f"No copy of the list was seen. {NOT_RUN}"


@dataset("imagenet200-c", title="ImageNet-C, the 200 classes of ImageNet-200", paper=PAPER,
         display_name="ImageNet-C", cite="hendrycks2019corruptions")  # fmt: skip
class ImageNet200C(Listed):
    """ID in the full-spectrum metrics of ImageNet-200."""

    family = "imagenet1k"
    classes = CLASSES_200
    sources = {"test": listed(TWO_HUNDRED, "test_imagenet200_c", LARGE, 200)}
    licence = ImageNetC.licence
    as_they_are = True
    caveats = f"{ImageNetC.caveats.partition(LARGE_COPY)[0]}No copy of the list was seen. {NOT_RUN}"


@dataset("imagenet200-r", title="ImageNet-R with the labels of ImageNet-200", paper=PAPER,
         display_name="ImageNet-R", cite="hendrycks2021many")  # fmt: skip
class ImageNet200R(Listed):
    """ID in the full-spectrum metrics of ImageNet-200."""

    family = "imagenet-r"
    classes = CLASSES_200
    sources = {"test": listed(TWO_HUNDRED, "test_imagenet200_r", LARGE, 200)}
    licence = ImageNetR.licence
    caveats = f"No copy of the list was seen. {NOT_RUN}"


class Scenes(Listed):
    """A set of photographs without classes, in a folder of its own."""

    membership = ""
    sizes = {"test": 10_000}
    caveats = NOT_RUN


@dataset("sun", title="SUN, 10,000 scenes that are no class of ImageNet-1K", paper="Huang and Li, MOS, CVPR 2021",
         display_name="SUN", cite="xiao2010sun,huang2021mos")  # fmt: skip
class Sun(Scenes):
    """Huang and Li's selection of scenes, far-OOD."""

    sources = {
        "test": (
            Source((tree_file("SUN"),), ImageTree(fit=CENTRE)),
            Source((File((f"{LARGE}/sun",)),), ImageTree(fit=CENTRE)),
        )
    }
    licence = "Research use (Xiao et al., SUN Database, CVPR 2010)"
    origin = f"{SELECTION} SUN, or OpenOOD's images_largescale/sun."


@dataset("places", title="Places, 10,000 scenes that are no class of ImageNet-1K", paper="Huang and Li, MOS, CVPR 2021",
         display_name="Places", cite="zhou2018places,huang2021mos")  # fmt: skip
class Places(Scenes):
    """Huang and Li's selection of scenes, far-OOD."""

    family = "places365"
    sources = {
        "test": (
            Source((tree_file("Places"),), ImageTree(fit=CENTRE)),
            Source((File((f"{LARGE}/places",)),), ImageTree(fit=CENTRE)),
        )
    }
    licence = "Research and education only (Zhou et al., Places, TPAMI 2018)"
    origin = f"{SELECTION} Places, or OpenOOD's images_largescale/places."
