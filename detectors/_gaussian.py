"""Means, covariances and whitening of features in float64, computed in pieces so that no split is held in memory.

Singular covariances are the rule: ReLU units that are never active have no variance, and there may be fewer images than
features. `whitening` is the square root of the pseudo-inverse: directions whose variance is at most `cutoff` times the
largest are dropped, and an image's components along them are ignored. The authors of the Mahalanobis detector get the
same from scikit-learn. Adding a multiple of the identity instead would make the score depend on the features' unit, and
would give directions without training variance more weight than all others together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from oodbench.benchmark import Batch, DataError
from oodbench.detectors._rows import add_by_label, sum_of_rows

BLOCK = 8192
SUMMED = 1024
"""Number of images summed at once: their float64 copy should fit into the processor's cache."""
PIECE = 256
"""Number of images that are converted to float64 at once."""
CUTOFF = 1e-10
"""Default share of the largest variance up to which a direction counts as constant. Rounding of float32 features alone
gives about 1e-14, and more if they were computed with TF32."""
PANEL, SLAB = 64, 128
"""Number of columns of a trapezoidal matrix, and of rows of a symmetric one, in one matrix product."""
SINGLE = 5e5
"""Largest condition number for which products are computed in float32. Rounding changes f - origin by about 2^-24 of
its length, and a squared distance by a relative error of up to 2^-23 sqrt(condition): 8.5e-5."""

Eigen: TypeAlias = tuple[Tensor, Tensor]


def features_of(part: Batch) -> Tensor:
    """The penultimate features, float64 (N, D)."""
    return part.features.double()


def _as_read(part: Batch) -> Tensor:
    """The penultimate features in their own precision, (N, D)."""
    return part.features


def class_means(train: Batch, classes: int, vectors: Callable[[Batch], Tensor] = _as_read) -> tuple[Tensor, Tensor]:
    """Mean feature (or other vector) and number of images of each class, float64 (K, D) and (K,); 0 without images."""
    counts, sums = torch.zeros(classes, dtype=torch.int64), torch.zeros(1)
    for part in train.batches(SUMMED):
        features = vectors(part)
        if sums.ndim == 1:
            sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
        add_by_label(sums, part.labels, features)
        counts += torch.bincount(part.labels, minlength=classes)
    return sums / counts.clamp_min(1)[:, None], counts


def mean_of(train: Batch, vectors: Callable[[Batch], Tensor] = _as_read) -> Tensor:
    """The mean feature (or other vector), float64 (D,)."""
    total = torch.zeros(1, dtype=torch.float64)
    for part in train.batches(SUMMED):  # a running sum: keeping the sums of all pieces would fragment the heap
        total = total + sum_of_rows(vectors(part))
    return total / len(train)


