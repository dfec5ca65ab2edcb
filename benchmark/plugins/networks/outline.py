"""Builds networks to look at their shape, without memory for their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from oodbench.benchmark.stats.seeds import restored_rng

DRAWING = frozenset({"normal_", "uniform_"})
"""Functions that fill a tensor with random numbers, in `torch.nn.init` and of tensors."""


@contextmanager
def outlines() -> Iterator[None]:
    """Networks built inside are on torch's device "meta", without random numbers; the random state stays as it is.

    A network that computes while it is built raises an error there.
    """
    with restored_rng(torch.device("cpu")), torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would fill them.

    Without memory there is nothing to fill, and the first `normal_` on the device "meta" imports torch's compiler: 1 s.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        tensor = args[0] if args else given.get("tensor")
        if func.__name__ in DRAWING and isinstance(tensor, torch.Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **given)
