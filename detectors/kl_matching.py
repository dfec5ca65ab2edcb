"""KL matching: divergence from the mean softmax of a class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector


@detector(
    "kl_matching",
    title="KL matching",
    paper="Hendrycks et al., Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022",
    display_name="KL matching",
    cite="hendrycks2022scaling",
)
class KLMatching(Detector):
    """min_k KL(p || d_k), where d_k is the mean softmax of the validation images that are predicted as class k.

    A class that is predicted for no validation image has no d_k and is left out of the minimum. d_k is stored as a
    logarithm, so that it is never 0. The score itself saturates by definition: for a softmax that is one-hot to 16
    digits it is -log d_k(k), a constant of the class.

    Differs: one matrix product, where OpenOOD calls SciPy once per image and class. OpenOOD's validation images come
    from the test set, and a class that is predicted for none of them gets the one-hot vector as
    its d_k: no softmax matches it but one that is one-hot itself, which then scores 0.
    """

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Average the softmax over the validation images with the same predicted class."""
        log_p = torch.log_softmax(data.validation.logits, dim=1)
        predicted, order = log_p.argmax(dim=1).sort(stable=True)
        by_class = log_p[order].split(predicted.unique_consecutive(return_counts=True)[1].tolist())
        self.log_templates_ = torch.stack([torch.logsumexp(own, dim=0) - math.log(len(own)) for own in by_class])

    def score(self, batch: Batch) -> Tensor:
        """The smallest divergence from a class, in nats."""
        log_p = torch.log_softmax(batch.logits, dim=1)
        p = log_p.exp()
        return (p * log_p).sum(dim=1) - (p @ self.log_templates_.T).amax(dim=1)
