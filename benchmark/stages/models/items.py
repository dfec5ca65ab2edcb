"""What loaders and data sets yield: images and labels, alone, in tuples or in dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.benchmark.errors import UserError, counted

IMAGE_KEYS = ("image", "images", "img", "imgs", "pixel_values", "input", "inputs", "x", "data", "jpg", "png")
"""Names of images in dictionaries, the first that is there; `pixel_values` is Hugging Face's for preprocessed ones."""

LABEL_KEYS = ("label", "labels", "target", "targets", "fine_label", "y", "cls")

TRANSFORM = (
    "Give the data set your network's transform, as torchvision's data sets take one (transform=...); a data set of "
    "Hugging Face has set_transform"
)


class Item(NamedTuple):
    """A batch, or one image, with what stands beside it."""

    images: Tensor
    labels: Any
    """As they came; None if there are none."""


def item_of(value: Any, where: str) -> Item:
    """Take apart what `where` yields. Raises `UserError` for what holds no tensor of images."""
    images, labels = value, None
    if isinstance(value, Mapping):
        images, labels = _named(value, where)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if not value:
            raise UserError(f"{where} yields an empty {type(value).__name__}, expected images or (images, labels).")
        images, labels = value[0], value[1] if len(value) > 1 else None
        if isinstance(images, Mapping):
            images, inner = _named(images, where)
            labels = inner if labels is None else labels
    return Item(tensor_of(images, where), labels)


def _named(value: Mapping[Any, Any], where: str) -> tuple[Any, Any]:
    key = next((key for key in ("pixel_values", *IMAGE_KEYS) if key in value), None)
    if key is None:
        raise UserError(
            f"{where} yields dictionaries with {', '.join(map(repr, value)) or 'nothing'}, and none of these is known "
            f"as the image; expected one of {', '.join(IMAGE_KEYS)}. Rename it, or yield (image, label)."
        )
    return value[key], next((value[key] for key in LABEL_KEYS if key in value), None)


def tensor_of(images: Any, where: str) -> Tensor:
    """Images as a tensor. Raises `UserError` for pictures without a transform, paths and others."""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray) and images.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(images))
    kind = f"{type(images).__module__}.{type(images).__qualname__}".removeprefix("builtins.")
    if kind.startswith("PIL."):
        raise UserError(f"{where} yields pictures ({kind}), and the network takes tensors. {TRANSFORM}.")
    if isinstance(images, str | Path):
        raise UserError(f"{where} yields paths or texts ('{images}'), expected tensors of images. {TRANSFORM}.")
    if isinstance(images, list | tuple) and images and isinstance(images[0], Tensor):
        raise UserError(
            f"{where} yields {len(images)} tensors in place of one, such as crops or views of an image. Give the "
            "transform that is used in evaluation."
        )
    raise UserError(f"{where} yields {kind}, expected tensors of images, alone or as (images, labels).")


def labels_of(given: Any, count: int, where: str) -> NDArray[np.int64] | None:
    """Labels of a batch as int64 (N,); None if there are none. Raises `UserError` for others than class numbers."""
    if given is None:
        return None
    if isinstance(given, Iterable) and not isinstance(given, Tensor | np.ndarray | str):
        given = list(given)
        if any(isinstance(label, str) for label in given):
            raise UserError(f"The labels of {where} are texts ('{given[0]}'), expected class numbers 0, 1, ....")
    try:
        labels = np.atleast_1d(np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given))
    except (ValueError, TypeError) as error:
        raise UserError(f"The labels of {where} are not class numbers: {error}.") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != count:
        hint = " Are they one-hot? Give labels.argmax(1)." if labels.ndim == 2 else ""
        shape = tuple(labels.shape)
        raise UserError(
            f"The labels of {where} have the shape {shape} for {counted(count, 'image')}, expected ({count},).{hint}"
        )
    if labels.dtype.kind not in "iub":
        raise UserError(f"The labels of {where} are {labels.dtype}, expected whole numbers: classes 0, 1, ....")
    return labels.astype(np.int64)
