"""Density of the features under a mixture of one Gaussian per class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._gaussian import (
    CUTOFF,
    class_covariances,
    class_means,
    covariance,
    eigen,
    product,
    require_cutoff,
    whitening,
)


@detector(
    "gmm",
    title="Gaussian mixture (DDU)",
    paper="Mukhoti, Kirsch, van Amersfoort, Torr & Gal, Deep Deterministic Uncertainty: A New Simple "
    "Baseline, CVPR 2023",
    display_name="DDU",
    cite="mukhoti2023ddu",
)
class GMM(Detector):
    """-log sum_c pi_c N(f; mu_c, S_c), with share, mean and covariance of each class's training features.

    Features are first whitened by the within-class covariance S, which changes the score by a constant; directions with
    at most `cutoff` times its largest variance are dropped. A class's covariance C_c is singular if the class has fewer
    images than there are directions. S is therefore added with the weight of m = `pseudo_images` images: S_c = (n_c C_c
    + m S) / (n_c + m). The more images, the smaller its effect; with m = 0 every class must have more images than there
    are directions. A class without images is left out.

    Differs: the authors divide by n_c - 1, and add to every S_c the smallest multiple of the identity for which a
    Cholesky factorisation succeeds, which depends on rounding and on the features' unit; their code omits the shares
    pi_c. OpenOOD's `gmm` is another method, from SEM (Yang et al., 2022), and cannot be run through its API.
    """

    needs = frozenset({"features"})
    pseudo_images: float = 1.0
    cutoff: float = CUTOFF

    def __post_init__(self) -> None:
        """Check the ranges of both settings."""
        if not 0 <= self.pseudo_images < float("inf"):
            raise ValueError(f"pseudo_images must be 0 or positive and finite, got {self.pseudo_images}")
        require_cutoff(self.cutoff)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit each class's mean, and the inverse Cholesky factor and log determinant of its whitened covariance."""
        means, counts = data.train.once(class_means, classifier.num_classes)
        spread = data.train.once(covariance, means)
        self.transform_ = whitening(eigen(data.train, spread), means, self.cutoff, self.name).root
        means, labels = means @ self.transform_, counts.nonzero()[:, 0].tolist()
        rank, m = means.shape[1], self.pseudo_images
        identity = torch.eye(rank, dtype=torch.float64)
        if m == 0 and (small := [label for label in labels if counts[label] <= rank]):
            raise self._singular(small[0], int(counts[small[0]]), rank)
        spreads = class_covariances(data.train, means, counts, self._whitened)
        roots, constants = [], []
        for label, count in zip(labels, counts[labels].tolist(), strict=True):
            factor, info = torch.linalg.cholesky_ex((count * spreads[label] + m * identity) / (count + m))
            if info:
                raise self._singular(label, count, rank)
            roots.append(torch.linalg.solve_triangular(factor, identity, upper=False))
            constants.append(math.log(count / len(data.train)) - factor.diagonal().log().sum())
        self.means_, self.roots_, self.constants_ = means[labels], torch.stack(roots), torch.stack(constants)

    def _whitened(self, part: Batch) -> Tensor:
        """Whitened features, float64 (N, R)."""
        return product(part.features.double(), self.transform_)

    @staticmethod
    def _singular(label: int, count: int, rank: int) -> DataError:
        return DataError(
            f"Class {label} has {count} training images, which give no covariance in {rank} directions; set "
            "pseudo_images above 0 (the default is 1)."
        )

    def score(self, batch: Batch) -> Tensor:
        """Negative log density of the whitened features, up to a constant, in nats."""
        whitened = self._whitened(batch)
        logs = [
            constant - ((whitened - mean) @ root.T).square().sum(dim=1) / 2
            for mean, root, constant in zip(self.means_, self.roots_, self.constants_, strict=True)
        ]
        return -torch.logsumexp(torch.stack(logs, dim=1), dim=1)
