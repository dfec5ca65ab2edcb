"""Computes what depends on each row alone for a few rows at a time, so that it stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

ROWS = 128
"""Number of rows at a time: 128 of 512 features take 512 kB in float64."""


def by_rows(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function` of tensors with N rows each; (N, ...), with N rows too.

    Each row of the result must depend on the same rows of the inputs alone: it is then the same, bit for bit, as for
    all rows at once, in half of the time or less. A graph that torch.export makes has all rows at once, because a loop
    would fix their number in it.
    """
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    if exporting() or torch.compiler.is_compiling() or inputs[0].shape[0] <= ROWS:
        return function(*inputs)
    return torch.cat([function(*parts) for parts in zip(*(one.split(ROWS) for one in inputs), strict=True)])


def gathered(count: int, blocks: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """Results of blocks of images, `count` rows in all, joined: of (n, ...) tensors of each block, (count, ...) ones.

    They are written into place as they come. Kept in a list until the end, small results of many blocks would lie
    between the large tensors that each block frees, and the memory of these could not be used again: gigabytes, with a
    million images.
    """
    found, start = list[Tensor](), 0
    for parts in blocks:
        if not found:
            found = [part.new_empty(count, *part.shape[1:]) for part in parts]
        for whole, part in zip(found, parts, strict=True):
            whole[start : start + len(part)] = part
        start += len(parts[0])
    return found


def sum_of_rows(vectors: Tensor) -> Tensor:
    """The sum of vectors (N, D) in float64, (D,).

    float32 vectors are added by NumPy, which converts them in pieces that stay in the cache. Their sums in float64 are
    exact, or nearly so, in any order.
    """
    if vectors.dtype == torch.float64:
        return vectors.sum(dim=0)
    return torch.from_numpy(np.add.reduce(vectors.numpy(), axis=0, dtype=np.float64))


def add_by_label(sums: Tensor, labels: Tensor, vectors: Tensor) -> None:
    """Add vectors (N, D), one after the other, to the rows of `sums`, float64 (K, D), that their labels name."""
    for numbers, part in zip(labels.split(ROWS), vectors.split(ROWS), strict=True):
        sums.index_add_(0, numbers, part.double())
