"""Kernel density estimation with a Gaussian kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, FitData, detector
from oodbench.detectors._one_class import OneClassBaseline, squared_distances

BANDWIDTHS = tuple(2 ** (k / 2) for k in range(1, 11))
"""Candidates of Ruff et al. 2018."""
FOLDS = 5
SCALES = tuple(2.0**k for k in range(-6, 4))
"""Candidates for features, whose unit is the network's, times the root of their mean variance."""


@detector(
    "kde",
    title="Kernel density",
    paper="Parzen, On Estimation of a Probability Density Function and Mode, Ann. Math. Statist. 33(3), 1962",
    display_name="KDE",
    cite="parzen1962density",
)
class KernelDensity(OneClassBaseline):
    """-log mean_i N(x; x_i, h^2 I): negative log density of Gaussians around the training images.

    Default of `bandwidth` h: the one of ten with the largest log likelihood of held-out training images, in five
    contiguous folds: 2^0.5, 2, ..., 2^5 on pixels; on features 2^-6 to 2^3 times their standard deviation, as their
    unit depends on the network. Authors: none; Ruff et al. 2018 choose it so on pixels. Default suite: not a part of
    'all'.

    Differs: pixels are in [0, 1], as in the code of Ruff et al. 2020, which takes all of them without principal
    components (`variance=1`); in 2018 they normalise contrast and scale. Their folds are of shuffled images. At most
    10,000 images are used. No OOD image is.
    """

    bandwidth: float | None = None
    vectors_: Tensor
    """Training vectors, float64 (N, R)."""
    bandwidth_: float

    def __post_init__(self) -> None:
        """Check the bandwidth."""
        super().__post_init__()
        if self.bandwidth is not None and not 0 < self.bandwidth < float("inf"):
            raise ValueError(f"bandwidth must be positive and finite, got {self.bandwidth}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Keep the training vectors, and choose the bandwidth if it is left to the rule."""
        self.vectors_ = self.fit_vectors(data)
        self.bandwidth_ = self.bandwidth or self._best()
        if self.bandwidth is None:
            self.chosen_ = {"bandwidth": self.bandwidth_}

    def _best(self) -> float:
        vectors = self.vectors_
        spread = math.sqrt(float(vectors.var(dim=0, correction=0).mean()))
        candidates = BANDWIDTHS if self.on == "pixels" else tuple(scale * spread for scale in SCALES)
        likelihoods = torch.zeros(len(candidates), dtype=torch.float64)
        folds = torch.arange(len(vectors)) * FOLDS // len(vectors)
        for fold in range(FOLDS):
            rest = vectors[folds != fold]
            for some in vectors[folds == fold].split(1024):
                distances = squared_distances(some, rest)
                for k, bandwidth in enumerate(candidates):
                    likelihoods[k] += log_density(distances, bandwidth, vectors.shape[1]).sum()
        return float(candidates[int(likelihoods.argmax())])

    def score(self, batch: Batch) -> Tensor:
        """Negative log density, in nats."""
        distances = squared_distances(self.reduced(batch), self.vectors_)
        return -log_density(distances, self.bandwidth_, self.vectors_.shape[1])


def log_density(distances: Tensor, bandwidth: float, dim: int) -> Tensor:
    """log mean_i N(x; x_i, h^2 I) in `dim` dimensions, from squared distances |x - x_i|^2, (N, M) -> (N,)."""
    constant = math.log(distances.shape[1]) + dim / 2 * math.log(2 * math.pi * bandwidth**2)
    logs: Tensor = torch.logsumexp(distances * (-0.5 / bandwidth**2), dim=1)
    return logs - constant
