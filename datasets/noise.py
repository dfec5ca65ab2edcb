"""Gaussian and uniform noise, the synthetic far-OOD sets of the early papers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet, dataset

SHAPE = (1000, 3, 32, 32)
CAVEATS = "Quantised to 256 levels, like stored images. 1,000 images, where the papers used 10,000."

# RandomState, not default_rng, because NumPy guarantees that its streams never change.


@dataset(
    "gaussian",
    title="Gaussian noise",
    paper="Liang et al., ODIN, ICLR 2018 (arXiv:1706.02690); Lee et al., ICLR 2018 (arXiv:1711.09325)",
    display_name="Gaussian noise",
)
class Gaussian(Dataset):
    """Each channel of each pixel is drawn from N(0.5, 1) and clamped to [0, 1]."""

    splits = ("test",)
    kin = "noise"
    channels = 3
    licence = "None needed: random numbers"
    origin = (
        "Drawn on loading from numpy.random.RandomState(1): N(0.5, 1) per channel, clamped to [0, 1], rounded to 1/255."
    )
    caveats = CAVEATS + " Clamping leaves 62% of the values at exactly 0 or 1."
    checksums = {"test": "5bcd8974e8153f53778bd607cabef5b41b75194bf3591da6cc75d9345c55d56a"}

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return the test split. No file is read."""
        return quantised(np.random.RandomState(1).normal(0.5, 1, SHAPE))


@dataset(
    "uniform",
    title="Uniform noise",
    paper="Liang et al., ODIN, ICLR 2018 (arXiv:1706.02690)",
    display_name="Uniform noise",
)
class Uniform(Dataset):
    """Each channel of each pixel is drawn uniformly from [0, 1]."""

    splits = ("test",)
    kin = "noise"
    channels = 3
    licence = "None needed: random numbers"
    origin = "Drawn on loading from numpy.random.RandomState(2): uniform on [0, 1] per channel, rounded to 1/255."
    caveats = CAVEATS
    checksums = {"test": "9717b052683fb11d499ca97243838702e6f415253287af90be8d95bad69f68dd"}

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return the test split. No file is read."""
        return quantised(np.random.RandomState(2).uniform(0, 1, SHAPE))


def quantised(values: np.ndarray) -> ImageSet:
    """Clamp to [0, 1] and round to the nearest of 256 levels."""
    return ImageSet(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))
