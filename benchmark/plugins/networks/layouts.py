"""Feature maps as networks hold them, and as (N, C, H, W): tokens of transformers, and maps with channels last."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import DataError

MOST_PREFIX_TOKENS = 16
"""Number of class and register tokens before those of patches, up to which a grid is looked for."""


class Layout(NamedTuple):
    """Where rows, columns and channels are in the output of a module."""

    rows: int
    columns: int
    channels_last: bool = False
    """(N, H, W, C)."""
    prefix: int | None = None
    """Tokens (N, T, C), of which so many come before those of the grid: class and register tokens; None for maps."""

    @property
    def size(self) -> int:
        """Pixels of a map."""
        return self.rows * self.columns

    @property
    def is_plain(self) -> bool:
        """Whether the output is (N, C, H, W) as it is."""
        return not self.channels_last and self.prefix is None

    def to_maps(self, output: Tensor) -> Tensor:
        """The output as maps (N, C, H, W), without class and register tokens; no copy."""
        if self.prefix is not None:
            grid: Tensor = output[:, self.prefix :].unflatten(1, (self.rows, self.columns))
            return grid.permute(0, 3, 1, 2)
        return output.permute(0, 3, 1, 2) if self.channels_last else output

    def with_maps(self, output: Tensor, maps: Tensor) -> Tensor:
        """The output with other maps (N, C, H, W) in place of its own; class and register tokens stay."""
        if self.prefix is not None:
            return torch.cat([output[:, : self.prefix], maps.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
        return maps.permute(0, 2, 3, 1) if self.channels_last else maps


def layout_of(value: Any, image_shape: tuple[int, int, int], prefix: int | None = None) -> Layout | None:
    """The layout of one image's feature maps; None for a value that has not the image's aspect ratio in any layout.

    Args:
        value: What a module returned for one image.
        image_shape: Channels, height and width of the image.
        prefix: Number of class and register tokens of the network; None if it does not say.
    """
    if not isinstance(value, Tensor) or value.ndim not in (3, 4) or len(value) != 1:
        return None
    height, width = image_shape[1:]
    if value.ndim == 4:
        (rows, columns), (first, second) = value.shape[2:], value.shape[1:3]
        # Tables of positions are squares, too; a grid with channels last divides the image.
        if rows * width != columns * height and first * width == second * height and height % first == 0:
            return Layout(first, second, channels_last=True)
        return Layout(rows, columns) if abs(rows * width - columns * height) <= max(height, width) else None
    for count in range(MOST_PREFIX_TOKENS + 1) if prefix is None else (prefix,):
        tokens = value.shape[1] - count
        rows = round((max(0, tokens) * height / width) ** 0.5)
        if rows > 1 and height % rows == 0 and tokens == rows * (columns := rows * width // height):
            return Layout(rows, columns, prefix=count)
    return None


class MapTap(nn.Module):
    """Returns the maps of a module whose output is not (N, C, H, W), for those who hook it or change what it returns.

    It is called by the module it stands for, and only while something is hooked to it. `by_token`: the network reads
    its features from a class token, which the maps leave out, and no block follows in which they could reach it.
    """

    def __init__(self, module: nn.Module, layout: Layout, by_token: bool = False) -> None:
        super().__init__()
        self.layout, self.by_token = layout, by_token
        module.register_forward_hook(self._pass_on)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W), unchanged."""
        return maps

    def _pass_on(self, module: nn.Module, given: Any, output: Tensor) -> Tensor | None:
        if not self._forward_hooks:
            return None
        maps = self.layout.to_maps(output)
        changed = self(maps)
        if changed is maps:
            return None
        if self.by_token:
            raise DataError(
                "This transformer reads its features from a class token: changed maps of its last block do not reach "
                "them."
            )
        return self.layout.with_maps(output, changed)
