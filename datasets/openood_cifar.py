"""The CIFAR boards of OpenOOD v1.5 with the released membership: its lists over its images, at 32 x 32 pixels.

Images become 32 x 32 as in OpenOOD: the shorter side is resized to 32 (bilinear with antialiasing, Pillow), and the
centre is taken. A run with a preprocessing of its own reads the stored images instead.
"""

from __future__ import annotations

from typing import ClassVar

from oodbench.benchmark import dataset
from oodbench.benchmark.data.lists import ListedDataset
from oodbench.datasets import cifar10, cifar100, mnist, places365, svhn, textures, tinyimagenet
from oodbench.datasets._openood import CIFAR_COPY, CLASSIC, MEMBERSHIP, NOT_RUN, ORIGIN, PAPER, listed

TEN, HUNDRED = "cifar10", "cifar100"
EITHER = "cifar10 cifar100"
"""Boards whose lists of a set have the same content."""


class Listed(ListedDataset):
    """A set of the CIFAR boards."""

    splits: ClassVar[tuple[str, ...]] = ("test",)
    membership = MEMBERSHIP
    origin = ORIGIN


@dataset(
    "cifar10-openood",
    title="CIFAR-10 as OpenOOD v1.5 splits it",
    paper=PAPER,
    display_name="CIFAR-10",
    cite="krizhevsky2009cifar,zhang2023openood",
)
class Cifar10(Listed):
    """50,000 training images; of the 10,000 test images, 1,000 validate and 9,000 are scored."""

    splits = ("train", "val", "test")
    optional = ("val",)
    channels = 3
    family = "cifar10"
    classes = cifar10.CLASSES
    sizes = {"train": 50_000, "val": 1000, "test": 9000}
    sources = {
        "train": listed(TEN, "train_cifar10", CLASSIC, 10),
        "val": listed(TEN, "val_cifar10", CLASSIC, 10),
        "test": listed(TEN, "test_cifar10", CLASSIC, 10),
    }
    licence = cifar10.Cifar10.licence
    caveats = f"Validation images are test images of CIFAR-10 that are not scored. {CIFAR_COPY} {NOT_RUN}"


@dataset(
    "cifar100-openood",
    title="CIFAR-100 as OpenOOD v1.5 splits it",
    paper=PAPER,
    display_name="CIFAR-100",
    cite="krizhevsky2009cifar,zhang2023openood",
)
class Cifar100(Listed):
    """50,000 training images; of the 10,000 test images, 1,000 validate and 9,000 are scored."""

    splits = ("train", "val", "test")
    optional = ("val",)
    channels = 3
    family = "cifar100"
    classes = cifar100.CLASSES
    sizes = {"train": 50_000, "val": 1000, "test": 9000}
    sources = {
        "train": listed(HUNDRED, "train_cifar100", CLASSIC, 100),
        "val": listed(HUNDRED, "val_cifar100", CLASSIC, 100),
        "test": listed(HUNDRED, "test_cifar100", CLASSIC, 100),
    }
    licence = cifar100.Cifar100.licence
    caveats = (
        f"Validation images are CIFAR-100 test images, disjoint from those that are scored. {CIFAR_COPY} {NOT_RUN}"
    )


@dataset(
    "cifar100-openood10",
    title="CIFAR-100, OpenOOD v1.5's near-OOD set of CIFAR-10",
    paper=PAPER,
    display_name="CIFAR-100",
    cite="krizhevsky2009cifar,zhang2023openood",
)
class Cifar100Of10(Listed):
    """9,000 test images of CIFAR-100."""

    channels = 3
    family = "cifar100"
    sizes = {"test": 9000}
    sources = {"test": listed(TEN, "test_cifar100", CLASSIC)}
    licence = cifar100.Cifar100.licence
    caveats = f"{CIFAR_COPY} {NOT_RUN}"


@dataset(
    "cifar10-openood100",
    title="CIFAR-10, OpenOOD v1.5's near-OOD set of CIFAR-100",
    paper=PAPER,
    display_name="CIFAR-10",
    cite="krizhevsky2009cifar,zhang2023openood",
)
class Cifar10Of100(Listed):
    """10,000 test images of CIFAR-10."""

    channels = 3
    family = "cifar10"
    sizes = {"test": 10_000}
    sources = {"test": listed(HUNDRED, "test_cifar10", CLASSIC)}
    licence = cifar10.Cifar10.licence
    caveats = f"{CIFAR_COPY} {NOT_RUN}"


@dataset(
    "tinyimagenet-openood10",
    title="Tiny ImageNet, OpenOOD v1.5's near-OOD set of CIFAR-10",
    paper=PAPER,
    display_name="Tiny ImageNet",
    cite="le2015tinyimagenet,zhang2023openood",
)
class TinyImageNetOf10(Listed):
    """7,793 images of Tiny ImageNet without classes of CIFAR-10; 1,000 more to tune on, its training split."""

    splits = ("train", "test")
    optional = ("train",)
    channels = 3
    family = "tinyimagenet"
    sizes = {"train": 1000, "test": 7793}
    sources = {
        "train": listed(TEN, "val_tin", CLASSIC),
        "test": listed(TEN, "test_tin", CLASSIC),
    }
    licence = tinyimagenet.LICENCE
    caveats = (
        "The training split is OpenOOD's OOD validation set (val_tin), for the protocol val_ood alone: another part of "
        f"the same images, so that settings are tuned on the data set that is scored. {CIFAR_COPY} {NOT_RUN}"
    )


