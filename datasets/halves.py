"""Test splits divided into train and test halves, for when the training split is not available."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import FileDataset, Rows, Source
from oodbench.datasets.mnist import FashionMnist, Kmnist
from oodbench.datasets.tinyimagenet import TinyImageNetPillow

HALF = 5000


def halves(card: type[FileDataset], name: str, checksums: tuple[str, str]) -> dict[str, tuple[Source, ...]]:
    """Sources that use images 0 to 4,999 of a card's test split as train and the others as test."""
    note = (
        f"{name} is the published test split of {card.name} in two: 5,000 images to train on, the other 5,000 to test."
    )
    whole = card.sources["test"][0]
    rows = {"train": Rows(whole.reader, 0, HALF), "test": Rows(whole.reader, HALF)}
    return {
        split: (Source(whole.files, reader, checksum, note),)
        for (split, reader), checksum in zip(rows.items(), checksums, strict=True)
    }


@dataset(
    "fashion-mnist-halves",
    title="Fashion-MNIST's test split in two halves",
    paper=FashionMnist.paper,
    display_name="Fashion-MNIST (halves)",
    cite="xiao2017fashion",
)
class FashionMnistHalves(FileDataset):
    """5,000 + 5,000 images of clothing, all from the published test split."""

    channels = 1
    family = FashionMnist.name
    classes = FashionMnist.classes
    sizes = {"train": HALF, "test": HALF}
    sources = halves(
        FashionMnist,
        "fashion-mnist-halves",
        (
            "a278ac55f2b5bf11925a1c1e7d50b8f22b53e25a45d54d2db64b963ad454412d",
            "ead0c90cc2dbbca7adf87a5024cded5ca23a937bf379e4a4ed14fc772096cada",
        ),
    )
    licence = FashionMnist.licence
    origin = f"Images 0 to 4,999 are train, 5,000 to 9,999 test; the published order is shuffled. {FashionMnist.origin}"
    caveats = f"Not the published split; meant for outliers if only the test file is available. {FashionMnist.caveats}"


@dataset(
    "kmnist-halves",
    title="Kuzushiji-MNIST's test split in two halves",
    paper=Kmnist.paper,
    display_name="KMNIST (halves)",
    cite="clanuwat2018kmnist",
)
class KmnistHalves(FileDataset):
    """5,000 + 5,000 handwritten hiragana, all from the published test split."""

    channels = 1
    family = Kmnist.name
    classes = Kmnist.classes
    sizes = {"train": HALF, "test": HALF}
    sources = halves(
        Kmnist,
        "kmnist-halves",
        (
            "699b8aab70684c9ddbb21e6210913ea57db534dea0860227f951348d6171166e",
            "ef31c0e9f0a80f59dc58ceec89fc0a966fedf9e0d07e832433ba83412a938e9b",
        ),
    )
    licence = Kmnist.licence
    origin = f"Images 0 to 4,999 are train, 5,000 to 9,999 test; the published order is shuffled. {Kmnist.origin}"
    caveats = f"Not the published split; meant for outliers if only the test file is available. {Kmnist.caveats}"


@dataset(
    "tinyimagenet-resize-halves",
    title="Tiny ImageNet's test images in two halves, resized with antialiasing",
    paper=TinyImageNetPillow.paper,
    display_name="Tiny ImageNet (halves)",
    cite="le2015tinyimagenet",
)
class TinyImageNetHalves(FileDataset):
    """5,000 + 5,000 photographs at 32 x 32, all from the test images of Tiny ImageNet."""

    channels = 3
    family = TinyImageNetPillow.family
    sizes = {"train": HALF, "test": HALF}
    sources = halves(
        TinyImageNetPillow,
        "tinyimagenet-resize-halves",
        (
            "a800ec1f5caa52f54be221428cea2a8866a0c510bfd764e4fce1728edee065b2",
            "b04d7e6d50de1e9a6bf29c8677a9746571039a0c3dfd609f86d6152aa9bb8a96",
        ),
    )
    licence = TinyImageNetPillow.licence
    origin = f"Images 0 to 4,999 by name are train, 5,000 to 9,999 test. {TinyImageNetPillow.origin}"
    caveats = f"Not a published split; meant for outliers that are photographs. {TinyImageNetPillow.caveats}"
