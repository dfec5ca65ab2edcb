"""Networks of other packages as backbones. Their head, features and blocks are found by a trial forward pass.

One image is passed through a new network in evaluation mode, while hooks record the input and output of every module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError, FoundNetwork, ModuleCall, blocks_of, head_of, watched
from oodbench.benchmark.backbones._normalise import Normalise, Normalising, spelled

AUTO = "auto"
"""Normalise as the package does: with the mean and standard deviation that come with the network's weights."""


class Found(Normalising):
    """Base class of backbones from other packages. Networks are freshly initialised unless a setting asks for weights.

    `model` is the package's name of the network. `normalisation` says with which mean and standard deviation the pixels
    are normalised: "auto" for the package's own, those of the weights or, for a network without them, of the weights
    that the package would use by default.
    """

    normalisation: str = AUTO
    model: str = "resnet18"

    def __post_init__(self) -> None:
        """Check the setting."""
        if self.normalisation != AUTO:
            super().__post_init__()

    def own_statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Mean and standard deviation of the package's weights for this network; None if it names none."""
        raise NotImplementedError

    @property
    def statistics(self) -> str:
        """The setting; for "auto", the numbers that come with the package's weights."""
        if self.normalisation != AUTO:
            return self.normalisation
        own = self.own_statistics()
        return spelled(*own) if own else "imagenet"

    def normalise(self, channels: int) -> Normalise:
        """The layer that normalises the network's input."""
        return Normalise(self.statistics, channels)

    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults, and the model in any case."""
        return {"model": self.model, **super().changed_settings()}

    def create(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Create the package's network, freshly initialised."""
        raise NotImplementedError

    def wrapped(self, network: nn.Module, num_classes: int, image_shape: tuple[int, int, int]) -> FoundNetwork:
        """Separate the head. Raises `DataError` if the network does not accept the images or end in a linear layer."""
        output, seen = self.tried(network, network, image_shape)
        head = head_of(output, seen)
        if head is None or output.shape != (1, num_classes):
            raise self.no_head()
        return FoundNetwork(network, head, blocks_of(seen, image_shape), self.normalise(image_shape[0]))

    def tried(
        self, network: nn.Module, part: Callable[[Tensor], Any], image_shape: tuple[int, int, int]
    ) -> tuple[Any, list[ModuleCall]]:
        """Output and module calls of a network, or of a part of it, for one black image."""
        images = torch.zeros(1, *image_shape, device=next(network.parameters()).device)
        try:
            return watched(network, part, images)
        except torch.cuda.OutOfMemoryError:  # a RuntimeError too, which says nothing about the images
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            told = str(error).strip().partition("\n")[0].rstrip(".")
            shape = " x ".join(map(str, image_shape))
            raise DataError(f"{self.name}:{self.model} does not take images of {shape}: {told}.") from error

    def no_head(self) -> DataError:
        """The error for a network that does not end in a linear layer."""
        return DataError(
            f"{self.name}:{self.model} does not end in a linear layer on features (N, D), which detectors need; choose "
            "another --backbone."
        )

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Try to build the network on the meta device, which needs no memory; returns the error, if any."""
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                self.build(2, image_shape)
        except DataError as error:
            return str(error).rstrip(".")
        except (NotImplementedError, RuntimeError):
            pass  # its construction does not work on the meta device; errors then appear when it is really built
        return None

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Build a network. Raises `DataError` if it does not accept images of this shape."""
        return self.wrapped(self.create(num_classes, image_shape), num_classes, image_shape)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The modules that output the last feature maps of each resolution, found when the network was built."""
        if not isinstance(network, FoundNetwork):
            return []
        return network.blocks

    def weight_name(self, network: nn.Module, name: str) -> str:
        """Translate the package's name of a weight to the name in the wrapper."""
        return network.own_name(name) if isinstance(network, FoundNetwork) else f"network.{name}"