def centred_blocks(
    train: Batch, centres: Tensor, vectors: Callable[[Batch], Tensor] = features_of, most: int | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """Blocks of images, and their features (or other vectors) minus a centre, float64 (N, D).

    A block has at most `most` images, or `BLOCK`. `centres`: one, (D,), or one per class, (K, D). All blocks lie in the
    same memory, so use each before the next: to ask the system for memory of this size takes longer than to subtract.
    It is filled in pieces that stay in the cache.
    """
    most = most or BLOCK
    memory = torch.empty(min(most, len(train)), centres.shape[-1], dtype=torch.float64)
    for part in train.batches(most):
        done = 0
        for piece in part.batches(PIECE):
            centre = centres if centres.ndim == 1 else centres[piece.labels]
            torch.sub(vectors(piece), centre, out=memory[done : done + len(piece)])
            done += len(piece)
        yield part, memory[:done]


def covariance(train: Batch, centres: Tensor, vectors: Callable[[Batch], Tensor] = features_of) -> Tensor:
    """Mean outer product of features minus a centre, float64 (D, D). `centres`: one, (D,), or one per class, (K, D)."""
    total = torch.zeros(centres.shape[-1], centres.shape[-1], dtype=torch.float64)
    for _, centred in centred_blocks(train, centres, vectors, SUMMED):
        add_outer(total, centred)
    return mirrored(total) / len(train)


def add_outer(total: Tensor, rows: Tensor) -> None:
    """Add the sum of outer products of rows (N, D) to the upper triangle of a matrix (D, D), for half of the work."""
    for start in range(0, len(total), SLAB):
        columns = slice(start, start + SLAB)
        total[columns, start:].addmm_(rows[:, columns].T, rows[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle."""
    return total.triu() + total.triu(1).T


def class_covariances(train: Batch, means: Tensor, counts: Tensor, vectors: Callable[[Batch], Tensor]) -> Tensor:
    """For each class, the mean outer product of its vectors minus the class mean, float64 (K, D, D)."""
    totals = torch.zeros(*means.shape, means.shape[1], dtype=torch.float64)
    for part, centred in centred_blocks(train, means, vectors):
        for label in part.labels.unique().tolist():
            own = centred[part.labels == label]
            totals[label].addmm_(own.T, own)
    return totals / counts.clamp_min(1)[:, None, None]


class Whitening(NamedTuple):
    """An affine map of features, (f - origin) W, after which Mahalanobis distances are Euclidean."""

    origin: Tensor
    """A point near the features, float64 (D,), exactly representable in float32."""
    root: Tensor
    """W, float64 (D, R), lower trapezoidal: W W^T is the pseudo-inverse of a covariance of rank R."""
    condition: float
    """(Largest variance + largest squared distance of a centre from the origin) / smallest variance that is kept."""


def eigen(train: Batch, matrix: Tensor) -> Eigen:
    """Eigenvalues (D,), smallest first, and eigenvectors (D, D), in columns, of a second moment of training features.

    Computed once for all detectors that ask for those of the same matrix.
    """
    values, vectors = train.once(_eigen, matrix)
    return values, vectors


def _eigen(_: Batch, matrix: Tensor) -> Eigen:
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


def whitening(found: Eigen, centre: Tensor, cutoff: float, who: str) -> Whitening:
    """The whitening of a covariance around a centre, (D,), or several, (C, D).

    `found`: the covariance's eigenvalues (D,), smallest first, and eigenvectors (D, D). Raises `DataError` if nothing
    varies around the centre. `who` is the detector's name, for the message.
    """
    values, vectors = found
    largest = float(values[-1])
    if largest <= 1e-20 * max(float(centre.abs().max()) ** 2, 1e-280):
        raise DataError(
            f"The training features do not vary{' within classes' if centre.ndim > 1 else ''}, so that {who} has no "
            "covariance to measure with; look at the network, or give it more than one image a class."
        )
    kept = values > cutoff * largest
    origin = centre.reshape(-1, len(values)).mean(dim=0).float().double()
    spread = float((centre - origin).square().sum(dim=-1).max())
    root = trapezoidal(vectors[:, kept] / values[kept].sqrt())
    return Whitening(origin, root, (largest + spread) / float(values[kept][0]))


def trapezoidal(matrix: Tensor) -> Tensor:
    """A lower trapezoidal T, (D, R), with T T^T = M M^T: |x T| = |x M| for every x, for half of the work."""
    root: Tensor = torch.linalg.qr(matrix.T, mode="r").R.T.contiguous()  # without Q, which takes as long again
    return root


def product(x: Tensor, root: Tensor) -> Tensor:
    """x T, (N, R), of x (N, D) and a lower trapezoidal T (D, R), in x's precision; skips the zeros of T."""
    root = root.to(x.dtype)
    found = torch.empty(x.shape[0], root.shape[1], dtype=x.dtype)  # not len(x): torch.export would fix it
    for start in range(0, root.shape[1], PANEL):
        columns = slice(start, start + PANEL)
        torch.mm(x[:, start:], root[start:, columns], out=found[:, columns])
    return found


def nearest(x: Tensor, space: Whitening, centres: Tensor) -> Tensor:
    """min_c |(x - c) W|^2 of features (N, D) and whitened centres (C, R), (c - origin) W; float64 (N,).

    The nearest centre is found from the products with all centres; its distance is then computed by subtraction, which
    is more accurate.
    """
    single = x.dtype == torch.float32 and space.condition <= SINGLE
    kind = torch.float32 if single else torch.float64
    whitened, centres = product(x.to(kind) - space.origin.to(kind), space.root), centres.to(kind)
    closeness = torch.addmm(centres.square().sum(dim=1), whitened, centres.T, alpha=-2)
    away = whitened.sub_(centres[closeness.argmin(dim=1)])
    lengths: Tensor = torch.linalg.vector_norm(away, dim=1, dtype=torch.float64)
    return lengths.square_()


def squared_distances(x: Tensor, centres: Tensor, transform: Tensor) -> Tensor:
    """|(x - c) W|^2 of features (N, D) and centres (C, D), (N, C). Centred before the product to avoid cancellation."""
    origin = centres.mean(dim=0)
    a, b = (x.double() - origin) @ transform, (centres - origin) @ transform
    squares = torch.linalg.vector_norm(a, dim=1, keepdim=True).square() + (b * b).sum(dim=1)
    distances: Tensor = squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)
    return distances


def require_cutoff(cutoff: float) -> None:
    """Check that the cutoff is between 0 and 1."""
    if not 0 < cutoff < 1:
        raise ValueError(f"cutoff is a share of the largest variance and must lie between 0 and 1, got {cutoff}")
