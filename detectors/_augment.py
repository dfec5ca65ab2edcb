"""Random augmentation of training images, for a whole batch at once but with a separate draw per image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted(images: Tensor, by: int, flip: bool, generator: torch.Generator, mode: str = "constant") -> Tensor:
    """Random crops and flips: shift each image by up to `by` pixels in both directions, and mirror half of the images.

    Equivalent to padding by `by` pixels (black, or `mode` "reflect"), cropping a random window of the original size (He
    et al. 2016), and flipping it. Images (N, C, H, W) -> the same shape, in channels-last memory. Draws N row offsets,
    N column offsets and N coins, in this order, from `generator`, which is on the images' device.
    """
    count, _, height, width = images.shape
    device = images.device
    rows, columns = (torch.randint(0, 2 * by + 1, (count, 1), generator=generator, device=device) for _ in range(2))
    padded = F.pad(images, (by,) * 4, mode=mode) if by else images
    across = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator, device=device) < 0.5
        across = torch.where(mirrored, width - 1 - across, across)
    which = torch.arange(count, device=device)[:, None, None]
    down = torch.arange(height, device=device) + rows
    # A single gather. Index tensors on both sides of a slice move the channels to the end.
    return padded[which, :, down[:, :, None], (across + columns)[:, None, :]].permute(0, 3, 1, 2)
