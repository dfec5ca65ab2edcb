"""Normalisation by mean and standard deviation, as a part of the network: images arrive in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone

RAW = "raw"
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    RAW: ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name -> mean and standard deviation of red, green and blue in [0, 1]. The first three are those of OpenOOD and
torchvision."""


class Normalise(nn.Module):
    """(images - mean) / std per channel; for images without three channels, with the averages over the three.

    The two buffers are not in the state dict: they follow from the backbone's settings, and weight files from elsewhere
    do not have them.
    """

    def __init__(self, statistics: str, channels: int) -> None:
        super().__init__()
        for name, values in zip(("mean", "std"), mean_and_std(statistics), strict=True):
            row = values if channels == 3 else (sum(values) / 3,) * channels
            self.register_buffer(name, torch.tensor(row)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        normal: Tensor = (images - self.get_buffer("mean")) / self.get_buffer("std")
        return normal


class Normalising(Backbone):
    """A backbone whose setting `normalisation` says with which mean and standard deviation its networks normalise.

    It is a name in `STATISTICS`, or the numbers for red, green and blue: "0.5 0.5 0.5/0.25 0.25 0.25", or "0.5/0.25"
    for the same in every channel.
    """

    normalisation: str = "cifar10"

    def __post_init__(self) -> None:
        """Check the setting."""
        mean_and_std(self.normalisation)

    @property
    def statistics(self) -> str:
        """The setting, a name or numbers."""
        return self.normalisation


Values = tuple[float, ...]


def mean_and_std(statistics: str) -> tuple[Values, Values]:
    """Mean and standard deviation of red, green and blue that a setting `normalisation` gives.

    Raises `ValueError` for anything but a name in `STATISTICS` or numbers that `spelled` writes.
    """
    if statistics in STATISTICS:
        return STATISTICS[statistics]
    mean, slash, std = statistics.partition("/")
    try:
        values = tuple(tuple(map(float, part.split())) for part in (mean, std))
    except ValueError:
        values = ()
    if not slash or not all(len(part) in (1, 3) for part in values) or not values:
        raise ValueError(
            f"normalisation must be one of {', '.join(STATISTICS)}, or a mean and a standard deviation such as "
            f"'0.5 0.5 0.5/0.25 0.25 0.25', got '{statistics}'"
        )
    if not all(abs(value) < float("inf") for part in values for value in part) or min(values[1]) <= 0:
        raise ValueError(f"normalisation needs finite numbers and standard deviations above 0, got '{statistics}'")
    means, deviations = (part * 3 if len(part) == 1 else part for part in values)
    return means, deviations


def spelled(mean: Iterable[float], std: Iterable[float]) -> str:
    """Mean and standard deviation as a setting: '0.5 0.5 0.5/0.25 0.25 0.25'."""
    return "/".join(" ".join(repr(float(value)) for value in values) for values in (mean, std))
