"""Sets of images as people have them: data sets, streams and batches over the same eleven images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from tests.plugins.networks.networks import K, some_images

N = 11


def images_and_labels(count: int = N, seed: int = 1) -> tuple[Tensor, Tensor]:
    return some_images(count, seed), torch.arange(count) % K


class Pictures(Dataset[Any]):
    """A map-style data set, in the style of torchvision's folders: (image, label) with paths."""

    classes = ["ant", "bee", "cat"]
    root = "/data/pictures"

    def __init__(self, transform: Any = None) -> None:
        self.images, self.labels = images_and_labels()
        self.transform = transform
        self.samples = [(f"{self.root}/{self.classes[int(y)]}/{i}.png", int(y)) for i, y in enumerate(self.labels)]

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        image = self.images[index]
        return (self.transform(image) if self.transform else image), int(self.labels[index])


class Names:
    """A feature of Hugging Face's `ClassLabel`."""

    names = ["ant", "bee", "cat"]


class HuggingFace:
    """As `datasets.Dataset`: rows are dictionaries, with columns that make no batch."""

    column_names = ["pixel_values", "label", "file"]
    features = {"pixel_values": None, "label": Names()}

    def __init__(self, image: str = "pixel_values") -> None:
        self.images, self.labels = images_and_labels()
        self.image = image

    def __len__(self) -> int:
        return N

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(N))

    def __getitem__(self, index: int) -> Any:
        return {"file": object(), self.image: self.images[index], "label": int(self.labels[index])}


class Streamed:
    """As `datasets.IterableDataset`."""

    column_names = HuggingFace.column_names
    features = HuggingFace.features

    def __iter__(self) -> Iterator[Any]:
        return iter(HuggingFace())


class Stream(IterableDataset[Any]):
    """torch's own."""

    def __iter__(self) -> Iterator[Any]:
        yield from zip(*images_and_labels(), strict=True)


def batches(size: int = 4) -> list[Any]:
    images, labels = images_and_labels()
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, N, size)]


class Flat(Dataset[Any]):
    """Yields one given value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.value


class Broken(Pictures):
    """Its sixth image cannot be read."""

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise OSError("broken.png: not a picture")
        return super().__getitem__(index)


class Sized(Pictures):
    """Images of several sizes."""

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(3, 8 + index, 8)


def picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (8, 8))
