"""CIDER: images gather around a prototype of their class, and the prototypes move apart."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Task, Training, detector, recipe
from oodbench.detectors._contrastive import PROJECTION, Contrastive, Projected
from oodbench.detectors._loss_recipe import Losses, require_not_negative
from oodbench.detectors.knn import KNN

PAPER = (
    "Ming, Sun, Dia & Li, How to Exploit Hyperspherical Embeddings for Out-of-Distribution Detection?, ICLR 2023, "
    "eqs. 5 to 7"
)

MANY, MANY_VIEWS, FEW_VIEWS = 50, 0.95, 0.5
"""Views of a class in a batch from which the momentum is the first one by default; below, it is the second."""


class WithPrototypes(Projected):
    """A projection head that keeps a prototype of each class, a unit vector, or zeros before its first image."""

    def __init__(self, features: int, width: int, num_classes: int) -> None:
        super().__init__(features, width)
        self.register_buffer("prototypes", torch.zeros(num_classes, width))

    def moved(self, projections: Tensor, labels: Tensor, momentum: float) -> Tensor:
        """Prototypes (K, D) after the images of a batch, with gradients to their projections (N, D).

        Image by image in the order of the batch, mu_y := unit(momentum mu_y + (1 - momentum) z). Classes do not depend
        on each other, so that the first images of all classes move them at once, then the second ones, and so on. A
        class without a prototype starts from the mean direction of its projections.
        """
        kept = self.get_buffer("prototypes").to(projections.dtype)
        counts = torch.bincount(labels, minlength=len(kept))
        sums = torch.zeros_like(kept).index_add_(0, labels, projections.detach())
        new = (counts > 0) & (kept == 0).all(dim=1)
        prototypes = torch.where(new[:, None], F.normalize(sums, dim=1), kept)
        order = labels.argsort(stable=True)
        ends = counts.cumsum(dim=0)
        for turn in range(int(counts.max())):
            classes = (counts > turn).nonzero()[:, 0]
            images = order[(ends - counts)[classes] + turn]
            there = momentum * prototypes[classes] + (1 - momentum) * projections[images]
            prototypes = prototypes.index_copy(0, classes, F.normalize(there, dim=1))
        return prototypes


def compactness(projections: Tensor, labels: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """The mean over images of -log softmax_y(z mu / t), over the classes that have a prototype."""
    logits = projections @ prototypes.T / temperature
    return F.cross_entropy(logits.masked_fill((prototypes == 0).all(dim=1), -torch.inf), labels)


def dispersion(prototypes: Tensor, temperature: float) -> Tensor:
    """The mean over classes i of log mean_{j != i} exp(mu_i mu_j / t), of the classes that have a prototype."""
    prototypes = prototypes[(prototypes != 0).any(dim=1)]
    similar = prototypes @ prototypes.T / temperature
    itself = torch.eye(len(prototypes), dtype=torch.bool, device=prototypes.device)
    others = torch.logsumexp(similar.masked_fill(itself, -torch.inf), dim=1) - math.log(max(1, len(prototypes) - 1))
    return others.mean() if len(prototypes) > 1 else similar.sum() * 0


@recipe("cider", title="CIDER", paper=PAPER, display_name="CIDER", cite="ming2023cider")
class CIDERLoss(Contrastive):
    """weight (mean -log softmax_y(z mu / t)) + mean_i log mean_{j != i} exp(mu_i mu_j / t), with weight 2, t 0.1.

    Prototypes mu are moving averages of projections z, on the unit sphere, with `momentum` for each view of a class.
    The second term's gradient reaches z through the average; the first one's does not reach mu. By default the momentum
    is 0.95 where a batch has 50 or more views of a class (mean), and 0.5 where it has fewer: the authors' for CIFAR-10
    and CIFAR-100, with 102 and 10 views of a class in batches of 512 images.
    """

    weight: float = 2.0
    momentum: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        require_not_negative("weight", self.weight)
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), or none for the default's rule, got {self.momentum}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier and the projection with prototypes."""
        networks = super().networks(task)
        features: int = networks["classifier"].head.in_features  # type: ignore[assignment, union-attr]
        return {**networks, PROJECTION: WithPrototypes(features, self.projection, task.num_classes)}

    def contrast(self, training: Training, projections: Tensor, labels: Tensor) -> Losses:
        """Compactness and dispersion; the prototypes move."""
        network = training.networks[PROJECTION]
        assert isinstance(network, WithPrototypes)
        momentum = self.momentum
        if momentum is None:
            momentum = MANY_VIEWS if len(labels) >= MANY * len(network.get_buffer("prototypes")) else FEW_VIEWS
        prototypes = network.moved(projections, labels, momentum)
        network.get_buffer("prototypes").copy_(prototypes.detach())
        compact = compactness(projections, labels, prototypes.detach(), self.temperature)
        apart = dispersion(prototypes, self.temperature)
        return Losses(self.weight * compact + apart, {"compactness": compact, "dispersion": apart})


@detector("cider", title="CIDER, k nearest neighbours", paper=PAPER, display_name="CIDER", cite="ming2023cider")
class CIDER(KNN):
    """`knn` on the penultimate features of a network trained with

    2 (mean -log softmax_y(z mu / 0.1)) + mean_i log mean_{j != i} exp(mu_i mu_j / 0.1)

    for projections z and class prototypes mu on the unit sphere. As in the paper, the projection is left out
    afterwards, and k-NN normalises the features. The linear head, which the paper has not, is trained at the same time
    on features without gradient, as for `supcon`, so that there are an accuracy and logits.

    Differs: the authors' code multiplies the first term by a further 0.1 / 0.07. Prototypes start from the first images
    of their class in place of its mean over the training images. Views, optimizer and schedule as for `supcon`; the
    authors train by SGD for 500 epochs in batches of 512, with a learning rate of 0.5 after a warm-up of 10 epochs.
    """

    in_all = False
    recipe = "cider"
