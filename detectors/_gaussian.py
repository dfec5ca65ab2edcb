"""Means, covariances and whitening of features, in float64 and in pieces, so that no split is held in memory.

Singular covariances are the rule: ReLU units that are never active have no variance, and there may be fewer images than
features. `whitening` is the square root of the pseudo-inverse: directions whose variance is at most `cutoff` times the
largest are left out, and what an image does there is not seen. This is what the authors of the Mahalanobis detector get
from scikit-learn; adding a multiple of the identity instead would make the score depend on the features' unit, and
would weight the directions that training says nothing about more than all others together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from oodbench.benchmark import Batch, DataError

BLOCK = 8192
CUTOFF = 1e-10
"""Default share of the largest variance up to which a direction counts as constant: float32 features leave about 1e-14
by rounding alone, and more where they were computed with TF32."""


def features_of(part: Batch) -> Tensor:
    """The penultimate features, float64 (N, D)."""
    return part.features.double()


def class_means(train: Batch, classes: int, vectors: Callable[[Batch], Tensor] = features_of) -> tuple[Tensor, Tensor]:
    """Each class's mean feature, or other vector, float64 (K, D), and number of images, (K,); 0 for one without."""
    counts, sums = torch.zeros(classes, dtype=torch.int64), torch.zeros(1)
    for part in train.batches(BLOCK):
        features = vectors(part)
        if sums.ndim == 1:
            sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
        sums.index_add_(0, part.labels, features)
        counts += torch.bincount(part.labels, minlength=classes)
    return sums / counts.clamp_min(1)[:, None], counts


def mean_of(train: Batch) -> Tensor:
    """The mean feature, float64 (D,)."""
    sums = [part.features.double().sum(dim=0) for part in train.batches(BLOCK)]
    return torch.stack(sums).sum(dim=0) / len(train)


def covariance(train: Batch, centres: Tensor, vectors: Callable[[Batch], Tensor] = features_of) -> Tensor:
    """Mean outer product of features minus their centre, float64 (D, D): one centre, (D,), or one a class, (K, D)."""
    total = torch.zeros(centres.shape[-1], centres.shape[-1], dtype=torch.float64)
    for part in train.batches(BLOCK):
        centred = vectors(part) - (centres if centres.ndim == 1 else centres[part.labels])
        total += centred.T @ centred
    return total / len(train)


def whitening(matrix: Tensor, centre: Tensor, cutoff: float, who: str) -> Tensor:
    """W (D, R) with W W^T the pseudo-inverse of a covariance of rank R; an error if nothing varies around `centre`."""
    values, vectors = torch.linalg.eigh(matrix)
    largest = float(values[-1])
    if largest <= 1e-20 * max(float(centre.abs().max()) ** 2, 1e-280):
        raise DataError(
            f"The training features do not vary{' within classes' if centre.ndim > 1 else ''}, so that {who} has no "
            "covariance to measure with; look at the network, or give it more than one image a class."
        )
    kept = values > cutoff * largest
    root: Tensor = vectors[:, kept] / values[kept].sqrt()
    return root


def squared_distances(x: Tensor, centres: Tensor, transform: Tensor) -> Tensor:
    """|(x - c) W|^2 of features (N, D) and centres (C, D), (N, C); centred before the product, against cancellation."""
    origin = centres.mean(dim=0)
    a, b = (x.double() - origin) @ transform, (centres - origin) @ transform
    squares = torch.linalg.vector_norm(a, dim=1, keepdim=True).square() + (b * b).sum(dim=1)
    distances: Tensor = squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)
    return distances


def require_cutoff(cutoff: float) -> None:
    """Refuse cut-offs that keep nothing or that keep rounding."""
    if not 0 < cutoff < 1:
        raise ValueError(f"cutoff is a share of the largest variance and must lie between 0 and 1, got {cutoff}")
