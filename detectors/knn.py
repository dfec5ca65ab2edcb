"""Distance to the k-th nearest training image."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, FitData, detector
from oodbench.detectors._rules import neighbours_of
from oodbench.detectors._similarity import Banked, largest, require_k, require_neighbours, unit

CLOSE = 0.05
"""Distance below which float32 cosines, accurate to about 1e-7, do not order neighbours reliably."""


@detector(
    "knn",
    title="k nearest neighbours",
    paper="Sun, Ming, Zhu & Li, Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022",
    display_name="KNN",
    cite="sun2022knn",
)
class KNN(Banked):
    """|z - z_(k)|, z = f / |f|: Euclidean distance to the k-th most similar training image.

    The neighbour is found by its similarity. Its distance is then computed by subtraction in float64, because 2 - 2 cos
    loses half of the digits of a small distance. Similarities are those of the float32 product, of which only the
    largest are computed where that is faster (`Batch.neighbours`). For neighbours closer than 0.05, which float32 does
    not order reliably, they are recomputed in float64. A feature of zeros has distance 1 from everything.

    Default of `k`: 50, but at most the number of images that the bank has of a class (mean). Authors: 50 for CIFAR-10
    with 5,000 images a class, 200 for CIFAR-100 with 500, 1000 for ImageNet with 1,281 and 10 with a hundredth of it.
    Default suite: 50 of 116 and of 130 images a class.

    Differs: OpenOOD tunes k on OOD validation images. The search is exact and does not use faiss; OpenOOD adds 1e-10 to
    every unit instead of to the norm. The paper also samples 1% of ImageNet for its bank: `fraction=0.01` does so, with
    the same share of every class.
    """

    needs = frozenset({"features", "similarities"})
    grid = {"k": (None, 1, 10, 50, 100, 200, 500, 1000)}
    k: int | None = None

    def __post_init__(self) -> None:
        """Check k and `fraction`."""
        super().__post_init__()
        require_k(self.k)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Choose k if it is left to the rule. Raises `DataError` for a bank with fewer than k images."""
        self.k_ = self.k or neighbours_of(data, 50)
        if self.k is None:
            self.chosen_ = {"k": self.k_}
        require_neighbours(data, self.k_, self.name)

    def score(self, batch: Batch) -> Tensor:
        """Distance to the k-th nearest neighbour, from 0 to 2."""
        distances = self._distances(batch, batch.features, batch.neighbours.column(self.k_))
        if (close := distances < CLOSE).any():
            features = batch.features[close]
            similarities = batch.bank.similarities(features, torch.float64)
            distances[close] = self._distances(batch, features, largest(similarities, self.k_)[1][:, -1])
        return distances

    def _distances(self, batch: Batch, features: Tensor, neighbours: Tensor) -> Tensor:
        distances: Tensor = torch.linalg.vector_norm(unit(features) - unit(batch.bank.features(neighbours)), dim=1)
        return distances
