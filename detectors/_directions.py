"""Features divided by a power of their norm, and the principal directions of vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from oodbench.benchmark import Batch, DataError
from oodbench.detectors._gaussian import CUTOFF, Eigen
from oodbench.detectors._rows import by_rows


@dataclass(frozen=True)
class Directions:
    """f / |f|^power of features f; a feature of zeros stays zero.

    Instances with the same power are equal, so that detectors share what `Batch.once` computes with them.
    """

    power: float = 1.0

    def __call__(self, part: Batch) -> Tensor:
        """The vectors of a batch, float64 (N, D)."""
        return self.of(part.features)

    def of(self, features: Tensor) -> Tensor:
        """The vectors of features (N, D), float64 (N, D)."""
        features = features.double()
        norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        return features / torch.where(norms > 0, norms, torch.ones_like(norms)) ** self.power

    def rounded(self, features: Tensor) -> Tensor:
        """The vectors of features (N, D), computed in float64 and rounded to the features' precision, (N, D)."""
        return by_rows(lambda rows: self.of(rows).to(rows.dtype), features)


class Principal(NamedTuple):
    """Eigenvalues and eigenvectors of a second moment, largest first."""

    values: Tensor
    """Float64 (D,)."""
    vectors: Tensor
    """Float64 (D, D), a direction in each column."""
    spanned: int
    """Number of directions with more than `CUTOFF` times the largest value."""

    def dim_of(self, ratio: float) -> int:
        """The smallest number of directions that hold this share of the sum of the values."""
        shares = self.values.clamp_min(0).cumsum(dim=0)
        return int((shares < ratio * shares[-1]).sum()) + 1


def principal(found: Eigen, size: float, who: str) -> Principal:
    """The principal directions of a second moment of vectors with lengths of about `size`.

    `found`: the moment's eigenvalues (D,), smallest first, and eigenvectors (D, D). Raises `DataError` if the vectors
    vary in fewer than two directions: no direction can then be left out. `who` is the detector's name, for the message.
    """
    values, vectors = found[0].flip(0), found[1].flip(1)
    varies = float(values[0]) > 1e-20 * size**2
    spanned = int((values > CUTOFF * values[0]).sum()) if varies else 0
    if spanned < 2:
        raise DataError(
            f"{who} leaves out directions in which the training features vary, and needs two of them; these features "
            f"vary in {spanned} of {len(values)}. Look at the network and its training."
        )
    return Principal(values, vectors, spanned)
