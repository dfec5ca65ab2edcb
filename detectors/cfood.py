"""CF-OOD: how many neighbours training images must have before enough of them count an image among theirs."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, FitData, detector
from oodbench.detectors._directions import Directions
from oodbench.detectors._gaussian import BLOCK
from oodbench.detectors._rows import gathered
from oodbench.detectors._rules import reference_share
from oodbench.detectors._similarity import Banked, bank_blocks, bank_of

SHARES = np.concatenate([np.linspace(0.001, 0.1, 100), np.linspace(0.105, 0.5, 81), np.linspace(0.51, 0.99, 49)])
"""Sizes of neighbourhoods that are tried, as shares of the reference images; the authors' list."""
ALIKE = 3e-7
"""Cosines this near count as equal: float32 cosines of the same two features may differ by it between two products."""
ENTRIES = 2**25
"""Number of cosines in a block of the fit."""


def neighbourhoods(images: int) -> np.ndarray:
    """Numbers of neighbours that are tried among `images` reference images: from 1 to less than `images`, rising."""
    return np.unique(np.maximum((SHARES * images).astype(np.int64), 1))


@detector(
    "cfood",
    title="CF-OOD (concentration-free density)",
    paper="Angiulli, Fassetti & Zupi, CF-OOD: Concentration-Free Density Estimation for Reliable Out-of-Distribution "
    "Detection, SISAP 2025",
    display_name="CF-OOD",
    cite="angiulli2025cfood",
)
class CFOOD(Banked):
    """min { m / n : at least `quorum` of n reference images have x among their m nearest neighbours }; 1 if no m does.

    The reference images are a part of the training images, the distance is Euclidean between f / |f|, and m runs over
    at most 230 sizes from 1 to 0.99 n. A reference image is not its own neighbour; x counts as one of its m nearest if
    it is no farther than the m-th of the other reference images. Scores have few different values, and ties.

    Cosines come from the shared float32 product; those within 3e-7 of the m-th neighbour's count as equal to it, and
    those with a feature of zeros are 0.

    Default of `fraction`: the authors' tenth of the training images, but at least 5,000 or all of them. Authors: 0.1 of
    the 50,000 images of CIFAR-10, with sweeps over 0.1, 0.5 and 1. Default suite: all images, 1,157 and 1,300.

    Differs: reference images are the same share of every class, chosen by a hash of their features, where the authors'
    code in OpenOOD draws them at random. It returns the share from its list where the score here is m / n: the order is
    the same.
    """

    needs = frozenset({"features", "similarities"})
    grid = {"quorum": (0.01, 0.001, 0.005, 0.05), "fraction": (None, 0.1, 0.5, 1.0)}
    quorum: float = 0.01
    fraction: float | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check both shares."""
        if self.fraction is not None:
            super().__post_init__()
        if not 0 < self.quorum <= 1:
            raise ValueError(f"quorum is a share of the reference images, above 0 and at most 1, got {self.quorum}")

    def share(self, train: Batch) -> float:
        """The share of every class that the reference images are."""
        return reference_share(len(train)) if self.fraction is None else self.fraction

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Find the similarity of each reference image to its m-th neighbour, for every m that is tried."""
        reference = self._reference(data)
        count = len(reference)
        if count < 2:
            raise DataError(
                f"{self.name} compares with neighbours of reference images, and needs two; there is {count}."
            )
        if self.fraction is None:
            self.chosen_ = {"fraction": reference_share(len(data.train))}
        sizes = neighbourhoods(count)
        self.sizes_ = torch.from_numpy(sizes)
        self.enough_ = max(1, math.ceil(self.quorum * count - 1e-9))
        self.nearest_ = torch.empty(len(sizes), count)
        for rows in torch.arange(count).split(max(1, ENTRIES // count)):
            ascending = np.sort((reference[rows] @ reference.T).numpy(), axis=1)
            # the last is the image itself, or another at the same place
            self.nearest_[:, rows] = torch.from_numpy(ascending[:, count - 1 - sizes].T - np.float32(ALIKE))

    def _reference(self, data: FitData) -> Tensor:
        """Directions of the reference images, float32 (n, D)."""
        blocks = ((Directions().of(part.features[own]).float(),) for part, own in bank_blocks(data, BLOCK))
        return gathered(len(bank_of(data)), blocks)[0]

    def score(self, batch: Batch) -> Tensor:
        """The smallest share of neighbours, from 1 / n to 1."""
        nearest, cosines = self.nearest_.numpy(), batch.similarities.numpy()
        shares = np.append(self.sizes_.numpy(), cosines.shape[1]) / cosines.shape[1]
        return torch.from_numpy(shares[[_smallest(row, nearest, self.enough_) for row in cosines]])


def _smallest(cosines: np.ndarray, nearest: np.ndarray, enough: int) -> int:
    """The first row of `nearest` (M, n), falling from row to row, that `enough` of the cosines (n,) reach; M if none.

    One image at a time: its cosines then stay in the processor's cache while they are compared with a few rows.
    """
    low, high = 0, len(nearest)
    while low < high:
        middle = (low + high) // 2
        if np.count_nonzero(cosines >= nearest[middle]) >= enough:
            high = middle
        else:
            low = middle + 1
    return low
