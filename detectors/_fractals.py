"""Pictures of fractals, drawn without data: the mixing pictures of PixMix.

Three kinds take turns: attractors of iterated function systems, Julia sets, and fractional noise. They have what mixing
pictures need: structure at all scales, and many colours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SEED = 2022
STEPS = 60
"""Iterations of a Julia set."""
DEEP = 4.0
"""A Julia set's iteration ends beyond this modulus."""

Array = np.ndarray
Random = np.random.RandomState


def fractal_pictures(count: int, side: int) -> Array:
    """The first `count` pictures of one endless series, uint8 (count, 3, `side`, `side`)."""
    kinds: tuple[Callable[[int, Random], Array], ...] = (_attractor, _julia_set, _noise)
    pictures = np.empty((count, 3, side, side), np.uint8)
    for number in range(count):
        random = np.random.RandomState([SEED, number])
        pictures[number] = _coloured(kinds[number % len(kinds)](side, random), random)
    return pictures


@lru_cache(maxsize=2)
def mixing_pictures(count: int, side: int, channels: int, device: torch.device) -> Tensor:
    """The same on a device, float32 in [0, 1] (count, `channels`, side, side): colours if `channels` is 3, else luma.

    They are drawn once in a process: do not change them in place.
    """
    pictures = torch.from_numpy(fractal_pictures(count, side)).to(device).float().div_(255)
    if channels == 3:
        return pictures
    weights = torch.tensor([0.299, 0.587, 0.114], device=device)  # ITU-R 601
    return (pictures * weights[:, None, None]).sum(dim=1, keepdim=True).expand(-1, channels, -1, -1).contiguous()


def _grid(side: int, random: Random, reach: float) -> tuple[Array, Array]:
    """x and y of a randomly placed and turned window about `reach` wide, each (side, side)."""
    places = (np.arange(side) + 0.5) / side - 0.5
    x, y = np.meshgrid(places, places)
    angle, size = random.uniform(0, 2 * np.pi), reach * random.uniform(0.3, 1)
    centre = random.uniform(-0.25, 0.25, 2) * reach
    return (
        size * (np.cos(angle) * x - np.sin(angle) * y) + centre[0],
        size * (np.sin(angle) * x + np.cos(angle) * y) + centre[1],
    )


def _attractor(side: int, random: Random) -> Array:
    """Log density of the attractor of two to four random contractions of the plane, in [0, 1] (side, side)."""
    maps = random.randint(2, 5)
    one, two = _rotations(random.uniform(0, 2 * np.pi, (2, maps)))
    matrices = one @ (random.uniform(0.25, 0.9, (maps, 2, 1)) * two)
    shifts = random.uniform(-1, 1, (maps, 2))
    points = np.zeros((max(1024, side * side // 2), 2))
    visited = []
    for step in range(36):
        chosen = random.randint(0, maps, len(points))
        points = np.einsum("nij,nj->ni", matrices[chosen], points) + shifts[chosen]
        if step >= 20:
            visited.append(points)
    every = np.concatenate(visited)
    low, high = np.percentile(every, [1, 99], axis=0)
    density, _, _ = np.histogram2d(
        every[:, 0], every[:, 1], bins=side, range=[[low[0], high[0] + 1e-9], [low[1], high[1] + 1e-9]]
    )
    heights = np.log1p(density)
    return np.asarray(heights / heights.max())


def _rotations(angles: Array) -> Array:
    """Matrices (..., 2, 2) of angles (...)."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _julia_set(side: int, random: Random) -> Array:
    """How long the iteration z^2 + c stays small, c near the boundary of the Mandelbrot set, in [0, 1] (side, side)."""
    angle = random.uniform(0, 2 * np.pi)
    constant = random.uniform(1.0, 1.12) * (np.exp(1j * angle) / 2 - np.exp(2j * angle) / 4)
    x, y = _grid(side, random, 2.4)
    values = x + 1j * y
    escaped = np.full(values.shape, float(STEPS))
    for step in range(STEPS):
        values = values * values + constant
        size = np.abs(values)
        left = (size > DEEP) & (escaped == STEPS)
        escaped[left] = step + 1 - np.log2(np.log(size[left]) / np.log(DEEP))  # fractional, so that there are no bands
        values[size > DEEP] = DEEP  # what has left grows no further
    heights = np.log1p(escaped.clip(0))
    low, high = heights.min(), heights.max()
    return np.asarray((heights - low) / (high - low + 1e-12))


def _noise(side: int, random: Random) -> Array:
    """Noise with an amplitude that falls as a power of the frequency, in [0, 1] (side, side)."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf
    spectrum = frequency ** -random.uniform(1.0, 2.0) * np.exp(2j * np.pi * random.uniform(size=frequency.shape))
    heights = np.fft.irfft2(spectrum, s=(side, side))
    low, high = heights.min(), heights.max()
    return np.asarray((heights - low) / (high - low))


def _coloured(heights: Array, random: Random) -> Array:
    """Heights (side, side) in colours of a random palette that each channel runs through in waves, (3, side, side)."""
    waves, phases = random.uniform(0.4, 2.5, 3), random.uniform(0, 1, 3)
    bright = 0.5 + 0.5 * np.cos(2 * np.pi * (waves[:, None, None] * heights + phases[:, None, None]))
    return np.asarray(np.rint(255 * bright), np.uint8)
