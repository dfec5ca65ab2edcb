"""Test splits divided into train and test halves, for when the training split is not available."""

from __future__ import annotations

from oodbench.benchmark import dataset
from oodbench.benchmark.data.files import FileDataset, Rows, Source
from oodbench.datasets.mnist import FashionMnist, Kmnist

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


@dataset("fashion-mnist-halves", title="Fashion-MNIST's test split in two halves", paper=FashionMnist.paper)
class FashionMnistHalves(FileDataset):
    """5,000 + 5,000 images of clothing, all from the published test split."""

    family = FashionMnist.name
    classes = FashionMnist.classes
    sizes = {"train": HALF, "test": HALF}
    sources = halves(
        FashionMnist,
        "fashion-mnist-halves",
        (
            "f0550c54c3e5f40762bad4dc48c842d3f02b320801070e7744a6ecfc27dc3d2d",
            "5aa035ded42ec57625925dab4913b9c37f45d932123ccb144d1d0bdac1509db2",
        ),
    )
    licence = FashionMnist.licence
    origin = f"Images 0 to 4,999 are train, 5,000 to 9,999 test; the published order is shuffled. {FashionMnist.origin}"
    caveats = f"Not the published split; meant for outliers if only the test file is available. {FashionMnist.caveats}"


@dataset("kmnist-halves", title="Kuzushiji-MNIST's test split in two halves", paper=Kmnist.paper)
class KmnistHalves(FileDataset):
    """5,000 + 5,000 handwritten hiragana, all from the published test split."""

    family = Kmnist.name
    classes = Kmnist.classes
    sizes = {"train": HALF, "test": HALF}
    sources = halves(
        Kmnist,
        "kmnist-halves",
        (
            "a8c7729e38a79b6f3c40524b90a69377c2fe21e0ccb27b40ee7a01ab05c73fe4",
            "75c6e2910f14685ebc90f37f2c6dd7f5b3ce7bdcf34a093bfc88e6b6fccf1b05",
        ),
    )
    licence = Kmnist.licence
    origin = f"Images 0 to 4,999 are train, 5,000 to 9,999 test; the published order is shuffled. {Kmnist.origin}"
    caveats = f"Not the published split; meant for outliers if only the test file is available. {Kmnist.caveats}"
