"""MixOE: cross-entropy on ID images and on mixtures of them with outliers, whose targets decay to uniform."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training, detector, recipe
from oodbench.detectors._confidence_loss import logits_of_both
from oodbench.detectors._loss_recipe import Losses, LossRecipe
from oodbench.detectors._mixing import cut_box, draw_beta, soft_cross_entropy
from oodbench.detectors.msp import MSP

PAPER = (
    "Zhang, Inkawhich, Linderman, Chen & Li, Mixture Outlier Exposure: Towards Out-of-Distribution Detection in "
    "Fine-grained Environments, WACV 2023"
)
CUTMIX, MIXUP = "cutmix", "mixup"


@recipe("mixoe", title="Mixture outlier exposure", paper=PAPER, display_name="MixOE", cite="zhang2023mixoe")
class MixOELoss(LossRecipe):
    """CE(x, y) + weight CE(m, s y + (1 - s) U) for mixtures m of ID images and outliers in shares s and 1 - s.

    Drawn once for each batch: s ~ Beta(alpha, beta), and for `mix` "cutmix" a box, of 1 - s of the image, that shows
    the outlier; s is then the share of the pixels outside of it. With "mixup", m = s x + (1 - s) outlier.
    """

    needs = frozenset({"outliers"})
    weight: float = 1.0
    alpha: float = 0.1
    beta: float = 1.0
    mix: str = CUTMIX

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be 0 or more, and finite, got {self.weight}")
        for name in ("alpha", "beta"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.mix not in (CUTMIX, MIXUP):
            raise ValueError(f"mix must be {CUTMIX} or {MIXUP}, got '{self.mix}'")

    def mixtures(self, images: Tensor, outliers: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mixtures (N, C, H, W), and the share of the ID image in each, a scalar."""
        share = draw_beta(self.alpha, self.beta, generator)
        if self.mix == MIXUP:
            return torch.lerp(outliers, images, share.to(images.dtype)), share
        box = cut_box((images.shape[2], images.shape[3]), share, generator)
        return torch.where(box, outliers, images), 1 - box.double().mean()

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropies on ID images and on mixtures."""
        mixed, share = self.mixtures(batch.images, self.outliers(batch), training.generator)
        logits, mixed_logits = logits_of_both(training.networks["classifier"], batch.images, mixed)
        classes = logits.shape[1]
        targets = F.one_hot(batch.labels, classes).to(logits.dtype)
        targets = torch.lerp(torch.full_like(targets, 1 / classes), targets, share.to(logits.dtype))
        ce, of_mixed = F.cross_entropy(logits, batch.labels), soft_cross_entropy(mixed_logits, targets)
        parts = {"cross_entropy": ce, "cross_entropy_of_mixtures": of_mixed}
        return Losses(ce + self.weight * of_mixed, parts, logits)


@detector("mixoe", title="Mixture outlier exposure, MSP", paper=PAPER, display_name="MixOE", cite="zhang2023mixoe")
class MixOE(MSP):
    """The MSP score on a classifier trained with CE on ID images and on ID images with a box cut from an outlier, whose
    target is s y + (1 - s) U, U uniform over classes, s the share of the ID image.

    Differs: OpenOOD normalises mixtures by their own statistics where there is batch norm; here batch norm sees ID
    images and mixtures together. Boxes have an even number of rows and columns, as theirs do. Optimizer, schedule and
    augmentation are those of the recipe that the setting `like` names.
    """

    in_all = False
    recipe = "mixoe"
