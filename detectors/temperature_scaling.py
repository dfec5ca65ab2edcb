"""Maximum softmax probability after temperature scaling on ID validation images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors.msp import log_one_minus_max

LOWEST, HIGHEST = 0.01, 100.0


@detector(
    "temperature_scaling",
    title="Temperature scaling",
    paper="Guo, Pleiss, Sun & Weinberger, On Calibration of Modern Neural Networks, ICML 2017, section 4.2",
    display_name="Temperature scaling",
    cite="guo2017calibration",
)
class TemperatureScaling(Detector):
    """log(1 - max_k p_k) of p = softmax(f / T), where T minimises the negative log-likelihood of ID validation labels.

    The negative log-likelihood is convex in 1/T; T is the root of its derivative, to machine precision, within [0.01,
    100]. If every validation image is classified correctly, there is no finite optimum: T is then 0.01, and the ranking
    is nearly that of the margin between the two largest logits.

    Differs: the authors' code and OpenOOD take 50 steps of L-BFGS from T = 1.5, OpenOOD on images of the test set; here
    the optimum is exact, on images held out of training.
    """

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Find T on the validation images."""
        from scipy.optimize import brentq  # imported late: it takes half a second, and every run imports this file

        logits, labels = data.validation.logits, data.validation.labels
        of_label = logits.gather(1, labels[:, None])[:, 0]

        def slope(log_temperature: float) -> float:
            """Derivative of the mean negative log-likelihood with respect to 1/T; it decreases with T."""
            p = torch.softmax(logits / math.exp(log_temperature), dim=1)
            return float(((p * logits).sum(dim=1) - of_label).mean())

        low, high = math.log(LOWEST), math.log(HIGHEST)
        if slope(low) <= 0:
            self.temperature_ = LOWEST
        elif slope(high) >= 0:
            self.temperature_ = HIGHEST
        else:
            self.temperature_ = math.exp(brentq(slope, low, high, xtol=1e-13, rtol=1e-13))

    def score(self, batch: Batch) -> Tensor:
        """log(1 - p_max) at T, in nats, at most 0."""
        return log_one_minus_max(batch.logits / self.temperature_)
