"""WeiPer+KLD: densities of a feature and of its logits under perturbed heads, compared with those in training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import SUMMED
from oodbench.detectors._head import head
from oodbench.detectors._rules import repeats_of
from oodbench.detectors._spaced import blocks_with, spaced

ADDED, ADDED_PERTURBED = 0.01, 0.025
"""What is added to each bin of a density of features and of perturbed logits, as in the authors' code."""
VALUES = 1 << 21
"""Number of weights of perturbed heads in float64 at once, and about that of their logits: 16 MB."""


@detector(
    "weiper",
    title="WeiPer+KLD",
    paper="Granz, Heurich & Landgraf, WeiPer: OOD Detection using Weight Perturbations of Class Projections, NeurIPS "
    "2024",
    display_name="WeiPer+KLD",
    cite="granz2024weiper",
)
class WeiPer(Detector):
    """D(q, p) + lambda_1 D(q~, p~) - lambda_2 mean_j max_k softmax_k(W~_j f + b), D(q, p) = KL(q || p) + KL(p || q).

    q is the histogram of the image's D features, and q~ that of its logits under `repeats` perturbed heads W~_j, K
    logits each: row k of W~_j is w_k + delta |w_k| n / |n|, with n drawn from a normal distribution
    (`perturbation_seed`). p and p~ are the means of these over training images. Histograms have `bins` equal bins from
    the smallest to the largest value in training, of all units or logits; values outside are in none, but count in the
    total. q and q~ are averaged over windows of `smoothing` and `smoothing_perturbed` bins, p and p~ are not. 0.01 is
    added to each bin of p and q, 0.025 to those of p~ and q~, and they are normalised. Features may have either sign.

    Default of `repeats`: the authors' from 10 classes on; below, as many as give 1000 logits. Authors: 100, for 10 to
    1000 classes. Default suite: 100.

    The window stays 4 bins where an image has few features: p is not averaged, and q averaged over a wider window
    differs from it whatever the image. On 128 features the method is weak: AUROC on `digits`, seed 0, near 56 and far
    92 (`msp` 87 and 89), and with windows of 16 bins 36 and 30.

    Perturbed heads are stored in float32, 0.8 GB for 2048 features and 1000 classes, where an image takes 0.4 billion
    multiplications, and one of the `images` twice as many: choose fewer there. Logits are float64, so that no value
    changes its bin with the block that an image is in.

    Differs: p, p~ and the ranges are those of at most `images` training images, equally spaced; the authors use all.
    Their script passes the perturbed heads under a name that its function ignores, so that every batch draws new ones.
    With one n for all, their functions give our order on the same arrays (Spearman above 0.9999; 0.993 with new draws).
    """

    needs = frozenset({"features", "head"})
    grid = {"lambda_1": (0.1, 1.0, 2.5, 4.0), "lambda_2": (0.1, 1.0, 5.0), "repeats": (None, 50, 100, 500)}
    lambda_1: float = 2.5
    lambda_2: float = 0.1
    delta: float = 1.8
    repeats: int | None = None
    bins: int = 100
    smoothing: int = 4
    smoothing_perturbed: int = 15
    images: int = 50_000
    perturbation_seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("lambda_1", "lambda_2", "delta"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative and must be finite, got {getattr(self, name)}")
        for name in ("repeats", "bins", "smoothing", "smoothing_perturbed", "images"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Draw the perturbed heads, and average the densities of training images. Raises `DataError` if none vary."""
        weight, self.bias_ = head(classifier)
        repeats = self.repeats or repeats_of(len(weight))
        if self.repeats is None:
            self.chosen_ = {"repeats": repeats}
        self.heads_ = self._perturbed(weight, repeats)
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for place, values in self._training_values(data.train):
            low[place], high[place] = min(low[place], values.min()), max(high[place], values.max())
        for place, what in enumerate(("features", "perturbed logits")):
            if not high[place] > low[place]:
                raise DataError(
                    f"WeiPer compares histograms of the {what} of images, which are all {low[place]:.3g} in training; "
                    "look at the network and its training."
                )
        self.low_, self.high_ = low.tolist(), high.tolist()
        totals, counts = np.zeros((2, self.bins)), np.zeros(2)
        for place, values in self._training_values(data.train):
            totals[place] += self._histograms(values.reshape(1, -1), place)[0]
            counts[place] += values.size
        self.densities_ = torch.from_numpy(totals / counts[:, None])

    def score(self, batch: Batch) -> Tensor:
        """The weighted sum of both divergences and the negative mean confidence."""
        return torch.cat([self._score(rows.double()) for rows in batch.features.split(SUMMED)])

    def _score(self, features: Tensor) -> Tensor:
        """Of features (N, D), float64: float64 (N,)."""
        counts = np.zeros((len(features), self.bins))
        confidence = torch.zeros(len(features), dtype=torch.float64)
        for logits in self._logits(features):
            counts += self._histograms(logits.flatten(1).numpy(), 1)
            shifted = logits - logits.amax(dim=2, keepdim=True)
            confidence += (1 / shifted.exp_().sum(dim=2)).sum(dim=1)
        own = torch.from_numpy(self._histograms(features.numpy(), 0)) / features.shape[1]
        perturbed = torch.from_numpy(counts) / (self.heads_.shape[0] * self.heads_.shape[1])
        apart = divergence(smoothed(own, self.smoothing), self.densities_[0], ADDED)
        apart_perturbed = divergence(smoothed(perturbed, self.smoothing_perturbed), self.densities_[1], ADDED_PERTURBED)
        return apart + self.lambda_1 * apart_perturbed - self.lambda_2 * confidence / len(self.heads_)

    def _perturbed(self, weight: Tensor, repeats: int) -> Tensor:
        """The perturbed heads of a weight (K, D): float32 (R, K, D)."""
        random, lengths = torch.Generator().manual_seed(self.perturbation_seed), weight.norm(dim=1, keepdim=True)
        heads = torch.empty(repeats, *weight.shape)
        for own in heads:
            noise = torch.randn(weight.shape, generator=random, dtype=torch.float64)
            own.copy_(weight + self.delta * lengths * noise / noise.norm(dim=1, keepdim=True))
        return heads

    def _logits(self, features: Tensor) -> Iterator[Tensor]:
        """Logits of features (N, D), float64, under some heads at a time: float64 (N, R', K)."""
        _, classes, units = self.heads_.shape
        for heads in self.heads_.split(max(1, VALUES // (classes * max(units, len(features))))):
            yield (features @ heads.flatten(0, 1).double().T).view(len(features), -1, classes) + self.bias_

    def _training_values(self, train: Batch) -> Iterator[tuple[int, np.ndarray]]:
        """Features, 0, and perturbed logits, 1, of the training images that are used, in pieces."""
        for part, own in blocks_with(train, torch.from_numpy(spaced(len(train), self.images)), SUMMED):
            used = part.features[own].double()
            yield 0, used.numpy()
            yield from ((1, logits.numpy()) for logits in self._logits(used))

    def _histograms(self, values: np.ndarray, place: int) -> np.ndarray:
        """Number of values of each row of (N, M) in each bin of features, 0, or perturbed logits, 1: (N, bins)."""
        low, high = self.low_[place], self.high_[place]
        places = np.floor((values - low) * (self.bins / (high - low))).clip(
            0, self.bins - 1
        )  # the largest: in the last
        places[(values < low) | (values > high)] = self.bins  # in none
        flat = places.astype(np.int64) + np.arange(len(values))[:, None] * (self.bins + 1)
        counts = np.bincount(flat.ravel(), minlength=len(values) * (self.bins + 1))
        return counts.reshape(len(values), self.bins + 1)[:, : self.bins]


def smoothed(densities: Tensor, window: int) -> Tensor:
    """Densities (N, bins) averaged over windows of bins, the first and the last bin repeated beyond the ends.

    A window of even length reaches one bin further up than down, as PyTorch's padding "same" does.
    """
    before = (window - 1) // 2
    first, last = densities[:, :1], densities[:, -1:]
    whole = torch.cat([first.expand(-1, before), densities, last.expand(-1, window - 1 - before)], dim=1)
    return whole.unfold(1, window, 1).mean(dim=2)


def divergence(densities: Tensor, reference: Tensor, added: float) -> Tensor:
    """KL(q || p) + KL(p || q) of densities q (N, bins) and p (bins,), each plus a constant and normalised; (N,)."""
    q, p = densities + added, reference + added
    q, p = q / q.sum(dim=1, keepdim=True), p / p.sum()
    return ((q - p) * (q.log() - p.log())).sum(dim=1)
