"""Networks of other packages as backbones. Their head, features and blocks are found by a trial forward pass.

One image is passed through a new network in evaluation mode, while hooks record the input and output of every module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError
from oodbench.benchmark.backbones._layouts import Layout, MapTap, layout_of
from oodbench.benchmark.backbones._normalise import Normalise, Normalising, spelled
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
    nn.Softmax,
)
"""Modules whose outputs do not count as feature maps: pooling before the head, modules that only pass data on, and
weights of attention."""


class Seen(NamedTuple):
    """One recorded call of a module: its input and its output."""

    name: str
    module: nn.Module
    given: Any
    returned: Any


def watched(network: nn.Module, part: Callable[[Tensor], Any], images: Tensor) -> tuple[Any, list[Seen]]:
    """Run a network, or part of it, in evaluation mode; returns its output and all module calls in order of return."""
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
    """The name of the linear layer that maps features (N, D) to the output; None if there is none."""
    last: Seen | None = next((call for call in reversed(seen) if isinstance(call.module, nn.Linear)), None)
    if last is None or last.returned is not output or last.given.ndim != 2 or last.module.bias is None:
        return None
    name: str = last.name
    return name


def blocks_of(
    seen: list[Seen], image_shape: tuple[int, int, int], prefix_tokens: int | None = None
) -> dict[str, Layout]:
    """The modules that output the last feature maps of each resolution, by name, in order.

    Of nested modules with the same output, the outermost is taken. Maps are (N, C, H, W), (N, H, W, C), or tokens
    (N, T, C) of a grid of patches. Excluded are modules that are called more than once (an activation shared by
    blocks), modules whose maps are smaller than later ones (a squeeze) or do not have the images' aspect ratio, and
    parts of a block that reduces the resolution.
    """
    names = [call.name for call in seen]
    layouts = [layout_of(call.returned, image_shape, prefix_tokens) for call in seen]
    sizes = [layout.size if layout else 0 for layout in layouts]
    steps = sorted({size for size in sizes if size})
    given = [layout_of(call.given, image_shape, prefix_tokens) for call in seen]
    reduces = [
        (f"{call.name}.", before.size)
        for call, before, size in zip(seen, given, sizes, strict=True)
        if before and size and before.size in steps[1:] and size == steps[steps.index(before.size) - 1]
    ]
    found: dict[str, Layout] = {}
    largest = 0
    for call, layout in zip(reversed(seen), reversed(layouts), strict=True):
        if layout is None or layout.size <= largest or isinstance(call.module, NO_MAPS) or names.count(call.name) > 1:
            continue
        if any(call.name.startswith(block) and layout.size == before for block, before in reduces):
            continue
        largest = layout.size
        found[call.name] = layout
    return dict(reversed(found.items()))


class FoundNetwork(nn.Module):
    """Another package's network, with its last layer replaced by the identity and moved to `head`."""

    def __init__(self, network: nn.Module, head: str, blocks: dict[str, Layout], normalise: Normalise) -> None:
        super().__init__()
        self.normalise = normalise
        self.network = network
        self.head_name = head
        parent, _, own = head.rpartition(".")
        self.head = network.get_submodule(head)
        setattr(network.get_submodule(parent), own, nn.Identity())
        modules = {name: network.get_submodule(name) for name in blocks}
        token = getattr(network, "global_pool", "token") == "token"
        self._blocks = [
            modules[name] if layout.is_plain else MapTap(modules[name], layout, token and bool(layout.prefix))
            for name, layout in blocks.items()
        ]

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules that return the blocks' feature maps, (N, C, H, W), in order."""
        return self._blocks

    def features(self, images: Tensor) -> Tensor:
        """The input of the last linear layer, (N, D)."""
        features: Tensor = self.network(self.normalise(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


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
    ) -> tuple[Any, list[Seen]]:
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
        if isinstance(network, FoundNetwork) and name.startswith(f"{network.head_name}."):
            return renamed_head(name, [f"{network.head_name}."])
        return f"network.{name}"
