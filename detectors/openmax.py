"""OpenMax: logits revised by the extreme-value statistics of distances to class means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import BLOCK
from oodbench.detectors._rules import tail_of


def weibull_of(values: np.ndarray) -> tuple[float, float]:
    """Maximum-likelihood shape and scale of a two-parameter Weibull distribution; `values` positive and not all equal.

    The shape k is the root of sum x^k log x / sum x^k - 1/k - mean log x, which increases with k; the scale follows.
    """
    from scipy.optimize import brentq  # imported late: it takes half a second, and every run imports this file

    logs = np.log(values / values.max())

    def slope(shape: float) -> float:
        powers = np.exp(shape * logs)
        return float((powers @ logs) / powers.sum() - 1 / shape - logs.mean())

    low = high = 1 / logs.std()
    while slope(low) > 0:
        low /= 2
    while slope(high) < 0:
        high *= 2
    shape = float(brentq(slope, low, high, xtol=1e-12, rtol=1e-13)) if low < high else low
    return shape, float(values.max() * np.exp(shape * logs).mean() ** (1 / shape))


@detector(
    "openmax",
    title="OpenMax",
    paper="Bendale & Boult, Towards Open Set Deep Networks, CVPR 2016, algorithms 1 and 2",
    display_name="OpenMax",
    cite="bendale2016openmax",
)
class OpenMax(Detector):
    """The log odds of the additional class 'unknown' after OpenMax has revised the logits v.

        v'_c = v_c (1 - w_c F_c(|v - mu_c|)),   v'_unknown = sum_c (v_c - v'_c),   w = (alpha + 1 - rank) / alpha

    mu_c is the mean logit vector of the correctly classified training images of class c. F_c is the Weibull
    distribution of the `tail` largest distances of these images from mu_c, shifted so that the smallest is `shift`.
    Only the `alpha` largest logits are revised. `output="unknown"`: log p_unknown / (1 - p_unknown);
    `output="known"`: log (1 - p) / p for the largest known p. The AUROC of the two can differ by several points.

    `shift` is 1 in PyPI's libmr, which OpenOOD uses, and 10,000 in the library of the authors' own code.

    A class with fewer than two different distances (two images have the same distance from their mean) has no F_c, and
    its logit is never revised.

    Default of `tail`: a twentieth of the class's correctly classified training images, from 3 to 20. Authors: 20 of up
    to 1,300 images. Default suite: 5 of about 115 images, 6 of 130.

    Differs: the likelihood is maximised exactly, without libmr. Distances are Euclidean, as in OpenOOD; the authors'
    code uses |v - mu| / 200 plus the cosine distance, for the logits of its network, and the shift makes the fit
    depend on that unit. alpha is the paper's 10; OpenOOD has 3. The weight w is that of the authors' code: as printed,
    algorithm 2 has the survival function instead of F.
    """

    grid = {"tail": (None, 5, 10, 20, 40), "alpha": (3, 10)}
    tail: int | None = None
    alpha: int = 10
    output: str = "unknown"
    shift: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings: a tail needs two values for two parameters."""
        if (self.tail is not None and self.tail < 2) or self.alpha < 1:
            raise ValueError(
                f"tail must be at least 2, or none for the default's rule, and alpha at least 1, got {self.tail} and "
                f"{self.alpha}"
            )
        if self.output not in ("unknown", "known"):
            raise ValueError(f"output must be 'unknown' or 'known', got {self.output!r}")
        if not 0 < self.shift < float("inf"):
            raise ValueError(f"shift must be positive and finite, got {self.shift}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit means and Weibull tails on the correctly classified training images."""
        classes = classifier.num_classes
        sums, counts = torch.zeros(classes, classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.int64)
        for logits, labels in _correct(data.train):
            sums.index_add_(0, labels, logits)
            counts += torch.bincount(labels, minlength=classes)
        self.means_ = sums / counts.clamp_min(1)[:, None]
        shift, shape, scale = torch.tensor([[0.0], [1.0], [np.inf]], dtype=torch.float64).repeat(1, classes)
        sizes = [self.tail or tail_of(count) for count in counts.tolist()]
        if self.tail is None:
            self.chosen_ = {"tail": sorted({size for size, count in zip(sizes, counts, strict=True) if count})}
        for label, largest in enumerate(self._tails(data.train, sizes)):
            if len(largest) and np.ptp(largest) > 1e-12 * max(largest[-1], self.shift):
                shift[label] = largest[0] - self.shift
                shape[label], scale[label] = weibull_of(largest - largest[0] + self.shift)
        if torch.isinf(scale).all():
            raise DataError(
                "OpenMax needs a class with three correctly classified training images, at different distances from "
                f"their mean; of {len(data.train)} images {int(counts.sum())} are classified correctly."
            )
        self.weibulls_ = torch.stack([shift, shape, scale])

    def _tails(self, train: Batch, sizes: Sequence[int]) -> list[np.ndarray]:
        """Each class's largest distances from its mean, ascending: `sizes`, fewer if it has fewer images."""
        tails = [np.empty(0) for _ in self.means_]
        for logits, labels in _correct(train):
            distances = (logits - self.means_[labels]).norm(dim=1)
            for label in labels.unique().tolist():
                both = np.concatenate([tails[label], distances[labels == label].numpy()])
                tails[label] = np.sort(both)[-sizes[label] :]
        return tails

    def score(self, batch: Batch) -> Tensor:
        """Log odds of 'unknown', or log odds against the most likely known class."""
        logits = batch.logits
        shift, shape, scale = self.weibulls_
        distances = torch.cdist(logits, self.means_, compute_mode="donot_use_mm_for_euclid_dist")
        tails = -torch.expm1(-(((distances - shift).clamp_min(0) / scale) ** shape))
        alpha = min(self.alpha, logits.shape[1])
        ranked = logits.argsort(dim=1, descending=True, stable=True)[:, :alpha]
        falling = torch.arange(alpha, 0, -1, dtype=torch.float64) / alpha
        taken = logits * tails * torch.zeros_like(logits).scatter(1, ranked, falling.expand(len(logits), -1))
        known, unknown = logits - taken, taken.sum(dim=1, keepdim=True)
        if self.output == "unknown":
            return unknown[:, 0] - torch.logsumexp(known, dim=1)
        best, place = known.max(dim=1, keepdim=True)
        others = torch.cat([known.scatter(1, place, -torch.inf), unknown], dim=1)
        return torch.logsumexp(others, dim=1) - best[:, 0]


def _correct(train: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels of the correctly classified images, in pieces."""
    for part in train.batches(BLOCK):
        right = part.logits.argmax(dim=1) == part.labels
        yield part.logits[right], part.labels[right]
