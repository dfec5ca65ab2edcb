"""`Backbone`: a network with features and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from oodbench.benchmark.plugins.base import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn


class Backbone(Plugin):
    """A network with features and logits.

    `build` returns a module with `features(images) -> (N, D)`, `head` (a linear layer, features -> logits) and
    `forward(images) = head(features(images))`. Images come in [0, 1]: normalising them is the network's own affair.
    """

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Say why (C, H, W) images cannot be used, before any work; None, the default, if they can."""
        return None

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return a freshly initialised network for K classes and (C, H, W) images."""
        raise NotImplementedError

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Return the modules of a built network whose outputs are its blocks' feature maps, (N, C, H, W), in order.

        Empty, the default, if it has none or does not say. For detectors that look inside, by forward hooks.
        """
        return []

    def weight_name(self, network: nn.Module, name: str) -> str:
        """What a built network calls a weight that others' files (`bench run --checkpoint`) call `name`."""
        return name


class Network(Protocol):
    """What a backbone builds, as a type."""

    head: nn.Module

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features, (N, D)."""
        ...
