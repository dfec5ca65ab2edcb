"""Ranked activation shift: energy of a feature whose sorted activations are replaced by those of training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, FitData, detector
from oodbench.detectors._rectified import COUNTED, Rectified
from oodbench.detectors._rows import by_rows, sum_of_rows


def mean_profile(train: Batch) -> Tensor:
    """The mean over training images of their features in ascending order, float64 (D,)."""
    total = torch.zeros(1, dtype=torch.float64)
    for part in train.batches(COUNTED):
        total = total + sum_of_rows(torch.from_numpy(np.sort(part.features.numpy(), axis=1)))
    return total / len(train)


@detector(
    "rank_shift",
    title="RAS (ranked activation shift)",
    paper="Guglielmo & Masana, Ranked Activation Shift for Post-Hoc Out-of-Distribution Detection, ECCV 2026",
    display_name="RAS",
    cite="guglielmo2026ranked",
)
class RankShift(Rectified):
    """Energy of the head on c[rank of each unit]: c is the mean over training images of the ascending sorted feature.

    The smallest unit of an image becomes c_1, the largest c_D: which units are large is kept, how large they are is
    not. The score of a feature is therefore that of any increasing function of it. There is no setting. Features may
    have either sign, as those of ViT, Swin and ConvNeXt have.

    Units that are tied, such as those that a ReLU sets to 0, get the mean of c over the ranks that they share, so that
    the score does not depend on how a sort orders them.

    Differs: written from the paper's abstract and the authors' code (gigug/RAS); the text was not available. Their code
    orders tied units as `torch.sort` happens to. Without ties, the scores of both agree to float32.
    """

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head and the profile c."""
        super().fit(classifier, data)
        self.profile_ = data.train.once(mean_profile)

    def shaped(self, features: Tensor) -> Tensor:
        """The profile at the units' ranks, (N, D)."""
        profile = self.profile_.numpy()
        return by_rows(lambda rows: torch.from_numpy(_at_ranks(rows.numpy(), profile)), features)


def _at_ranks(rows: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """The profile (D,) at the ranks of each row's numbers, (N, D); its mean over shared ranks for equal numbers."""
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, axis=1)
    changes = ordered[:, 1:] != ordered[:, :-1]
    values = np.broadcast_to(profile, rows.shape)
    if not changes.all():
        places, ends = np.arange(rows.shape[1]), np.ones((len(rows), 1), dtype=bool)
        first = np.maximum.accumulate(np.where(np.concatenate([ends, changes], axis=1), places, 0), axis=1)
        last = np.where(np.concatenate([changes, ends], axis=1), places, places[-1])[:, ::-1]
        last = np.minimum.accumulate(last, axis=1)[:, ::-1]
        sums = np.concatenate([[0.0], np.cumsum(profile)])
        values = np.where(first == last, values, (sums[last + 1] - sums[first]) / (last + 1 - first))
    shaped = np.empty_like(rows)
    np.put_along_axis(shaped, order, values.astype(rows.dtype), axis=1)
    return shaped
