"""Small sets of images whose copies the tests plant and count."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from oodbench.benchmark import Dataset, ImageSet


def smooth(count: int, seed: int, shape: tuple[int, int, int] = (3, 16, 20)) -> np.ndarray:
    """Images of large uniform patches, uint8 (N, C, H, W): different in every pixel, some similar in the mean."""
    random = np.random.RandomState(seed)
    channels, height, width = shape
    coarse = random.randint(0, 256, (count, channels, -(-height // 4), -(-width // 4)))
    images: np.ndarray = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, :height, :width].astype(np.uint8)
    return images


def noisy(images: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.RandomState(seed).randn(*images.shape) * sigma
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def image_set(train: np.ndarray, test: np.ndarray) -> type[Dataset]:
    """A labelled data set of the given images. Its splits are views of one array, as a careless author writes it."""

    class Images(Dataset):
        classes = ("a", "b")
        whole: ClassVar[np.ndarray] = np.concatenate([train, test])

        def load(self, split: str, data_dir: Path) -> ImageSet:
            images = self.whole[: len(train)] if split == "train" else self.whole[len(train) :]
            return ImageSet(images, np.arange(len(images)) % 2, self.classes)

    return Images
