"""Shared by tests of forward passes: four small data sets that a classifier can learn, and a suite of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet
from oodbench.benchmark.plugins.base import Plugin

PLANTED_MATRIX = """
[[id]]
set = "planted"
outliers = "planted-outliers"
tuning = "planted-outliers"
ood = [{ set = "planted-near", group = "near" }, { set = "planted-far" }]
"""
PLANTED_TRAINING = "epochs = 1\nbatch_size = 20"


class Planted(Dataset):
    """A few images of two classes, one brighter than the other; different for each seed."""

    version = "1"
    splits = ("train", "test")
    classes = ("a", "b")
    seed = 0
    shape = (3, 32, 32)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        count = 40 if split == "train" else 24
        labels = np.arange(count) % 2
        noise = np.random.RandomState(2 * self.seed + (split == "test")).randint(0, 128, (count, *self.shape))
        return ImageSet((noise + 64 * labels[:, None, None, None]).astype(np.uint8), labels, self.classes)


def register_planted(register: Callable[[str, type[Plugin]], None], shape: tuple[int, int, int]) -> None:
    """Register the sets of `PLANTED_MATRIX`, with images of this shape."""
    for seed, name in enumerate(("planted", "planted-outliers", "planted-near", "planted-far")):
        register(name, type(f"Planted{seed}", (Planted,), {"seed": seed, "shape": shape, "__module__": __name__}))
