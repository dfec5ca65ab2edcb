"""Distance to the k-th nearest training image."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, FitData, detector
from oodbench.detectors._similarity import Banked, largest, require_neighbours, unit

CLOSE = 0.05
"""A distance below which float32 does not order neighbours: cosines of unit features are good to about 1e-7."""


@detector(
    "knn",
    title="k nearest neighbours",
    paper="Sun, Ming, Zhu & Li, Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022",
)
class KNN(Banked):
    """|z - z_(k)|, z = f / |f|: Euclidean distance to the k-th most similar training image.

    The neighbour is found by its similarity, and its distance taken by subtraction in float64: 2 - 2 cos loses half of
    the digits of a small distance. Similarities are those of the shared product in float32; where the neighbour turns
    out nearer than that can tell (0.05), they are computed again in float64. A feature that is all 0 has distance 1 to
    everything.

    Differs: k is the paper's 50 for CIFAR-10 (200 for CIFAR-100, 1000 for ImageNet); OpenOOD tunes it on OOD validation
    images. Exact search, without faiss; OpenOOD adds 1e-10 to every unit instead of to the norm. The paper also samples
    1% of ImageNet for its bank: `fraction=0.01` does, the same share of every class.
    """

    needs = frozenset({"features", "similarities"})
    grid = {"k": (1, 10, 50, 100, 200, 500, 1000)}
    k: int = 50

    def __post_init__(self) -> None:
        """Refuse neighbours that are none."""
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Nothing is learned; a bank smaller than k is refused."""
        require_neighbours(data, self.k, self.name)

    def score(self, batch: Batch) -> Tensor:
        """Distance to the k-th neighbour, from 0 to 2."""
        distances = self._distances(batch, batch.features, batch.similarities)
        if (close := distances < CLOSE).any():
            features = batch.features[close]
            distances[close] = self._distances(batch, features, batch.bank.similarities(features, torch.float64))
        return distances

    def _distances(self, batch: Batch, features: Tensor, similarities: Tensor) -> Tensor:
        neighbours = largest(similarities, self.k)[1][:, -1]
        distances: Tensor = torch.linalg.vector_norm(unit(features) - unit(batch.bank.features(neighbours)), dim=1)
        return distances
