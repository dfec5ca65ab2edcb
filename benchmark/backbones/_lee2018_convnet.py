"""Shared parts of the networks of Lee et al. (ICLR 2018): sequential layers, a linear head, a fixed image shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone, DataError

SHAPE = (3, 32, 32)
"""Channels, height, width: the paper resizes every set to this, and gives MNIST three equal channels, as oodbench does
for these networks (`channels`)."""


class ConvNet(nn.Module):
    """`body`: images (N, 3, 32, 32) -> features (N, D); `head`: features -> logits (N, K)."""

    def __init__(self, body: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def features(self, images: Tensor) -> Tensor:
        """The input of the last linear layer, (N, D); non-negative, with dropout while training."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class FixedSize(Backbone):
    """A backbone whose layers fit 32 x 32 images of three channels and no others; grey images are repeated in three."""

    channels = SHAPE[0]

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Refuse every image shape (C, H, W) other than `SHAPE`."""
        if image_shape == SHAPE:
            return None
        channels, height, width = image_shape
        size = f"{height} x {width} pixels"
        problem = size if channels == SHAPE[0] else f"{channels} channel{'s' * (channels != 1)} of {size}"
        return (
            f"backbone '{self.name}' takes images of 3 channels of 32 x 32 pixels, got {problem}; choose another "
            "--backbone, or give the set resized to 32 x 32"
        )

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Build a network for K classes. Raises `DataError` for images of another shape."""
        if reason := self.refuses(image_shape):
            raise DataError(f"{reason[0].upper()}{reason[1:]}.")
        return self.network(num_classes)

    def network(self, num_classes: int) -> ConvNet:
        """Build a network for K classes; subclasses define it."""
        raise NotImplementedError

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The max-pooling layers: each ends a block of convolutions."""
        return [module for module in network.modules() if isinstance(module, nn.MaxPool2d)]


@torch.no_grad()
def initialise_as_released(network: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (k^2 c_out))), linear layers N(0, 0.01), biases 0, as in the released `vgg.py`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            module.weight.normal_(0, (2 / fan_out) ** 0.5)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, 0.01)
        else:
            continue
        if module.bias is not None:
            module.bias.zero_()
