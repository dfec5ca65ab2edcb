"""The images that a training draws batches from: all of them on the device, or decoded batch by batch."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import LazyImages

GIGABYTE = 10**9


class ReadImages:
    """Pictures that are decoded whenever a batch needs them, because all of them would take too much memory."""

    def __init__(self, images: LazyImages, channels: int, device: torch.device) -> None:
        self._images, self._channels, self._device = images, channels, device

    def __len__(self) -> int:
        return len(self._images)

    def take(self, rows: Tensor) -> Tensor:
        """The images at `rows`, uint8 (n, C, H, W), on the device."""
        decoded = in_channels(self._images[rows.cpu().numpy()], self._channels)
        return torch.from_numpy(np.require(decoded, requirements=["C", "W"])).to(self._device)


Images: TypeAlias = Tensor | ReadImages


def training_images(images: ImageSet, channels: int, device: torch.device, gigabytes: float) -> Images:
    """The images of a set in a network's channels: on the device, unless decoding them takes more than `gigabytes`."""
    lazy = images.lazy
    if lazy is not None and lazy.nbytes > gigabytes * GIGABYTE:
        return ReadImages(lazy, channels, device)
    pixels = images.images[:] if lazy is not None else images.images
    # torch accepts neither read-only arrays nor negative strides, and a data set may return both.
    return torch.from_numpy(np.require(in_channels(pixels, channels), requirements=["C", "W"])).to(device)


def rows_of(data: Images, rows: Tensor) -> Tensor:
    """Some images of a set, or some labels."""
    return data.take(rows) if isinstance(data, ReadImages) else data[rows.to(data.device)]
