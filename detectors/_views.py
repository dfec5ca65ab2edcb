"""Random views of images for contrastive training: crops, flips and changes of colour, as tensor operations."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOST_STRETCHED = 4 / 3
"""Largest width of a crop in heights, and height in widths, as shares of the image's."""
LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue (ITU-R 601)."""
YIQ = (LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
"""Luma and two coordinates of colour from red, green and blue: the hue is the angle between the latter two."""
FROM_YIQ = tuple(map(tuple, np.linalg.inv(np.array(YIQ)).tolist()))
"""Red, green and blue from those three."""


class Augmentation(NamedTuple):
    """How far a view may differ from its image."""

    smallest: float
    """Smallest area of a crop, as a share of the image's."""
    largest: float = 1.0
    """Largest area of a crop; `smallest` for crops of one area."""
    flip: bool = False
    """Whether half of the views are mirrored."""
    jitter: float = 0.4
    """Strength s of the change of colour: brightness, contrast and saturation are multiplied by factors from 1 - s to
    1 + s, and the hue turns by up to s / 4 of the colour circle."""
    jittered: float = 0.8
    """Share of the views whose colours change."""
    grey: float = 0.2
    """Share of the views without colour."""


class Draws(NamedTuple):
    """What was drawn for the views of N images; of one for all images (N = 1) in `view`."""

    size: Tensor
    """Height and width of the crop as shares of the image's, (N, 2)."""
    start: Tensor
    """Distances of the crop from the top and the left edge, as shares of the image's height and width, (N, 2)."""
    mirrored: Tensor
    """Bool (N,)."""
    factors: Tensor
    """Factors of brightness, contrast and saturation, (N, 3)."""
    turn: Tensor
    """The turn of the hue as a share of the colour circle, (N,)."""
    grey: Tensor
    """Bool (N,)."""


def draw(count: int, augmentation: Augmentation, generator: torch.Generator) -> Draws:
    """Draw for `count` views: eleven numbers of each, in one call, on the generator's device.

    Areas are uniform, and the logarithms of aspect ratios are uniform between 3/4 and 4/3, or where such a crop would
    be larger than the image, in the narrower range that fits.
    """
    u = torch.rand((count, 11), generator=generator, device=generator.device)
    area = augmentation.smallest + (augmentation.largest - augmentation.smallest) * u[:, 0]
    widest = (-area.log()).clamp(min=0, max=math.log(MOST_STRETCHED))
    stretch = ((2 * u[:, 1] - 1) * widest / 2).exp()
    size = torch.stack([area.sqrt() / stretch, area.sqrt() * stretch], dim=1).clamp(max=1)
    spread = augmentation.jitter * (u[:, 9] < augmentation.jittered).to(u.dtype)
    return Draws(
        size=size,
        start=u[:, 2:4] * (1 - size),
        mirrored=(u[:, 4] < 0.5) & augmentation.flip,
        factors=1 + (2 * u[:, 5:8] - 1) * spread[:, None],
        turn=(2 * u[:, 8] - 1) * spread / 4,
        grey=u[:, 10] < augmentation.grey,
    )


@torch.no_grad()
def view(images: Tensor, draws: Draws) -> Tensor:
    """The views of images (N, C, H, W) in [0, 1] that were drawn, of the same shape and range, channels-last.

    A crop is resized to the size of the image by bilinear interpolation; its edges are not rounded to pixels.
    """
    return _recoloured(_cropped(images, draws), draws).contiguous(memory_format=torch.channels_last)


def _cropped(images: Tensor, draws: Draws) -> Tensor:
    sign = 1 - 2 * draws.mirrored.to(images.dtype)
    centre = 2 * draws.start + draws.size - 1  # in the coordinates of a grid, from -1 to 1
    zero = torch.zeros_like(sign)
    rows = (draws.size[:, 1] * sign, zero, centre[:, 1], zero, draws.size[:, 0], centre[:, 0])
    theta = torch.stack([row.to(images.dtype) for row in rows], dim=1).view(-1, 2, 3).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _recoloured(images: Tensor, draws: Draws) -> Tensor:
    """Brightness, contrast, saturation and hue of each image, clipped to [0, 1] at the end.

    Each is an affine map of a pixel's colours: contrast moves them away from the mean luma of the image, saturation
    from the pixel's own luma, and the hue turns in the plane of YIQ. All four keep or scale the luma, so that without
    clipping their order does not matter. A grey image has its brightness and contrast changed alone.
    """
    count, channels = images.shape[:2]
    brightness, contrast, saturation = draws.factors.to(images.dtype).unbind(dim=1)
    scale = (brightness * contrast)[:, None, None]
    if channels == 1:
        means = images.mean(dim=(1, 2, 3))
        shift = (brightness * (1 - contrast) * means)[:, None, None, None]
        return (images * scale[..., None] + shift).clamp_(0, 1)
    luma = images.new_tensor(LUMA)
    means = images.mean(dim=(2, 3)) @ luma
    colours = (scale * _turned(draws, saturation)).expand(count, 3, 3)
    shift = (brightness * (1 - contrast) * means)[:, None, None].expand(count, 1, 3)
    pixels = images.permute(0, 2, 3, 1).reshape(count, -1, 3)
    changed = torch.baddbmm(shift, pixels, colours.transpose(1, 2)).clamp_(0, 1)
    return changed.view(count, *images.shape[2:], 3).permute(0, 3, 1, 2)


def _turned(draws: Draws, saturation: Tensor) -> Tensor:
    """The matrices (N, 3, 3) that turn the hue and scale the saturation, or leave the luma alone."""
    angle = 2 * math.pi * draws.turn.to(saturation.dtype)
    saturation = saturation * ~draws.grey
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    rows = (one, zero, zero, zero, cos, -sin, zero, sin, cos)
    return saturation.new_tensor(FROM_YIQ) @ torch.stack(rows, dim=1).view(-1, 3, 3) @ saturation.new_tensor(YIQ)
