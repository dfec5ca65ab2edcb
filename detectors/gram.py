"""Gram matrices of feature maps, compared with their ranges in training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector

TINY = 1e-6
"""Smallest denominator for the ends of a range, which are 0 for ReLU units that are never active."""
TINY_MEAN = 1e-7
"""Smallest denominator for a block's mean deviation."""
PIECE = 32
"""Number of images whose maps are held in float64 at once. In float32, products of tenth powers of activations overflow
from about 70 on."""


@detector(
    "gram",
    title="Gram matrices",
    paper="Sastry & Oore, Detecting Out-of-Distribution Examples with Gram Matrices, ICML 2020",
    display_name="Gram",
    cite="sastry2020gram",
)
class Gram(Detector):
    """sum_l d_l(x) / mean_val(d_l): how far Gram matrices leave their training range for the predicted class.

    F_l is the map of block l as a matrix (C, HW), and v_lpi, for p = 1 .. `powers`, is the sum of row i of F_l^p
    (F_l^p)^T (powers are elementwise), to the power 1/p with its sign. Lo and Hi are the smallest and largest v_lpi of
    the training images with the same predicted class. d_l is a sum over p and i: (Lo - v) / |Lo| below the range,
    (v - Hi) / |Hi| above it, 0 within; |Lo| and |Hi| count as at least 1e-6. mean_val(d_l) is the mean over ID
    validation images, at least 1e-7. A class that is predicted for no training image gets the range of all of them.

    With `by_softmax`, every d_l is divided by the image's largest softmax. The authors' code does so; the paper does
    not say it.

    An image has as many v as `powers` times the channels of all blocks, but only one number per block is stored: the
    ranges are learned in the pass over the training images (`observe`).

    Differs: the paper defines v by the entries of the matrix; the authors' code sums rows, as here. They use the maps
    of convolutions and blocks; here the backbone names the blocks. Their mean is over a tenth of the ID test images,
    drawn ten times and left out of scoring. They add 1e-6 to the ends of a range and 1e-7 to the mean even if these are
    large, and compute in float32. OpenOOD's published row is from code that has since been corrected.
    """

    needs = frozenset({"maps"})
    powers: int = 10
    by_softmax: bool = False

    def __post_init__(self) -> None:
        """Check that there is at least one power."""
        if self.powers < 1:
            raise ValueError(f"powers must be at least 1, got {self.powers}")

    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Widen the ranges of the predicted classes."""
        values, predicted = torch.cat(self._values(maps), dim=1), logits.argmax(dim=1)
        if "low_" not in self.__dict__:
            everything = values.new_full((logits.shape[1], values.shape[1]), torch.inf)
            self.low_, self.high_ = everything, -everything
        for k in predicted.unique():
            own = values[predicted == k]
            self.low_[k] = torch.minimum(self.low_[k], own.amin(dim=0))
            self.high_[k] = torch.maximum(self.high_[k], own.amax(dim=0))

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        """The deviation d_l of each of L blocks, (N, L)."""
        predicted = logits.argmax(dim=1).to(self.low_.device)
        unseen = self.low_[predicted, :1] > self.high_[predicted, :1]
        low = torch.where(unseen, self.low_.amin(dim=0), self.low_[predicted]).to(logits.device).double()
        high = torch.where(unseen, self.high_.amax(dim=0), self.high_[predicted]).to(logits.device).double()
        deviations, start = [], 0
        for values in self._values(maps):
            columns = slice(start, start + values.shape[1])
            lo, hi, v = low[:, columns], high[:, columns], values.double()
            below, above = (lo - v).clamp_min(0) / lo.abs().clamp_min(TINY), (v - hi).clamp_min(0)
            deviations.append((below + above / hi.abs().clamp_min(TINY)).sum(dim=1))
            start = columns.stop
        found = torch.stack(deviations, dim=1)
        return found / logits.double().softmax(dim=1).amax(dim=1, keepdim=True) if self.by_softmax else found

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Average each block's deviation over the ID validation images."""
        self.means_ = data.validation.maps.double().mean(dim=0).clamp_min(TINY_MEAN)

    def score(self, batch: Batch) -> Tensor:
        """Sum of the deviations, each divided by its mean."""
        return (batch.maps.double() / self.means_).sum(dim=1)

    def _values(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Row sums of the Gram matrices of all powers, for each block: float32 (N, powers * C)."""
        return [torch.cat([self._row_sums(piece) for piece in block.split(PIECE)]) for block in maps]

    def _row_sums(self, block: Tensor) -> Tensor:
        whole = block.flatten(2).double()
        power, found = torch.ones_like(whole), []
        for p in range(1, self.powers + 1):
            power = power * whole
            sums = (power * power.sum(dim=1, keepdim=True)).sum(dim=2)  # row i: sum_j sum_x F_i^p F_j^p
            found.append(sums.sign() * sums.abs() ** (1 / p))
        return torch.cat(found, dim=1).float()