@dataset(
    "tinyimagenet-openood100",
    title="Tiny ImageNet, OpenOOD v1.5's near-OOD set of CIFAR-100",
    paper=PAPER,
    display_name="Tiny ImageNet",
    cite="le2015tinyimagenet,zhang2023openood",
)
class TinyImageNetOf100(Listed):
    """6,526 images of Tiny ImageNet without classes of CIFAR-100; 972 more to tune on, its training split."""

    splits = ("train", "test")
    optional = ("train",)
    channels = 3
    family = "tinyimagenet"
    sizes = {"train": 972, "test": 6526}
    sources = {
        "train": listed(HUNDRED, "val_tin", CLASSIC),
        "test": listed(HUNDRED, "test_tin", CLASSIC),
    }
    licence = tinyimagenet.LICENCE
    caveats = TinyImageNetOf10.caveats


@dataset(
    "mnist-openood",
    title="MNIST, OpenOOD v1.5's far-OOD set",
    paper=PAPER,
    display_name="MNIST",
    cite="lecun1998mnist,zhang2023openood",
)
class Mnist(Listed):
    """All 70,000 images of MNIST, training images among them."""

    channels = 1
    family = "mnist"
    sizes = {"test": 70_000}
    sources = {"test": listed(EITHER, "test_mnist", CLASSIC)}
    licence = mnist.Mnist.licence
    caveats = f"Stored as JPEG of 28 x 28 pixels, enlarged to 32 x 32. {CIFAR_COPY} {NOT_RUN}"


@dataset(
    "svhn-openood",
    title="SVHN, OpenOOD v1.5's far-OOD set",
    paper=PAPER,
    display_name="SVHN",
    cite="netzer2011svhn,zhang2023openood",
)
class Svhn(Listed):
    """The 26,032 test images of SVHN."""

    channels = 3
    family = "svhn"
    sizes = {"test": 26_032}
    sources = {"test": listed(EITHER, "test_svhn", CLASSIC)}
    licence = svhn.Svhn.licence
    caveats = f"Stored as JPEG. {CIFAR_COPY} {NOT_RUN}"


@dataset(
    "textures-openood",
    title="Describable Textures, OpenOOD v1.5's far-OOD set of the CIFAR boards",
    paper=PAPER,
    display_name="Textures",
    cite="cimpoi2014dtd,zhang2023openood",
)
class Textures(Listed):
    """All 5,640 photographs of textures."""

    channels = 3
    family = "textures"
    sizes = {"test": 5640}
    sources = {"test": listed(EITHER, "test_texture", CLASSIC)}
    licence = textures.LICENCE
    caveats = f"{CIFAR_COPY} {NOT_RUN}"


@dataset(
    "places365-openood10",
    title="Places365, OpenOOD v1.5's far-OOD set of CIFAR-10",
    paper=PAPER,
    display_name="Places365",
    cite="zhou2018places,zhang2023openood",
)
class Places365Of10(Listed):
    """35,195 validation images of Places365 without objects of CIFAR-10's classes."""

    channels = 3
    family = "places365"
    sizes = {"test": 35_195}
    sources = {"test": listed(TEN, "test_places365", CLASSIC)}
    licence = places365.Places365.licence
    caveats = f"{CIFAR_COPY} {NOT_RUN}"


@dataset(
    "places365-openood100",
    title="Places365, OpenOOD v1.5's far-OOD set of CIFAR-100",
    paper=PAPER,
    display_name="Places365",
    cite="zhou2018places,zhang2023openood",
)
class Places365Of100(Listed):
    """33,773 validation images of Places365 without objects of CIFAR-100's classes."""

    channels = 3
    family = "places365"
    sizes = {"test": 33_773}
    sources = {"test": listed(HUNDRED, "test_places365", CLASSIC)}
    licence = places365.Places365.licence
    caveats = f"{CIFAR_COPY} {NOT_RUN}"


@dataset(
    "cifar10c-openood",
    title="CIFAR-10-C, OpenOOD's selection: corrupted test images",
    paper=PAPER,
    display_name="CIFAR-10-C",
    cite="hendrycks2019corruptions,zhang2023openood",
)
class Cifar10C(Listed):
    """10,000 corrupted test images of CIFAR-10, which count as ID in the full-spectrum metrics."""

    channels = 3
    family = "cifar10"
    classes = cifar10.CLASSES
    sizes = {"test": 10_000}
    sources = {"test": listed(TEN, "test_cifar10c", CLASSIC, 10)}
    licence = "Apache-2.0 (Hendrycks and Dietterich, ICLR 2019); the images are CIFAR-10's"
    caveats = (
        "Corruptions of all 10,000 test images, validation images among them. OpenOOD's API names this set and its "
        f"download leaves it out. {CIFAR_COPY} {NOT_RUN}"
    )


@dataset(
    "cifar100c-openood",
    title="CIFAR-100-C, OpenOOD's selection: corrupted test images",
    paper=PAPER,
    display_name="CIFAR-100-C",
    cite="hendrycks2019corruptions,zhang2023openood",
)
class Cifar100C(Listed):
    """Corrupted test images of CIFAR-100, which count as ID in the full-spectrum metrics."""

    channels = 3
    family = "cifar100"
    classes = cifar100.CLASSES
    sources = {"test": listed(HUNDRED, "test_cifar100c", CLASSIC, classes=100)}
    licence = "Apache-2.0 (Hendrycks and Dietterich, ICLR 2019); the images are CIFAR-100's"
    caveats = f"OpenOOD's configuration names this list; no copy of it was seen. {NOT_RUN}"
