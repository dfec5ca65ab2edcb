"""What a user's network expects of its images: a `Preprocessing`, or a transform of torchvision that comes to one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.pictures import Preprocessing

CONVERSIONS = ("ToTensor", "PILToTensor", "ToImage", "ConvertImageDtype", "ToDtype", "ToPureTensor", "ToImageTensor")
"""Transforms that turn a picture into numbers in [0, 1], which the harness does itself."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the channels."""


class Expected:
    """Resize and crop, and what is subtracted and divided by."""

    def __init__(self, given: Any, owner: str) -> None:
        """Read what came with a network, or None for nothing; `owner` names it in messages.

        Raises `UserError` for a transform with other steps, such as augmentation, which the harness could not repeat.
        """
        self._owner = owner
        self._resize: int | tuple[int, int] | None = None
        self._crop: tuple[int, int] | None = None
        self._interpolation = "bilinear"
        self._is_tensor = False
        self.preprocessing: Preprocessing | None = None
        self.statistics: Statistics | None = None
        if isinstance(given, Preprocessing):
            self.preprocessing = given
        elif given is not None:
            self._read(given)

    def _read(self, given: Any) -> None:
        if all(hasattr(given, name) for name in ("resize_size", "crop_size", "mean", "std", "interpolation")):
            self._resize, self._interpolation = _size(given.resize_size), given.interpolation.value
            self._crop = _pair(given.crop_size)
            self.statistics = _numbers(given.mean), _numbers(given.std)
        else:
            for step in _steps(given):
                self._step(step)
        if self._resize is not None or self._crop is not None:
            self.preprocessing = Preprocessing(self._resize, self._crop, self._interpolation)

    def _step(self, step: Any) -> None:
        kind = type(step).__name__
        if kind in ("Resize", "CenterCrop") and (self._is_tensor or self._crop is not None):
            raise self._refused(step, "comes after a crop or the conversion to a tensor, and must come before them")
        if kind == "Resize" and self._resize is None and getattr(step, "max_size", None) is None:
            self._resize, self._interpolation = _size(step.size), getattr(step.interpolation, "value", "bilinear")
        elif kind == "CenterCrop":
            self._crop = _pair(step.size)
        elif kind in CONVERSIONS:
            self._is_tensor = True
        elif kind == "Normalize" and self.statistics is None:
            self.statistics = _numbers(step.mean), _numbers(step.std)
        else:
            raise self._refused(step, "is not one of Resize, CenterCrop, ToTensor and Normalize")

    def _refused(self, step: Any, why: str) -> UserError:
        text = " ".join(str(step).split())[:200]
        return UserError(
            f"The preprocessing of {self._owner} has the step {text}, which {why}. Return a "
            "Preprocessing(resize, crop), and do the rest inside the network."
        )

    def normalise(self) -> nn.Module | None:
        """The layer for mean and deviation; None if there are none."""
        return Subtracted(*self.statistics) if self.statistics else None

    def described(self) -> str:
        """Mean and deviation in words; empty without."""
        return "/".join(" ".join(f"{value:g}" for value in row) for row in self.statistics) if self.statistics else ""


class Subtracted(nn.Module):
    """(images - mean) / std per channel. The two buffers are not in the state dict, as they are not weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return (images - self.mean) / self.std


def _steps(given: Any) -> Iterator[Any]:
    """The steps of a transform, also of one inside another (`Compose`, `Sequential`)."""
    inner = getattr(given, "transforms", None)
    if inner is None and isinstance(given, nn.Sequential):
        inner = list(given)
    if isinstance(inner, list | tuple):
        for step in inner:
            yield from _steps(step)
    else:
        yield given


def _size(value: Any) -> int | tuple[int, int]:
    """A size of `Resize`: 256 and [256] are the shorter side, (224, 224) is both."""
    if isinstance(value, int):
        return value
    return int(value[0]) if len(value) == 1 else (int(value[0]), int(value[1]))


def _pair(value: Any) -> tuple[int, int]:
    """A size of `CenterCrop`, one number for both sides."""
    size = _size(value)
    return (size, size) if isinstance(size, int) else size


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(map(float, [values] if isinstance(values, int | float) else values))
