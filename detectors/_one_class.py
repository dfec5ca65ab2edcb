"""The vectors that classical one-class methods work on: pixels, reduced by principal components, or features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, DataError, Detector, FitData
from oodbench.detectors._gaussian import covariance, features_of, mean_of
from oodbench.detectors._rows import gathered
from oodbench.detectors._spaced import blocks_with

PIXELS, FEATURES = "pixels", "features"
REDUCED = 0.95
"""Share of the variance that principal components keep of pixels, as in Ruff et al. 2018."""


def pixels_of(part: Batch) -> Tensor:
    """The pixels of each image as a vector, float64 (N, C H W), on the CPU."""
    return part.images.cpu().double().flatten(1)


class OneClassBaseline(Detector):
    """Base class of methods that model ID images as one class of vectors.

    `on` is "features", the network's, or "pixels", which need no network. `variance` is the share of the variance that
    principal components keep; by default 0.95 for pixels and all of it, without components, for features. At most
    `images` training images are used, evenly spaced in stored order.
    """

    needs = frozenset({"features"})
    in_all = False
    on: str = FEATURES
    variance: float | None = None
    images: int = 10_000
    mean_: Tensor
    """Mean of the training vectors, float64 (D,)."""
    components_: Tensor
    """Principal components, float64 (D, R), orthonormal columns; the identity is left out, as (D, 0)."""

    def __post_init__(self) -> None:
        """Check the settings; the inputs follow from `on`."""
        if self.on not in (PIXELS, FEATURES):
            raise ValueError(f"on must be {PIXELS} or {FEATURES}, got '{self.on}'")
        if self.variance is not None and not 0 < self.variance <= 1:
            raise ValueError(f"variance is a share and must lie above 0 and at most at 1, got {self.variance}")
        if self.images < 2:
            raise ValueError(f"images must be 2 or more, got {self.images}")
        if self.on == PIXELS:
            self.__dict__["needs"] = frozenset({"images"})

    @property
    def vectors(self) -> Callable[[Batch], Tensor]:
        """Reads the vectors of a batch, float64 (N, D)."""
        return pixels_of if self.on == PIXELS else features_of

    def fit_vectors(self, data: FitData) -> Tensor:
        """The reduced training vectors, float64 (N, R); learns how to reduce.

        Raises `DataError` for fewer than two images, or images that are all the same.
        """
        kept = REDUCED if self.variance is None and self.on == PIXELS else self.variance or 1.0
        self.mean_ = mean_of(data.train, self.vectors)
        self.components_ = torch.empty(len(self.mean_), 0, dtype=torch.float64)
        if kept < 1:
            self.components_ = principal(covariance(data.train, self.mean_, self.vectors), kept)
        count = len(data.train)
        chosen = torch.arange(min(self.images, count)) * count // min(self.images, count)
        blocks = ((self.reduced(part)[own],) for part, own in blocks_with(data.train, chosen, 1024))
        (vectors,) = gathered(len(chosen), blocks)
        if len(vectors) < 2 or not bool((vectors != vectors[0]).any()):
            count = len(vectors)
            raise DataError(f"{self.name} needs training images that differ, in {self.on}; all {count} are alike.")
        return vectors

    def reduced(self, part: Batch) -> Tensor:
        """Centred vectors, or their principal components, float64 (N, R)."""
        centred = self.vectors(part) - self.mean_
        return centred @ self.components_ if self.components_.shape[1] else centred


def principal(matrix: Tensor, share: float) -> Tensor:
    """The fewest principal components that keep a share of the variance of a covariance (D, D), as columns, (D, R).

    The largest entry of each is positive, because the sign of an eigenvector is arbitrary.
    """
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    kept = int((values.cumsum(0) < share * values.sum()).sum()) + 1
    chosen = vectors[:, :kept]
    largest = chosen.gather(0, chosen.abs().argmax(dim=0, keepdim=True))
    signed: Tensor = chosen * torch.where(largest < 0, -1.0, 1.0)
    return signed


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|^2 of vectors (N, R) and (M, R) in float64, (N, M)."""
    lengths = x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1)
    return lengths.addmm_(x, y.T, alpha=-2).clamp_min_(0)


def seeded() -> int:
    """A seed for scikit-learn from torch's random numbers, which a run seeds."""
    return int(torch.randint(0, int(np.iinfo(np.int32).max), ()))
