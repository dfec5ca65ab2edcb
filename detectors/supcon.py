"""Supervised contrastive learning: images of a class attract each other, and repel all others."""

from __future__ import annotations

from torch import Tensor

from oodbench.benchmark import Training, detector, recipe
from oodbench.detectors._contrastive import Contrastive, contrastive
from oodbench.detectors._loss_recipe import Losses
from oodbench.detectors.knn import KNN

PAPER = (
    "Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu & Krishnan, Supervised Contrastive Learning, "
    "NeurIPS 2020, eq. 2"
)


@recipe("supcon", title="Supervised contrastive learning", paper=PAPER, display_name="SupCon", cite="khosla2020supcon")
class SupConLoss(Contrastive):
    """The mean over views i of -mean_p log [exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)], p the other views of i's
    class in the batch, z the projections of unit length, t 0.1. Two views of each image."""

    def contrast(self, training: Training, projections: Tensor, labels: Tensor) -> Losses:
        """The mean over all views."""
        loss = contrastive(projections, labels, self.temperature)
        return Losses(loss, {"supervised_contrastive": loss})


@detector("supcon", title="SupCon, k nearest neighbours", paper=PAPER, display_name="SupCon", cite="khosla2020supcon")
class SupCon(KNN):
    """`knn` on the penultimate features of a network trained with the supervised contrastive loss

    mean_i -mean_p log [exp(z_i z_p / 0.1) / sum_{a != i} exp(z_i z_a / 0.1)], p the other views of i's class,

    for projections z of unit length of two random views of each image. The projection (linear, ReLU, linear, 128) is
    left out afterwards, as in the paper; features are those before it, which k-NN normalises. `ssd@supcon` is SSD on
    them. The linear head of the paper's second stage is trained at the same time, on features without gradient: it
    changes no feature, takes no further passes, and stops and resumes as the rest does.

    Views: a crop of 20 to 100% of the area; for 80% of them brightness, contrast and saturation times 0.6 to 1.4, and
    hues turned by up to a tenth of the circle; 20% lose their colour. As in the authors' code for CIFAR, but clipped to
    [0, 1] once. Grey images change in brightness and contrast alone. Half of the views are mirrored where the recipe
    that `like` names mirrors images, and none otherwise.

    Differs: optimizer and schedule are those of `like`; the authors train by SGD for 1,000 epochs in batches of 1,024,
    and multiply the loss by 0.1 / 0.07 in code, which is not in the equation.
    """

    in_all = False
    recipe = "supcon"
