"""Any classification network of torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from oodbench.benchmark import DataError, Preprocessing, Pretrained, backbone
from oodbench.benchmark.backbones._downloads import from_url, suggested
from oodbench.benchmark.backbones._third_party import Found

REFUSED = {
    "googlenet": "returns several outputs while it trains, which no recipe takes",
    "inception_v3": "returns several outputs while it trains, which no recipe takes",
    "mnasnet": "takes no stored weights without torchvision's own version mark, which the store does not keep",
}
"""Prefix of a network's name -> why it cannot be used."""

CLASSES = 1000
"""Classes of ImageNet-1k, which all of torchvision's classifiers were trained on."""


@backbone("torchvision", title="Any classification network of torchvision: torchvision:NAME")
class TorchvisionModel(Found):
    """`torchvision:resnet50`, short for `torchvision[model=resnet50]`: a network of torchvision.

    It is freshly initialised, or, with `weights`, has those that torchvision publishes under this name:
    `torchvision:resnet50[weights=IMAGENET1K_V2]`. They are downloaded into torch.hub's cache.

    The head is the linear layer that returns the output, and features (N, D) are its input; networks with another last
    layer are refused. Blocks are the last feature maps of each resolution. Most of these networks are designed for 224
    x 224 pixels: if they accept 32 x 32, their feature maps are very small. Their first layer has three channels, in
    which grey images are repeated.
    """

    channels = 3
    weights: str = ""

    def __post_init__(self) -> None:
        """Check the names."""
        super().__post_init__()
        from torchvision import models

        if self.model not in models.list_models(module=models):
            raise ValueError(f"torchvision has no classification network '{self.model}' (torchvision.models)")
        for name, reason in REFUSED.items():
            if self.model.startswith(name):
                raise ValueError(f"torchvision's {self.model} {reason}")
        if self.weights:
            if self.weights not in (known := list(models.get_model_weights(self.model).__members__)):
                problem = f"torchvision has no weights '{self.weights}' of {self.model}"
                raise ValueError(suggested(problem, self.weights, known))
            if not self._weights().meta.get("categories"):
                raise ValueError(f"torchvision's weights '{self.weights}' of {self.model} have no classifier")

    def _weights(self) -> Any:
        """The weights of the settings, else the network's default weights: an entry of torchvision's enumeration."""
        from torchvision.models import get_model_weights

        return get_model_weights(self.model)[self.weights or "DEFAULT"]

    def own_statistics(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of the weights' own transform."""
        transform = self._weights().transforms()
        return transform.mean, transform.std

    def preprocessing(self) -> Preprocessing:
        """Resize and crop of the weights' own transform."""
        transform = self._weights().transforms()
        (side,), (crop,) = transform.resize_size, transform.crop_size
        return Preprocessing(side, (crop, crop), transform.interpolation.value)

    def pretrained_weights(self) -> Pretrained | None:
        """The weights that the setting names, from torch.hub's cache of checkpoints."""
        if not self.weights:
            return None
        chosen = self._weights()
        title = f"{chosen.name} of torchvision's {self.model}"
        return Pretrained(title, lambda: from_url(title, chosen.url), CLASSES, "imagenet-1k")

    def create(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Create the network without pretrained weights. Raises `DataError` for images without three channels."""
        from torchvision.models import get_model

        if image_shape[0] != 3:
            raise DataError(f"torchvision's networks take images of 3 channels, got {image_shape[0]}.")
        size = {}
        if self.weights and self.model.startswith("vit_"):  # positions are fixed to the size of the weights' images
            size = {"image_size": self.preprocessing().size[0]}
        network: nn.Module = get_model(self.model, weights=None, num_classes=num_classes, **size)
        return network
