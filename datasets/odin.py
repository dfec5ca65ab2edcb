"""The five archives of OOD images published with ODIN: cropped and resized LSUN, iSUN and Tiny ImageNet."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import File, FileDataset, Fit, ImageTree, Source

PAPER = "Liang et al., Enhancing The Reliability of Out-of-distribution Image Detection (ODIN), ICLR 2018"
CENTRE = Fit(how="cut")
UNSEEN = "No original file was available when this was written; the reader was tested on synthetic files in its format."
ARTEFACTS = (
    "Resized without antialiasing: the artefacts alone are easy to detect (Tack et al., CSI, NeurIPS 2020), so high "
    "numbers on this set mean less than they seem to."
)
LSUN_LICENCE = "No explicit licence; research use with citation (Yu et al., LSUN, arXiv:1506.03365)"
SUN_LICENCE = "No explicit licence; research use with citation (Xu et al., iSUN, arXiv:1504.06755)"
IMAGENET_LICENCE = "ImageNet's terms: non-commercial research"


def archive(stem: str, code: str, md5: str) -> tuple[Source, ...]:
    """A tar.gz of images in any folders, at the URL from ODIN's README."""
    file = File((f"{stem}.tar.gz",), (f"https://www.dropbox.com/s/{code}/{stem}.tar.gz?dl=1",), md5=md5)
    return (Source((file,), ImageTree(fit=CENTRE)),)


def origin(stem: str, images: str) -> str:
    """The card's text on where the images come from."""
    return (
        f"{stem}.tar.gz, linked from https://github.com/facebookresearch/odin: {images}. The checksum is the one that "
        "pytorch-ood lists. Read sorted by path, without labels; images larger than 32 x 32 are cropped to their "
        "centre 32 x 32 pixels."
    )


@dataset(
    "lsun-resize",
    title="LSUN, resized (ODIN's archive)",
    paper=PAPER,
    display_name="LSUN (resized)",
    cite="yu2015lsun,liang2018odin",
)
class LsunResize(FileDataset):
    """The 10,000 test photographs of LSUN, resized to 32 x 32."""

    splits = ("test",)
    channels = 3
    family = "lsun"
    sizes = {"test": 10_000}
    sources = {"test": archive("LSUN_resize", "moqh2wh8696c3yl", "278b7b31c8cb7e804a1465a8ce03a2dc")}
    licence = LSUN_LICENCE
    origin = origin("LSUN_resize", "LSUN's test images of 10 scenes, resized to 32 x 32")
    caveats = f"{ARTEFACTS} {UNSEEN}"


@dataset(
    "lsun-crop",
    title="LSUN, cropped (ODIN's archive)",
    paper=PAPER,
    display_name="LSUN (cropped)",
    cite="yu2015lsun,liang2018odin",
)
class LsunCrop(FileDataset):
    """Random crops from the 10,000 test photographs of LSUN."""

    splits = ("test",)
    channels = 3
    family = "lsun"
    sizes = {"test": 10_000}
    sources = {"test": archive("LSUN", "fhtsw1m3qxlwj6h", "458a0a0ab8e5f1cb4516d7400568e460")}
    licence = LSUN_LICENCE
    origin = origin("LSUN", "random crops of LSUN's test images of 10 scenes")
    caveats = f"Crops of large photographs, which show surfaces rather than scenes. {UNSEEN}"


@dataset(
    "tinyimagenet-resize",
    title="Tiny ImageNet, resized (ODIN's archive)",
    paper=PAPER,
    display_name="Tiny ImageNet (resized)",
    cite="le2015tinyimagenet,liang2018odin",
)
class TinyImageNetResize(FileDataset):
    """The 10,000 test images of Tiny ImageNet, resized to 32 x 32."""

    splits = ("test",)
    channels = 3
    family = "tinyimagenet"
    sizes = {"test": 10_000}
    sources = {"test": archive("Imagenet_resize", "kp3my3412u5k9rl", "0f9ff11d45babf2eff5fe12281d1ac31")}
    licence = IMAGENET_LICENCE
    origin = origin("Imagenet_resize", "Tiny ImageNet's test images, resized to 32 x 32")
    caveats = f"{ARTEFACTS} {UNSEEN}"


@dataset(
    "tinyimagenet-crop",
    title="Tiny ImageNet, cropped (ODIN's archive)",
    paper=PAPER,
    display_name="Tiny ImageNet (cropped)",
    cite="le2015tinyimagenet,liang2018odin",
)
class TinyImageNetCrop(FileDataset):
    """Random crops from the 10,000 test images of Tiny ImageNet."""

    splits = ("test",)
    channels = 3
    family = "tinyimagenet"
    sizes = {"test": 10_000}
    sources = {"test": archive("Imagenet", "avgm2u562itwpkl", "7c0827e4246c3718a5ee076e999e52e5")}
    licence = IMAGENET_LICENCE
    origin = origin("Imagenet", "random crops of Tiny ImageNet's test images")
    caveats = UNSEEN


@dataset(
    "isun", title="iSUN, resized (ODIN's archive)", paper=PAPER, display_name="iSUN", cite="xu2015isun,liang2018odin"
)
class ISun(FileDataset):
    """8,925 photographs of scenes from iSUN, resized to 32 x 32."""

    splits = ("test",)
    channels = 3
    sizes = {"test": 8925}
    sources = {"test": archive("iSUN", "ssz7qxfqae0cca5", "be77b0f2c26fda898afac5f99645ee70")}
    licence = SUN_LICENCE
    origin = origin("iSUN", "all images of iSUN, resized to 32 x 32")
    caveats = f"{ARTEFACTS} {UNSEEN}"
