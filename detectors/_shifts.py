"""Shifting transformations of CSI: changes of an image that make it another one, as rotations do."""

from __future__ import annotations

import torch
from torch import Tensor

ROTATION, PERMUTATION = "rotation", "permutation"
KINDS = (ROTATION, PERMUTATION)
SHIFTS = 4
"""Number of transformations of each kind; the first leaves the image as it is."""


def transformed(images: Tensor, kind: str, number: int) -> Tensor:
    """Images (N, C, H, W) after one transformation, of the same shape.

    "rotation": by `number` quarter turns, counterclockwise; images must be square. "permutation": the image is cut in
    halves that change places, top and bottom if `number` is 2 or 3, left and right if it is 1 or 3.
    """
    if kind == ROTATION:
        return torch.rot90(images, number, (2, 3))
    height, width = images.shape[2:]
    return images.roll((-(height // 2) * (number // 2), -(width // 2) * (number % 2)), (2, 3))
