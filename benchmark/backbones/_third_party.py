"""Networks of other packages as backbones: head, features and block outputs are found, not written down a network.

One image goes through a fresh network, in evaluation, and hooks note what every module is given and returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError
from oodbench.benchmark.backbones._normalise import Normalise, Normalising
from oodbench.benchmark.backbones._residual import renamed_head

NO_MAPS = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Flatten,
    nn.Identity,
    nn.LayerNorm,
    nn.Linear,
)
"""Modules whose outputs are no feature maps of their own: pools before the head, and what passes things on."""


class Seen(NamedTuple):
    """One call of a module."""

    name: str
    module: nn.Module
    given: Any
    returned: Any


def watched(network: nn.Module, part: Callable[[Tensor], Any], images: Tensor) -> tuple[Any, list[Seen]]:
    """The output of one pass through a network or a part of it, in evaluation, and every call as it returned."""
    seen: list[Seen] = []
    hooks = [
        module.register_forward_hook(
            lambda module, given, out, name=name: seen.append(Seen(name, module, given[0] if given else None, out))
        )
        for name, module in network.named_modules()
        if name
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()
            return part(images), seen
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()


def head_of(output: Any, seen: list[Seen]) -> str | None:
    """The name of the linear layer that makes the output from features (N, D); None if there is none."""
    last: Seen | None = next((call for call in reversed(seen) if isinstance(call.module, nn.Linear)), None)
    if last is None or last.returned is not output or last.given.ndim != 2 or last.module.bias is None:
        return None
    name: str = last.name
    return name


def blocks_of(seen: list[Seen], image_shape: tuple[int, int, int]) -> list[str]:
    """The names of the modules that make the last maps of each resolution, the outermost of those that return them.

    None of them is a module that is called more than once (an activation that blocks share), one whose maps are smaller
    than later ones (a squeeze) or have not the images' aspect (their channels come last), or a part of the very block
    that goes over to the next resolution.
    """
    names = [call.name for call in seen]
    sizes = [_size(call.returned, image_shape) for call in seen]
    steps = sorted({size for size in sizes if size})
    given = [_size(call.given, image_shape) for call in seen]
    reduces = [
        (f"{call.name}.", before)
        for call, before, size in zip(seen, given, sizes, strict=True)
        if size and before in steps[1:] and size == steps[steps.index(before) - 1]
    ]
    found: list[str] = []
    largest = 0
    for call, size in zip(reversed(seen), reversed(sizes), strict=True):
        if size <= largest or isinstance(call.module, NO_MAPS) or names.count(call.name) > 1:
            continue
        if any(call.name.startswith(block) and size == before for block, before in reduces):
            continue
        largest = size
        found.insert(0, call.name)
    return found


def _size(value: Any, image_shape: tuple[int, int, int]) -> int:
    """Pixels of feature maps (N, C, H, W); 0 for what is none."""
    if not isinstance(value, Tensor) or value.ndim != 4:
        return 0
    height, width = image_shape[1:]
    rows, columns = value.shape[2:]
    return rows * columns if abs(rows * width - columns * height) <= max(height, width) else 0


class FoundNetwork(nn.Module):
    """A network without its last layer, which is `head`."""

    def __init__(self, network: nn.Module, head: str, blocks: list[str], normalise: Normalise) -> None:
        super().__init__()
        self.normalise = normalise
        self.network = network
        self.head_name, self.block_names = head, blocks
        parent, _, own = head.rpartition(".")
        self.head = network.get_submodule(head)
        setattr(network.get_submodule(parent), own, nn.Identity())

    def features(self, images: Tensor) -> Tensor:
        """The input of the last linear layer, (N, D)."""
        features: Tensor = self.network(self.normalise(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class Found(Normalising):
    """A backbone of another package's networks, by name; freshly initialised, never with downloaded weights.

    `normalisation` names the mean and standard deviation that are taken out of the pixels first.
    """

    normalisation: str = "imagenet"
    model: str = "resnet18"

    def changed_settings(self) -> dict[str, Any]:
        """The model is told even where it is the default."""
        return {"model": self.model, **super().changed_settings()}

    def create(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """The package's own network, freshly initialised."""
        raise NotImplementedError

    def wrapped(self, network: nn.Module, num_classes: int, image_shape: tuple[int, int, int]) -> FoundNetwork:
        """The network with its head apart. Raises `DataError` if it takes other images or ends in no linear layer."""
        output, seen = self.tried(network, network, image_shape)
        head = head_of(output, seen)
        if head is None or output.shape != (1, num_classes):
            raise self.no_head()
        return FoundNetwork(network, head, blocks_of(seen, image_shape), Normalise(self.normalisation, image_shape[0]))

    def tried(
        self, network: nn.Module, part: Callable[[Tensor], Any], image_shape: tuple[int, int, int]
    ) -> tuple[Any, list[Seen]]:
        """What a network, or a part of its computation, does with one black image."""
        images = torch.zeros(1, *image_shape, device=next(network.parameters()).device)
        try:
            return watched(network, part, images)
        except (RuntimeError, ValueError, AssertionError) as error:
            told = str(error).strip().partition("\n")[0].rstrip(".")
            shape = " x ".join(map(str, image_shape))
            raise DataError(f"{self.name}:{self.model} does not take images of {shape}: {told}.") from error

    def no_head(self) -> DataError:
        """The network is of another kind."""
        return DataError(
            f"{self.name}:{self.model} does not end in a linear layer on features (N, D), which detectors need; choose "
            "another --backbone."
        )

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """What the package or the network finds wrong with the images, tried on a network without memory."""
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                self.build(2, image_shape)
        except DataError as error:
            return str(error).rstrip(".")
        except (NotImplementedError, RuntimeError):
            pass  # it computes while it is built: told when it is built in earnest
        return None

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """A fresh network. Raises `DataError` for images that it does not take."""
        return self.wrapped(self.create(num_classes, image_shape), num_classes, image_shape)

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The modules that make the last maps of each resolution, by one forward pass when it was built."""
        if not isinstance(network, FoundNetwork):
            return []
        return [network.network.get_submodule(name) for name in network.block_names]

    def weight_name(self, network: nn.Module, name: str) -> str:
        """The package's own name in the wrapper."""
        own = renamed_head(name, [f"{network.head_name}."]) if isinstance(network, FoundNetwork) else name
        return own if own != name else f"network.{name}"
