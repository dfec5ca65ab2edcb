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
"""How names begin -> why not."""


@backbone("torchvision", title="Any classification network of torchvision: torchvision:NAME")
class TorchvisionModel(Found):
    """`torchvision:resnet50`, short for `torchvision[model=resnet50]`; freshly initialised, as torchvision does.

    The head is the linear layer that makes the output, the features (N, D) are what it is given; networks that end
    otherwise are refused. Blocks are the last maps of each resolution. Most of these networks are made for 224 x 224
    pixels: at 32 x 32 they work, if they do, on very small maps.
    """

    def __post_init__(self) -> None:
        """Refuse a name that torchvision does not have."""
        super().__post_init__()
        from torchvision import models

        if self.model not in models.list_models(module=models):
            raise ValueError(f"torchvision has no classification network '{self.model}' (torchvision.models)")
        for name, reason in REFUSED.items():
            if self.model.startswith(name):
                raise ValueError(f"torchvision's {self.model} {reason}")

    def create(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Without weights."""
        from torchvision.models import get_model

        if image_shape[0] != 3:
            raise DataError(f"torchvision's networks take images of 3 channels, got {image_shape[0]}.")
        network: nn.Module = get_model(self.model, weights=None, num_classes=num_classes)
        return network
