"""`WithOutputs`: a backbone's network with named outputs, computed from its features by modules beside the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import PluginError


class WithOutputs(nn.Module):
    """A backbone's network with further outputs, such as a confidence: modules from features (N, D) to (N, width).

    Features, head and logits are those of the network that it wraps, and detectors find its blocks.

    ```python
    class LearnedConfidence(Recipe):
        outputs = {"confidence": 1}

        def networks(self, task: Task) -> dict[str, nn.Module]:
            network = task.build_classifier()
            return {"classifier": WithOutputs(network, confidence=nn.Linear(network.head.in_features, 1))}
    ```

    For outputs that no single module makes, derive a class that overrides `outputs`.
    """

    def __init__(self, network: nn.Module, **branches: nn.Module) -> None:
        """Wrap a network.

        Args:
            network: What `Task.build_classifier` returned.
            branches: Name of an output -> module from features (N, D) to (N, width).
        """
        super().__init__()
        self.wrapped = network
        self.branches = nn.ModuleDict(branches)

    @property
    def head(self) -> nn.Module:
        """The head of the network."""
        head: nn.Module = self.wrapped.head  # type: ignore[assignment]
        return head

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, D) of images (N, C, H, W)."""
        features: Tensor = self.wrapped.features(images)  # type: ignore[operator]
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """The named outputs, each (N, width), of features (N, D)."""
        return {name: branch(features) for name, branch in self.branches.items()}


def checked_widths(recipe: str, declared: Any) -> dict[str, int]:
    """What `named_outputs` of a recipe returned. Raises `PluginError` unless it is names with widths."""
    what = f"Recipe '{recipe}' declares the outputs {declared!r}"
    if not isinstance(declared, Mapping):
        raise PluginError(f"{what}, expected a name for each width, such as {{'confidence': 1}}.")
    for name, width in declared.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise PluginError(f"{what}: the name {name!r} must consist of letters, digits and '_'.")
        if not isinstance(width, int) or isinstance(width, bool) or width < 1:
            raise PluginError(f"{what}: the width of '{name}' must be a positive integer, got {width!r}.")
    return dict(declared)


def joined_outputs(given: Mapping[str, Tensor], declared: Mapping[str, int], count: int, used: int = 0) -> Tensor:
    """Named outputs side by side in the order of their declaration, float32 (N, sum of widths).

    `given`: those of `count` images, of which the first `used` are returned, and the others are padding; 0 for all.

    Raises `PluginError` if they are not finite, or not those that are declared.
    """
    if not isinstance(given, Mapping) or set(given) != set(declared):
        found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
        raise PluginError(f"outputs() of the network returned {found}, and its recipe declares {sorted(declared)}.")
    for name, width in declared.items():
        value: Any = given[name]
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != (count, width):
            raise PluginError(f"outputs() of the network returned {shape} as '{name}', expected {(count, width)}.")
        if not torch.isfinite(value[: used or count]).all():
            raise PluginError(f"outputs() of the network returned NaN or infinite values as '{name}'.")
    return torch.cat([given[name][: used or count].float() for name in declared], dim=1)


def split_outputs(declared: Mapping[str, int]) -> dict[str, slice]:
    """The columns of each output in what `joined_outputs` returns."""
    columns: dict[str, slice] = {}
    start = 0
    for name, width in declared.items():
        columns[name] = slice(start, start + width)
        start += width
    return columns
