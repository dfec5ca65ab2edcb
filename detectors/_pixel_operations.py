"""The image operations of AugMix and PixMix for a whole batch at once, with a separate draw per image.

Each is Pillow's on images of 256 levels, to within a level (two where Pillow rounds twice). Images are float32 in
[0, 1], (N, C, H, W).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "autocontrast", "equalize", "posterize", "rotate", "solarize", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
"""Those that are not among the corruptions of ImageNet-C."""
OVERLAPPING = ("color", "contrast", "brightness", "sharpness")
"""Those that are."""
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")

LOWEST = 0.1
"""Smallest level of an operation; the largest is the severity."""
LUMA = (0.299, 0.587, 0.114)


def random_operation(images: Tensor, severity: float, generator: torch.Generator, overlapping: bool = False) -> Tensor:
    """One random operation on each image, at a level drawn from U(0.1, `severity`) and in a random direction.

    Levels up to 10 are defined: 30 degrees, a shear of 0.3, a shift by a third of the side, and so on, in proportion.
    """
    names = (*OPERATIONS, *OVERLAPPING) if overlapping else OPERATIONS
    count, device = len(images), images.device
    kinds = torch.randint(0, len(names), (count,), generator=generator, device=device)
    levels = LOWEST + (severity - LOWEST) * torch.rand(count, generator=generator, device=device)
    signs = torch.where(torch.rand(count, generator=generator, device=device) < 0.5, -1.0, 1.0)
    changed = images.clone()
    moved = torch.zeros(count, dtype=torch.bool, device=device)
    matrices = torch.eye(2, 3, device=device).expand(count, 2, 3).clone()
    for number, name in enumerate(names):
        chosen = kinds == number
        rows = torch.nonzero(chosen)[:, 0]
        if not len(rows):
            continue
        if name in GEOMETRIC:
            moved |= chosen
            matrices[rows] = matrix(name, levels[rows], signs[rows], (images.shape[2], images.shape[3]))
        else:
            changed[rows] = recoloured(name, images[rows], levels[rows])
    rows = torch.nonzero(moved)[:, 0]
    if len(rows):
        changed[rows] = resampled(images[rows], matrices[rows])
    return changed


def matrix(name: str, levels: Tensor, signs: Tensor, side: tuple[int, int]) -> Tensor:
    """Maps (N, 2, 3) from places of the result to places in the image, in pixels: (x, y) -> M (x, y, 1).

    Places are centres of pixels, 0.5 to side - 0.5. Rotations turn around the middle; angles and shifts are whole.
    """
    height, width = side
    one, zero = torch.ones_like(levels), torch.zeros_like(levels)
    if name == "rotate":
        angle = torch.deg2rad((levels * 3).floor() * signs)
        cos, sin = torch.cos(angle), torch.sin(angle)
        x, y = width / 2, height / 2
        rows = (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    elif name == "shear_x":
        rows = (one, 0.03 * levels * signs, zero, zero, one, zero)
    elif name == "shear_y":
        rows = (one, zero, zero, 0.03 * levels * signs, one, zero)
    elif name == "translate_x":
        rows = (one, zero, (levels * width / 30).floor() * signs, zero, one, zero)
    else:
        rows = (one, zero, zero, zero, one, (levels * height / 30).floor() * signs)
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def resampled(images: Tensor, matrices: Tensor) -> Tensor:
    """The images at mapped places, with bilinear interpolation; black outside of the image."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=matrices.dtype) + 0.5
    y = torch.arange(height, device=images.device, dtype=matrices.dtype) + 0.5
    first, second = matrices[:, 0, :, None, None], matrices[:, 1, :, None, None]
    across = first[:, 0] * x + first[:, 1] * y[:, None] + first[:, 2]
    down = second[:, 0] * x + second[:, 1] * y[:, None] + second[:, 2]
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    places = torch.stack([2 * across / width - 1, 2 * down / height - 1], dim=-1).to(images.dtype)
    found: Tensor = F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)
    return found * inside[:, None]


def recoloured(name: str, images: Tensor, levels: Tensor) -> Tensor:
    """An operation on the values of pixels."""
    if name == "autocontrast":
        low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
        return torch.where(high > low, (images - low) / (high - low).clamp_min(1 / 255), images)
    if name == "equalize":
        return equalised(images)
    steps = (levels[:, None, None, None] * (0.4 if name == "posterize" else 25.6)).floor()
    if name == "posterize":
        size = 2 ** (4 + steps)  # of the levels that are made one: 4 bits are left, or fewer
        return ((images * 255).round() / size).floor() * size / 255
    if name == "solarize":
        return torch.where((images * 255).round() >= 256 - steps, 1 - images, images)
    return _blended(name, images, 0.18 * levels[:, None, None, None] + 0.1)


def equalised(images: Tensor) -> Tensor:
    """Each channel with its values spread so that their histogram is flat."""
    count, channels, height, width = images.shape
    values = (images * 255).round().long().flatten(2)
    counts = torch.zeros(count, channels, 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(dim=2, keepdim=True))
    step = (height * width - last) // 255
    table = ((step // 2 + counts.cumsum(dim=2) - counts) // step.clamp_min(1)).clamp_max(255)
    spread = torch.where(step > 0, table.gather(2, values), values)
    return (spread.to(images.dtype) / 255).view_as(images)


def _blended(name: str, images: Tensor, share: Tensor) -> Tensor:
    """A share of the image, and for the rest grey, its mean, black, or the image smoothed; beyond 1, further away."""
    if name == "color":
        other = _luma(images).expand_as(images)
    elif name == "contrast":
        other = _luma(images).mean(dim=(2, 3), keepdim=True).expand_as(images)
    elif name == "brightness":
        other = torch.zeros_like(images)
    else:
        kernel = images.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).div_(13).expand(images.shape[1], 1, 3, 3)
        other = images.clone()
        if min(images.shape[2:]) > 2:  # the outermost pixels stay
            other[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel, groups=images.shape[1])
    return torch.lerp(other, images, share).clamp_(0, 1)


def _luma(images: Tensor) -> Tensor:
    """Luma of colour images, (N, 1, H, W); other images have one channel that matters."""
    if images.shape[1] != 3:
        return images[:, :1]
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
