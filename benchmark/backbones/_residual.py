"""Shared parts of convolutional networks for small images: stages, global average pooling, and a linear head."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from oodbench.benchmark.backbones._normalise import Normalise, Normalising

HEADS = ("fc.", "linear.", "classifier.")
"""Names of the last layer in public code for these networks."""


class StagedNetwork(nn.Module):
    """Pixels -> `maps` (N, C, H, W) -> their mean over H and W (N, C) -> `head`. Takes images of any size."""

    head: nn.Linear

    def __init__(self, statistics: str, channels: int) -> None:
        super().__init__()
        self.normalise = Normalise(statistics, channels)

    def maps(self, images: Tensor) -> Tensor:
        """The last feature maps of normalised images, (N, C, H, W)."""
        raise NotImplementedError

    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are the stages' feature maps, in order."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features: the spatial means of the last feature maps, (N, D)."""
        return self.maps(self.normalise(images)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Staged(Normalising):
    """A backbone that builds a `StagedNetwork`; its blocks are the stages."""

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The stages, without the batch norm or transition that may follow them."""
        return network.stages() if isinstance(network, StagedNetwork) else []

    def weight_name(self, network: nn.Module, name: str) -> str:
        """Rename the head. All other weights have the names of the public code that the network follows."""
        return renamed_head(name, HEADS)


def renamed_head(name: str, heads: Iterable[str]) -> str:
    """'fc.weight' -> 'head.weight'."""
    return next((f"head.{name.removeprefix(head)}" for head in heads if name.startswith(head)), name)


def initialise_by_fan_out(network: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (k^2 c_out))) (He et al. 2015, fan-out), and linear layers' biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
