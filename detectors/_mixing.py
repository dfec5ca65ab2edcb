"""Mixtures of images and of their labels; random numbers are from the training's generator, on the images' device."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_beta(a: float, b: float, generator: torch.Generator) -> Tensor:
    """One draw of Beta(a, b), a float64 scalar on the generator's device."""
    shapes = torch.tensor([a, b], dtype=torch.float64, device=generator.device)
    drawn: Tensor = torch._sample_dirichlet(shapes, generator=generator)  # torch.distributions takes no generator
    return drawn[0]


def cut_box(side: tuple[int, int], share: Tensor, generator: torch.Generator) -> Tensor:
    """A box around a random pixel, whose area is 1 - share of the image where all of it is inside: bool (H, W)."""
    inside = []
    for length in side:
        half = (length * (1 - share).sqrt()).floor().long() // 2
        centre = torch.randint(0, length, (), generator=generator, device=generator.device)
        places = torch.arange(length, device=generator.device)
        inside.append((places >= centre - half) & (places < centre + half))
    return inside[0][:, None] & inside[1][None, :]


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over rows of -sum_k t_k log p_k, for logits and targets (N, K)."""
    return -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
