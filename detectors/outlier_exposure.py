"""Outlier exposure: cross-entropy on ID images plus cross-entropy to the uniform distribution on outliers."""

from __future__ import annotations

import math

import torch.nn.functional as F

from oodbench.benchmark import TrainBatch, Training, detector, recipe
from oodbench.detectors._confidence_loss import kl_to_uniform, logits_of_both
from oodbench.detectors._fine_tuning import FineTuned
from oodbench.detectors._loss_recipe import Losses, LossRecipe
from oodbench.detectors.msp import MSP

PAPER = "Hendrycks, Mazeika & Dietterich, Deep Anomaly Detection with Outlier Exposure, ICLR 2019"


@recipe(
    "outlier_exposure",
    title="Outlier exposure",
    paper=PAPER,
    display_name="OE",
    cite="hendrycks2019exposure",
)
class OutlierExposureLoss(LossRecipe):
    """CE + weight CE(U, p), the latter on as many outliers as there are ID images in the batch.

    CE(U, p) = KL(U || p) + log K: the gradient is that of the confidence loss with beta = weight.
    """

    needs = frozenset({"outliers"})
    weight: float = 0.5

    def __post_init__(self) -> None:
        """Check that the weight is not negative: a negative one would reward confidence on outliers."""
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be 0 or more, and finite, got {self.weight}")

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """Mean cross-entropy on ID images, and mean cross-entropy to uniform on outliers."""
        logits, others = logits_of_both(training.networks["classifier"], batch.images, self.outliers(batch))
        ce = F.cross_entropy(logits, batch.labels)
        uniform = kl_to_uniform(others).mean() + math.log(logits.shape[1])
        return Losses(ce + self.weight * uniform, {"cross_entropy": ce, "cross_entropy_to_uniform": uniform}, logits)


@recipe(
    "outlier_exposure_finetune",
    title="Outlier exposure, fine-tuning",
    paper=PAPER,
    display_name="OE (fine-tuned)",
    cite="hendrycks2019exposure",
)
class OutlierExposureTuning(FineTuned, OutlierExposureLoss):
    """The same loss, from the weights of a classifier that has been trained without outliers."""


@detector(
    "outlier_exposure",
    title="Outlier exposure, MSP",
    paper=PAPER,
    display_name="OE",
    cite="hendrycks2019exposure",
)
class OutlierExposure(MSP):
    """The MSP score on a classifier trained with CE + 0.5 CE(U, p), U uniform over classes, on real outliers.

    CE(U, p) = KL(U || p) + log K, so that this is the confidence loss of Lee et al. (2018), eq. 1, on real outliers
    with beta 0.5 in place of 1: the same gradient, and detector `confidence` with that beta is the same classifier.

    Differs: the authors take two outliers for each ID image, of 80 million tiny images; here it is one, of the suite's.
    Batch norm sees ID images and outliers together, as in their code. Optimizer, schedule and augmentation are those of
    the recipe that the setting `like` names.
    """

    in_all = False
    recipe = "outlier_exposure"


@detector(
    "outlier_exposure_finetune",
    title="Outlier exposure by fine-tuning, MSP",
    paper=PAPER,
    display_name="OE (fine-tuned)",
    cite="hendrycks2019exposure",
)
class OutlierExposureFinetune(MSP):
    """The MSP score on a classifier that was trained by recipe `builds_on`, and then with CE + 0.5 CE(U, p).

    Differs: as `outlier_exposure`. Fine-tuning takes as many epochs as the suite's trainings, unless it says otherwise
    (10 of the authors'), at their learning rate of 0.001.
    """

    in_all = False
    recipe = "outlier_exposure_finetune"
