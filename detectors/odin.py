"""ODIN: softmax at a high temperature, on an image perturbed towards its predicted class."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors.msp import log_one_minus_max

BLOCK = 256
"""Number of images per pass: the gradient keeps all activations in memory."""


@detector(
    "odin",
    title="ODIN",
    paper="Liang, Li & Srikant, Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks, "
    "ICLR 2018, eq. 1 and 2",
    display_name="ODIN",
    cite="liang2018odin",
)
class ODIN(Detector):
    """log(1 - max_k softmax_k(f(x~) / T)), x~ = x + epsilon sign(grad_x log max_k softmax_k(f(x) / T)).

    `epsilon` is in units of pixels in [0, 1]. The authors divide the sign by the channels' standard deviation because
    their images are normalised, which gives the same step. Pixels with gradient 0 do not change. As in the authors'
    code, x~ may leave [0, 1]. The network stays in evaluation mode, and its weights get no gradients. Two passes per
    image.

    Differs: the authors tune epsilon on OOD images (0.0014 was chosen for DenseNet-BC on CIFAR-10) and count a gradient
    of 0 as positive. OpenOOD also does that, and divides by the standard deviation as the authors do; it ranks by a
    float32 softmax, which keeps few digits at T = 1000.
    """

    needs = frozenset({"images", "network"})
    passes = 2
    grid = {"temperature": (1.0, 10.0, 100.0, 1000.0), "epsilon": (0.0, 0.0005, 0.0014, 0.003, 0.01)}
    temperature: float = 1000.0
    epsilon: float = 0.0014

    def __post_init__(self) -> None:
        """Check the temperature and epsilon."""
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if not 0 <= self.epsilon < float("inf"):
            raise ValueError(
                f"epsilon is a step in units of pixels from 0 to 1 and must not be negative, got {self.epsilon}"
            )

    def score(self, batch: Batch) -> Tensor:
        """The MSP score of the perturbed image, at the temperature T."""
        return torch.cat([self._score(part) for part in batch.batches(BLOCK)])

    def direction(self, gradient: Tensor) -> Tensor:
        """The step for gradients (N, C, H, W) of log max_k softmax_k: of the same shape, each value -1, 0 or 1."""
        return gradient.sign()

    def _score(self, batch: Batch) -> Tensor:
        images = batch.images.requires_grad_()
        with torch.enable_grad():
            log_p = torch.log_softmax(batch.classifier(images).double() / self.temperature, dim=1)
            (gradient,) = torch.autograd.grad(log_p.amax(dim=1).sum(), images)
        with torch.no_grad():
            nudged = images + self.epsilon * self.direction(gradient)
            return log_one_minus_max(batch.classifier(nudged).double() / self.temperature)
