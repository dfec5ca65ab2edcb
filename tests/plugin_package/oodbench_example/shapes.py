"""A data set that is drawn when it is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet, dataset

SIDE = 32
COUNTS = {"train": 200, "test": 60}
SEEDS = {"train": 1, "test": 2}


@dataset("shapes", title="Four drawn shapes")
class Shapes(Dataset):
    """White outlines of varying size and place on a dark, noisy ground."""

    classes = ("disc", "square", "cross", "frame")
    licence = "None needed: drawn by this package"
    origin = "Drawn on loading with numpy.random.RandomState, which never changes."
    caveats = "An example, too easy to compare detectors on."
    checksums = {
        "train": "35d7ecceb65ad37124ca23209abc56fe6e184d3172c85d5ab128e7ec9b0f4ce0",
        "test": "0d314dd0d1b48f48bb20703b0f0ce00dca49cb7190631eb7c3777d676ec1112c",
    }

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Draw a split; nothing is read."""
        random = np.random.RandomState(SEEDS[split])
        labels = np.arange(COUNTS[split]) % len(self.classes)
        images = [drawn(self.classes[label], random) for label in labels]
        return ImageSet(np.stack(images), labels, self.classes)


def drawn(shape: str, random: np.random.RandomState) -> np.ndarray:
    """One image, uint8 (3, 32, 32)."""
    radius = random.randint(5, 11)
    middle_y, middle_x = random.randint(radius + 1, SIDE - radius - 1, size=2)
    y, x = np.abs(np.arange(SIDE)[:, None] - middle_y), np.abs(np.arange(SIDE)[None] - middle_x)
    outline = {
        "disc": x**2 + y**2 <= radius**2,
        "square": np.maximum(x, y) <= radius,
        "cross": (np.minimum(x, y) <= 1) & (np.maximum(x, y) <= radius),
        "frame": (np.maximum(x, y) <= radius) & (np.maximum(x, y) > radius - 2),
    }[shape]
    image = random.randint(0, 64, (3, SIDE, SIDE)).astype(np.uint8)
    image[:, outline] += 160
    return image
