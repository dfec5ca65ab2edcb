"""Textures drawn by this project: 100 independent ones of 25 kinds, by arithmetic that is the same everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet, dataset
from oodbench.datasets._texture_noise import Array, hashed, noise
from oodbench.datasets._texture_patterns import PATTERNS, Random

TEXTURES_PER_KIND = 4
CROPS = 5
SIDE = 32
SAMPLES = 2
"""Points per pixel and direction, over which a pixel is averaged."""


@dataset(
    "drawn-textures",
    title="Textures drawn by arithmetic: 100 of 25 kinds, five crops of each",
    display_name="Drawn textures",
)
class DrawnTextures(Dataset):
    """500 colour crops of 100 procedural textures."""

    splits = ("test",)
    channels = 3
    licence = "Drawn by oodbench, under its licence (MIT)"
    origin = (
        "Drawn on loading by oodbench.datasets._texture_patterns: four textures of each of 25 kinds (stripes, ripples, "
        "checks, tartan, dots, confetti, bricks, tiles, honeycomb, weave, knit, scales, zigzag, cracks, mosaic, "
        "pebbles, clouds, marble, wood, fibres, hatching, camouflage, granite, labyrinth, triangles). Every texture "
        "has its own settings, direction, period (6 to 24 pixels), palette, mean brightness and contrast (both over "
        "nearly the whole range), uneven light and grain, all drawn independently; five crops of 32 x 32 are taken far "
        "apart in it. Groups are textures."
    )
    caveats = (
        "Made for oodbench: numbers on it are not comparable to published ones. Drawings, not photographs: regular, "
        "in focus, with no objects. The four textures of a kind are drawn independently but are more alike than those "
        "of different kinds, and intervals (100 groups) speak of other textures of these 25 kinds, not of other kinds."
    )
    checksums = {"test": "bfcae5a5c73c1880ab3c19d8548d7b9266e68b35912403adbd1e20c52338a1e7"}

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return the test split. No file is read."""
        numbers = range(TEXTURES_PER_KIND * len(PATTERNS))
        return ImageSet(
            np.concatenate([draw(number) for number in numbers]), groups=np.repeat(np.asarray(numbers), CROPS)
        )


def draw(number: int) -> np.ndarray:
    """Draw the crops of one texture: uint8 (CROPS, 3, SIDE, SIDE)."""
    random = Random(number)
    across, down = plane()
    cosine, sine = direction(random)
    period = 6 + 18 * random.between(0, 1) * random.between(0, 1)
    x, y = (cosine * across - sine * down) / period, (sine * across + cosine * down) / period
    values = PATTERNS[number // TEXTURES_PER_KIND](random, x, y)
    return np.ascontiguousarray(developed(random, values, across, down))


def plane() -> tuple[Array, Array]:
    """Coordinates in pixels of all points of all crops, float64 (CROPS, SIDE * SAMPLES, SIDE * SAMPLES) each."""
    steps = (np.arange(SIDE * SAMPLES) + 0.5) / SAMPLES
    starts = 1000.0 + 97.0 * np.arange(CROPS)  # three crops' width apart along the diagonal
    across = starts[:, None, None] + steps[None, None, :] + np.zeros((1, len(steps), 1))
    down = starts[::-1, None, None] + steps[None, :, None] + np.zeros((1, 1, len(steps)))
    return across, down


def direction(random: Random) -> tuple[float, float]:
    """Cosine and sine of an angle from -90 to 90 degrees, without trigonometry."""
    tangent = random.between(-1, 1)  # of half the angle
    return (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)


def developed(random: Random, values: Array, across: Array, down: Array) -> np.ndarray:
    """Turn values in [0, 1] into pixels: palette, uneven light, averaging, grain, rounding."""
    contrast = random.between(0.15, 1.1)
    middle = random.between(0.04 + 0.42 * contrast, 0.96 - 0.42 * contrast)
    strength = random.between(0, 1)
    cast, *stops = [tint(random, strength * size) for size in (0.2, 0.14, 0.14, 0.14)]
    if random.chance():
        values = 1 - values
    light = 0.75 + 0.5 * noise(seed := random.seed(), across / 60, down / 60)
    roughness = random.between(0, 0.06)
    column, row = np.floor(across[:, ::SAMPLES, ::SAMPLES]), np.floor(down[:, ::SAMPLES, ::SAMPLES])
    channels = []
    for channel in range(3):
        low, mid, high = (stop[channel] for stop in stops)
        along = np.where(values < 0.5, low + (mid - low) * 2 * values, mid + (high - mid) * (2 * values - 1))
        colour = middle + cast[channel] + contrast * (values - 0.5) + along
        grain = roughness * (hashed(seed + 1 + channel, column, row) - 0.5)
        channels.append(averaged(colour * light) + grain)
    return np.floor(np.clip(np.stack(channels, axis=1), 0, 1) * 255 + 0.5).astype(np.uint8)


def tint(random: Random, size: float) -> tuple[float, float, float]:
    """What to add to red, green and blue to colour a grey without changing their mean."""
    red, green, blue = (random.between(-size, size) for _ in range(3))
    mean = (red + green + blue) / 3
    return red - mean, green - mean, blue - mean


def averaged(points: Array) -> Array:
    """The means over the SAMPLES x SAMPLES points of each pixel, added one after the other: (CROPS, SIDE, SIDE)."""
    total = np.zeros_like(points[:, ::SAMPLES, ::SAMPLES])
    for i in range(SAMPLES):
        for j in range(SAMPLES):
            total = total + points[:, i::SAMPLES, j::SAMPLES]
    return total / SAMPLES**2
