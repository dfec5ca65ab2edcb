"""Normalisation by mean and standard deviation, as a part of the network: images arrive in [0, 1]."""

from __future__ import annotations

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
        for name, values in zip(("mean", "std"), STATISTICS[statistics], strict=True):
            row = values if channels == 3 else (sum(values) / 3,) * channels
            self.register_buffer(name, torch.tensor(row)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        normal: Tensor = (images - self.get_buffer("mean")) / self.get_buffer("std")
        return normal


class Normalising(Backbone):
    """A backbone whose setting `normalisation` names the `STATISTICS` with which its networks normalise pixels."""

    normalisation: str = "cifar10"

    def __post_init__(self) -> None:
        """Check the name."""
        if self.normalisation not in STATISTICS:
            raise ValueError(f"normalisation must be one of {', '.join(STATISTICS)}, got '{self.normalisation}'")
