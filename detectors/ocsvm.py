"""The one-class SVM with a Gaussian kernel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, FitData, detector
from oodbench.detectors._one_class import OneClassBaseline, squared_distances


@detector(
    "ocsvm",
    title="One-class SVM",
    paper="Scholkopf, Platt, Shawe-Taylor, Smola & Williamson, Estimating the Support of a High-Dimensional "
    "Distribution, Neural Computation 13(7), 2001",
    display_name="OC-SVM",
    cite="scholkopf2001support",
)
class OneClassSVM(OneClassBaseline):
    """rho - sum_i a_i exp(-gamma |x - x_i|^2): how far outside of the region of the training images.

    scikit-learn finds the weights a_i of the support vectors x_i. `nu` is an upper bound of the share of training
    images outside of the region, and a lower bound of that of support vectors.

    Default of `gamma`: 1 / (R V), with R the number of components of the vectors x and V the variance over all of them,
    scikit-learn's "scale". Authors: none; Ruff et al. choose it by test AUROC. Default suite: not a part of 'all'.

    Differs: Ruff et al. print the best of a grid of `gamma` by test AUROC on a tenth of the test images: in 2018 from
    2^-10 to 2^-1, and the better of `nu` 0.01 and 0.1; in their code of 2020 from 2^-7 to 2^2 with `nu` 0.1, on all
    pixels without principal components (`variance=1`). Here nothing is chosen by OOD test images, and `gamma` and `nu`
    can be chosen on held-out images (`--protocol`). At most 10,000 images are used, because the time grows with their
    square.
    """

    grid = {"gamma": (None, *(2.0**k for k in range(-10, 0))), "nu": (0.01, 0.1)}
    nu: float = 0.1
    gamma: float | None = None
    vectors_: Tensor
    """Support vectors, float64 (M, R)."""
    weights_: Tensor
    """Their weights, float64 (M,)."""
    gamma_: float
    offset_: float
    """rho."""

    def __post_init__(self) -> None:
        """Check both settings."""
        super().__post_init__()
        if not 0 < self.nu <= 1:
            raise ValueError(f"nu must lie above 0 and at most at 1, got {self.nu}")
        if self.gamma is not None and not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma must be positive and finite, got {self.gamma}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Solve the dual problem of the training vectors."""
        from sklearn import svm

        vectors = self.fit_vectors(data)
        self.gamma_ = self.gamma or 1 / float(vectors.shape[1] * vectors.numpy().var())
        if self.gamma is None:
            self.chosen_ = {"gamma": self.gamma_}
        solved = svm.OneClassSVM(nu=self.nu, gamma=self.gamma_).fit(vectors.numpy())
        self.vectors_ = torch.from_numpy(np.array(solved.support_vectors_))
        self.weights_ = torch.from_numpy(np.array(solved.dual_coef_[0]))
        self.offset_ = -float(solved.intercept_[0])

    def score(self, batch: Batch) -> Tensor:
        """Negative decision function, float64."""
        kernel = squared_distances(self.reduced(batch), self.vectors_).mul_(-self.gamma_).exp_()
        return self.offset_ - kernel @ self.weights_
