"""Gram matrices of feature maps against the ranges that they had in training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector

TINY = 1e-6
"""A range's end counts as at least so large where it divides: ReLU units that are never active end at 0."""
TINY_MEAN = 1e-7
"""Likewise a layer's mean deviation."""
PIECE = 32
"""Images whose maps are in float64 at a time: the tenth power of an activation overflows float32 from 70 on."""


@detector(
    "gram",
    title="Gram matrices",
    paper="Sastry & Oore, Detecting Out-of-Distribution Examples with Gram Matrices, ICML 2020",
)
class Gram(Detector):
    """sum_l d_l(x) / mean_val(d_l): how far Gram matrices leave the range of the image's predicted class in training.

    F_l is block l's map as (C, HW), G_l^p = (F_l^p (F_l^p)^T)^(1/p) for p = 1 .. `powers`, v_lpi the sum of row i of
    F_l^p (F_l^p)^T, to the power 1/p with its sign. Lo and Hi are the least and largest v_lpi of training images
    predicted as the class that the image is predicted as. d_l sums over p and i: (Lo - v) / |Lo| below the range,
    (v - Hi) / |Hi| above it, 0 within; |Lo| and |Hi| count as at least 1e-6. mean_val(d_l) is the mean over ID
    validation images, at least 1e-7. A class that no training image is predicted as has the range of all of them.

    `powers` times the channels of all blocks are numbers an image, of which only one a block is stored: training
    images are observed in their own pass, and ranges are what is learned.

    Differs: the paper defines v by the matrix's entries and the authors' code sums rows, as here. They look at the maps
    of convolutions and blocks, here at what the backbone names as blocks. Their mean is over a tenth of the ID test
    images, drawn ten times and left out of scoring. They add 1e-6 to a range's end and 1e-7 to the mean, also where
    these are large, and compute in float32. OpenOOD's published row was made with code that has since been corrected.
    """

    needs = frozenset({"maps"})
    powers: int = 10

    def __post_init__(self) -> None:
        """Refuse no power at all."""
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
        """Each block's deviation, (N, L)."""
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
        return torch.stack(deviations, dim=1)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Each block's mean deviation on ID validation images."""
        self.means_ = data.validation.maps.double().mean(dim=0).clamp_min(TINY_MEAN)

    def score(self, batch: Batch) -> Tensor:
        """The deviations, each in units of its mean."""
        return (batch.maps.double() / self.means_).sum(dim=1)

    def _values(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Rows' sums of each block's Gram matrices of all powers, float32 (N, powers * C)."""
        return [torch.cat([self._row_sums(piece) for piece in block.split(PIECE)]) for block in maps]

    def _row_sums(self, block: Tensor) -> Tensor:
        whole = block.flatten(2).double()
        power, found = torch.ones_like(whole), []
        for p in range(1, self.powers + 1):
            power = power * whole
            sums = (power * power.sum(dim=1, keepdim=True)).sum(dim=2)  # row i: sum_j sum_x F_i^p F_j^p
            found.append(sums.sign() * sums.abs() ** (1 / p))
        return torch.cat(found, dim=1).float()
