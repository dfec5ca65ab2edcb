"""A trial pass through a network, in which hooks record what every module receives and returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark.plugins.networks.layouts import Layout, layout_of

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


class ModuleCall(NamedTuple):
    """One recorded call of a module: its input and its output."""

    name: str
    module: nn.Module
    given: Any
    returned: Any


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode, without gradients; each of its modules gets its own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def watched(network: nn.Module, part: Callable[[Tensor], Any], images: Tensor) -> tuple[Any, list[ModuleCall]]:
    """Run a network, or a part of it, in evaluation mode; returns its output and all module calls in order of return.

    Args:
        network: The network whose modules are watched; it is left as it was.
        part: What is called: the network itself, or a function that calls some of its modules.
        images: Its input, (N, C, H, W).
    """
    seen: list[ModuleCall] = []

    def noted(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
            seen.append(ModuleCall(name, module, first_argument(given, kwargs), returned))

        return hook

    hooks = [
        module.register_forward_hook(noted(name), with_kwargs=True) for name, module in network.named_modules() if name
    ]
    try:
        with evaluating(network):
            return part(images), seen
    finally:
        for hook in hooks:
            hook.remove()


def first_argument(given: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a module was called with: its first argument, named or not; None if there is none."""
    return given[0] if given else next(iter(kwargs.values()), None)


def head_of(output: Any, seen: list[ModuleCall]) -> str | None:
    """The name of the linear layer that maps features (N, D) to the output; None if there is none."""
    last: ModuleCall | None = next((call for call in reversed(seen) if isinstance(call.module, nn.Linear)), None)
    if last is None or last.returned is not output or last.given.ndim != 2 or last.module.bias is None:
        return None
    name: str = last.name
    return name


def blocks_of(
    seen: list[ModuleCall], image_shape: tuple[int, int, int], prefix_tokens: int | None = None
) -> dict[str, Layout]:
    """The modules that output the last feature maps of each resolution, by name, in order.

    Of nested modules with the same output, the outermost is taken. Maps are (N, C, H, W), (N, H, W, C), or tokens
    (N, T, C) of a grid of patches. Excluded are modules that are called more than once (an activation shared by
    blocks), modules whose maps are smaller than later ones (a squeeze) or do not have the images' aspect ratio, and
    parts of a block that reduces the resolution.

    Args:
        seen: The calls of a trial pass with one image.
        image_shape: Channels, height and width of the image.
        prefix_tokens: Number of class and register tokens of a transformer; None if it is not known.
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
