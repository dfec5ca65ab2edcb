"""Reads logits and penultimate features of any network, batch by batch, from where they were found (`search.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.networks.calls import evaluating, first_argument
from oodbench.benchmark.plugins.networks.layouts import layout_of

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference that counts as rounding, relative to the largest value, by the network's precision."""

SHORT = (torch.float16, torch.bfloat16)


class Parts(NamedTuple):
    """Where logits and features of a network are found."""

    head: str
    """The linear layer that returns the logits; empty if there is none that belongs to the features."""
    features: str
    """The module whose output are the features, pooled if it is a map; empty for the input of the head."""
    takes_head: bool
    """Whether the output of the head are the logits, and not what the network makes of it."""
    notes: tuple[str, ...] = ()
    """What a reader of tables should know."""


class ReadOutputs(NamedTuple):
    """What a network returns for N images."""

    logits: Tensor
    """(N, K), float32 or float64."""
    features: Tensor
    """(N, D), float32 or float64."""


@contextmanager
def reading(network: nn.Module, parts: Parts) -> Iterator[Callable[[Tensor], ReadOutputs]]:
    """A function that maps images to `ReadOutputs`; within the context, the network is in evaluation mode."""
    seen: dict[str, Any] = {}
    hooks = []

    def head_hook(module: nn.Module, given: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> None:
        seen["given"], seen["logits"] = first_argument(given, kwargs), returned.clone()
        seen["given"] = seen["given"].clone() if isinstance(seen["given"], Tensor) else seen["given"]

    def features_hook(module: nn.Module, given: Any, returned: Any) -> None:
        seen["features"] = returned.clone() if isinstance(returned, Tensor) else returned

    if parts.head:
        hooks.append(network.get_submodule(parts.head).register_forward_hook(head_hook, with_kwargs=True))
    if parts.features:
        hooks.append(network.get_submodule(parts.features).register_forward_hook(features_hook))

    def read(images: Tensor) -> ReadOutputs:
        seen.clear()
        output = network(placed(network, images))
        source = f"'{parts.features}'" if parts.features else f"the head '{parts.head}', its input,"
        features = features_of(seen.get("features" if parts.features else "given"), source, images)
        logits = seen["logits"] if parts.takes_head else logits_of(output)
        if logits is None:
            raise DataError(f"{type(network).__name__} returns no logits for a batch of {len(images)} images.")
        return _in_full(network, parts, logits, features)

    try:
        with evaluating(network):
            yield read
    finally:
        for hook in hooks:
            hook.remove()


def _in_full(network: nn.Module, parts: Parts, logits: Tensor, features: Tensor) -> ReadOutputs:
    """Float32; logits of a head in 16 bits are computed again from its features, since rounded ones are often equal."""
    if logits.dtype not in SHORT:
        return ReadOutputs(logits, features.float() if features.dtype in SHORT else features)
    if parts.head and not parts.features:
        weight, bias = head_of_layer(network.get_submodule(parts.head))
        full = F.linear(features.float(), weight.float(), bias.float())
        if difference(full, logits) <= TOLERANCE[logits.dtype]:
            return ReadOutputs(full, features.float())
    return ReadOutputs(logits.float(), features.float())


def features_of(value: Any, source: str, images: Tensor) -> Tensor:
    """Features (N, D) from what a module returned: maps are averaged over height and width.

    `source` names the module for messages. Raises `UserError` for other shapes.
    """
    if isinstance(value, Tensor) and len(value) == len(images):
        if value.ndim == 2:
            return value
        if value.ndim == 4:
            shape = tuple(images.shape[1:])
            layout = layout_of(value[:1], (shape[0], shape[1], shape[2])) if len(shape) == 3 else None
            return value.mean(dim=(1, 2) if layout and layout.channels_last else (2, 3))
        if value.ndim == 3 and 1 in value.shape[1:]:
            return value.flatten(1)
    got = shape_of(value) if isinstance(value, Tensor) else f"a {type(value).__name__}"
    if value is None:
        got = "nothing, as it is not called"
    raise UserError(
        f"The features of {source} are {got} for {len(images)} images, expected (N, D), or maps (N, C, H, W). Name "
        "another module with features='...'."
    )


def logits_of(output: Any) -> Tensor | None:
    """The logits in what a network returns: itself, or its `logits` (Hugging Face); None if there are none."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else None


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer."""
    return isinstance(module, nn.Linear)


def head_of_layer(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) of a linear layer; zeros if it has no bias."""
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    return weight.detach(), bias.detach() if isinstance(bias, Tensor) else weight.new_zeros(len(weight))


def fits_head(module: nn.Module, read: ReadOutputs) -> bool:
    """Whether head(features) = logits, up to rounding."""
    weight, bias = head_of_layer(module)
    if read.features.shape[1] != weight.shape[1] or read.logits.shape[1] != weight.shape[0]:
        return False
    expected = F.linear(read.features.double(), weight.double(), bias.double())
    return difference(expected, read.logits) <= max(1e-3, TOLERANCE.get(weight.dtype, 0.0))


def placed(network: nn.Module, images: Tensor) -> Tensor:
    """Images on the network's device, floating-point ones in its precision."""
    first = next(network.parameters(), None)
    if first is None:
        return images
    kind = precision(network) if images.is_floating_point() else images.dtype
    return images.to(device=first.device, dtype=kind)


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's first parameter; the CPU if it has none."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))


def precision(network: nn.Module) -> torch.dtype:
    """The type of a network's first floating-point parameter."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def same(returned: Any, logits: Tensor) -> bool:
    """Whether what a module returned are the logits."""
    if returned is logits:
        return True
    return isinstance(returned, Tensor) and returned.shape == logits.shape and torch.equal(returned, logits)


def difference(one: Tensor, two: Tensor) -> float:
    """The largest difference, relative to the largest value of the second."""
    one, two = one.double(), two.double()
    return float((one - two).abs().max() / two.abs().max().clamp(min=1e-12))


def shape_of(value: Tensor) -> str:
    """A shape, for messages: '(4, 10)'."""
    return f"({', '.join(map(str, value.shape))})"
