"""Changes of training images, on whole batches: every image by its own draw, without a loop over images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def shifted(images: Tensor, by: int, flip: bool, generator: torch.Generator, mode: str = "constant") -> Tensor:
    """Each image moved by up to `by` pixels up, down, left and right, and mirrored in half the cases.

    The same as padding by `by` pixels (black, or `mode` "reflect"), cutting a random window of the old size (He et al.
    2016), and flipping it. Images (N, C, H, W) -> the same shape, in channels-last memory. Draws, in this order, N
    rows, N columns and N coins from `generator`, which is on the images' device.
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
    # One gather; indices on both sides of a slice put the channels last.
    return padded[which, :, down[:, :, None], (across + columns)[:, None, :]].permute(0, 3, 1, 2)
