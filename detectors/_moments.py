"""Mean and covariance of all training vectors, and second moments about other points that follow from them.

A second moment about a point p is the covariance plus (mean - p)(mean - p)^T, and the covariance of all images is that
within classes plus that of the class means: sums of matrices without negative eigenvalues, in which no digits cancel.
The other way, by subtraction, they would. So detectors with different origins, of classes and of all images, share one
product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from oodbench.benchmark import Batch
from oodbench.detectors._gaussian import PIECE, SUMMED, add_outer, class_means, covariance, features_of, mirrored


class Moments(NamedTuple):
    """Mean and covariance of the vectors of N images."""

    mean: Tensor
    """Float64 (D,)."""
    covariance: Tensor
    """Mean outer product of vectors minus the mean, float64 (D, D)."""

    def about(self, origin: Tensor) -> Tensor:
        """The mean outer product of vectors minus another point, (D,); float64 (D, D)."""
        return self.covariance + torch.outer(self.mean - origin, self.mean - origin)


def shared_moments(train: Batch, classes: int, *vectors: Callable[[Batch], Tensor]) -> Moments:
    """Mean and covariance of the features of all training images, or of other vectors.

    From class means and the covariance within classes, which other detectors read, where the images have labels. The
    means take another read, little beside the product.
    """
    if not train.labelled:
        return train.once(moments, *vectors)
    means, counts = train.once(class_means, classes, *vectors)
    return spread_of_all(train.once(covariance, means, *vectors), means, counts)


def moments(train: Batch, vectors: Callable[[Batch], Tensor] = features_of) -> Moments:
    """Mean and covariance of features, or other vectors, in one read.

    A block is centred at its own mean. Two sets of a and b images with means apart by d are together spread by the sum
    of both outer products and ab / (a + b) times that of d; the last is one more row of the block.
    """
    count, mean, total, memory = 0, torch.empty(0), torch.empty(0), torch.empty(0)
    for part in train.batches(SUMMED):
        done = 1  # the first row is for the distance of the means
        for piece in part.batches(PIECE):
            found = vectors(piece)
            if not len(memory):
                width = found.shape[1]
                memory = torch.empty(min(SUMMED, len(train)) + 1, width, dtype=torch.float64)
                mean, total = torch.zeros(width).double(), torch.zeros(width, width).double()
            memory[done : done + len(piece)] = found
            done += len(piece)
        block, size = memory[1:done], len(part)
        centre = block.mean(dim=0)
        block -= centre
        away = centre - mean
        memory[0] = away * (count * size / (count + size)) ** 0.5
        add_outer(total, memory[:done])
        mean += away * (size / (count + size))
        count += size
    return Moments(mean, mirrored(total) / count)


def spread_of_all(within: Tensor, means: Tensor, counts: Tensor) -> Moments:
    """Moments of all images, from the covariance within classes (D, D), class means (K, D) and class sizes (K,)."""
    shares = counts.double() / counts.sum()
    mean = shares @ means
    between = within.clone()
    add_outer(between, (means - mean) * shares.sqrt()[:, None])
    return Moments(mean, mirrored(between))
