"""Any classification network of torchvision."""

from __future__ import annotations

from torch import nn

from oodbench.benchmark import DataError, backbone
from oodbench.benchmark.backbones._third_party import Found

REFUSED = {
    "googlenet": "returns several outputs while it trains, which no recipe takes",
    "inception_v3": "returns several outputs while it trains, which no recipe takes",
    "mnasnet": "takes no stored weights without torchvision's own version mark, which the store does not keep",
}
"""Prefix of a network's name -> why it cannot be used."""


@backbone("torchvision", title="Any classification network of torchvision: torchvision:NAME")
class TorchvisionModel(Found):
    """`torchvision:resnet50`, short for `torchvision[model=resnet50]`: a network of torchvision, freshly initialised.

    The head is the linear layer that returns the output, and features (N, D) are its input; networks with another last
    layer are refused. Blocks are the last feature maps of each resolution. Most of these networks are designed for 224
    x 224 pixels: if they accept 32 x 32, their feature maps are very small. Their first layer has three channels, in
    which grey images are repeated.
    """

    channels = 3

    def __post_init__(self) -> None:
        """Check the name."""
        super().__post_init__()
        from torchvision import models

        if self.model not in models.list_models(module=models):
            raise ValueError(f"torchvision has no classification network '{self.model}' (torchvision.models)")
        for name, reason in REFUSED.items():
            if self.model.startswith(name):
                raise ValueError(f"torchvision's {self.model} {reason}")

    def create(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Create the network without pretrained weights. Raises `DataError` for images without three channels."""
        from torchvision.models import get_model

        if image_shape[0] != 3:
            raise DataError(f"torchvision's networks take images of 3 channels, got {image_shape[0]}.")
        network: nn.Module = get_model(self.model, weights=None, num_classes=num_classes)
        return network
