"""VOS: virtual outliers, drawn from the edge of class-conditional Gaussians of features, train an energy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Task, TrainBatch, Training, detector, recipe
from oodbench.detectors._gaussian_edge import edge_samples, shared_factor
from oodbench.detectors._loss_recipe import Losses, LossRecipe, require_not_negative
from oodbench.detectors.energy import Energy

PAPER = "Du, Wang, Cai & Li, VOS: Learning What You Don't Know by Virtual Outlier Synthesis, ICLR 2022"
ENERGY = "weighted_energy"
"""The classifier's module that only training uses."""


class WeightedEnergy(nn.Module):
    """log sum_k max(0, w_k) exp(f_k), and the logistic regression on it that tells virtual outliers from ID images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(classes))
        self.logistic = nn.Linear(1, 2)

    def energies(self, logits: Tensor) -> Tensor:
        """The weighted log-sum-exp of each row, (N, K) -> (N,): higher means more ID."""
        largest = logits.detach().amax(dim=1, keepdim=True)
        total = (F.relu(self.weight) * torch.exp(logits - largest)).sum(dim=1)
        # If the weight of the only likely class is 0, all other terms may underflow: a large value, but a finite one.
        return largest[:, 0] + torch.log(total.clamp_min(torch.finfo(total.dtype).tiny))

    def loss(self, inside: Tensor, outside: Tensor) -> Tensor:
        """The mean cross-entropy of the regression: logits (N, K) are of class 1, virtual ones (M, K) of class 0."""
        values = self.energies(torch.cat([inside, outside]))
        targets = (torch.arange(len(values), device=values.device) < len(inside)).long()
        return F.cross_entropy(F.linear(values[:, None], self.logistic.weight, self.logistic.bias), targets)


@recipe("vos", title="VOS", paper=PAPER, display_name="VOS", cite="du2022vos")
class VOSLoss(LossRecipe):
    """CE + weight CE of a logistic regression on the weighted energy, ID images against virtual outliers.

    The latest `queue` features of each class make its mean and, with those of the other classes, a shared covariance S
    + 1e-4 I. In every step from the share `start` of all steps on, `select` virtual outliers of each class are drawn:
    those with the smallest density among `draws` samples of its Gaussian. The head turns them into logits. The class
    weights of the energy and the regression are learned with the classifier, by an optimizer of the same kind.
    """

    weight: float = 0.1
    queue: int = 1000
    start: float = 0.4
    draws: int = 10_000
    select: int = 1
    features_: Tensor
    """The queues, (K, `queue`, D)."""
    counts_: Tensor
    """How many features of each class have been seen, int64 (K,); the next one replaces number count mod `queue`."""

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        require_not_negative("weight", self.weight)
        if self.queue < 2:
            raise ValueError(f"queue must be 2 or more, got {self.queue}")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start must be in [0, 1], got {self.start}")
        if not 1 <= self.select <= self.draws:
            raise ValueError(f"select must be from 1 to draws ({self.draws}), got {self.select}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier, of which the energy and its regression are a part."""
        networks = super().networks(task)
        networks["classifier"].add_module(ENERGY, WeightedEnergy(task.num_classes))
        return networks

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Two of the kind of `like`: weights without a gradient before `start` cannot share a fused one with others."""
        parts: dict[str, list[nn.Parameter]] = {"classifier": [], ENERGY: []}
        for name, weight in networks["classifier"].named_parameters():
            parts[ENERGY if name.startswith(f"{ENERGY}.") else "classifier"].append(weight)
        make = super().optimizers
        return {part: make({"classifier": nn.ParameterList(weights)})["classifier"] for part, weights in parts.items()}

    def remember(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Put the features (N, D) of a batch into the queues of their classes."""
        if "counts_" not in self.__dict__:
            self.counts_ = labels.new_zeros(classes)
            self.features_ = features.new_zeros(classes, self.queue, features.shape[1])
        self.counts_, self.features_ = self.counts_.to(labels.device), self.features_.to(labels.device)
        member = F.one_hot(labels, classes)
        earlier = (member.cumsum(dim=0) - 1).gather(1, labels[:, None])[:, 0]  # of the class, in this batch
        total = member.sum(dim=0)
        kept = earlier >= total[labels] - self.queue  # so that no place is written twice
        place = (self.counts_[labels] + earlier) % self.queue
        self.features_[labels[kept], place[kept]] = features[kept]
        self.counts_ = self.counts_ + total

    def virtual_outliers(self, generator: torch.Generator) -> Tensor:
        """Features (`select` of each class that has been seen, D) at the edge of the Gaussians of the queues."""
        filled = self.counts_.clamp_max(self.queue)
        classes = torch.nonzero(filled)[:, 0]
        members = torch.arange(self.queue, device=filled.device) < filled[classes, None]  # (K, queue)
        means, factor = shared_factor(self.features_[classes], members)
        return edge_samples(means, factor, self.draws, self.select, generator).to(self.features_.dtype)

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The cross-entropies of the classifier and, from `start` on, of the regression."""
        classifier = training.networks["classifier"]
        energy = classifier.get_submodule(ENERGY)
        assert isinstance(energy, WeightedEnergy)
        features: Tensor = classifier.features(batch.images)  # type: ignore[operator]
        logits: Tensor = classifier.head(features)  # type: ignore[operator]
        ce = F.cross_entropy(logits, batch.labels)
        self.remember(features.detach(), batch.labels, logits.shape[1])
        virtual = torch.zeros_like(ce)
        if training.progress >= self.start:
            outliers = self.virtual_outliers(training.generator)
            virtual = energy.loss(logits, classifier.head(outliers))  # type: ignore[operator]
        return Losses(ce + self.weight * virtual, {"cross_entropy": ce, "virtual_outliers": virtual}, logits)


@detector("vos", title="VOS, energy", paper=PAPER, display_name="VOS", cite="du2022vos")
class VOS(Energy):
    """The energy score on a classifier trained with CE + 0.1 CE of a logistic regression on log sum_k w_k exp(f_k).

    The regression tells ID images from virtual outliers: features of the smallest density among 10,000 samples of each
    class's Gaussian. Gaussians have the mean of the class's latest 1,000 features and a covariance that all share. The
    weights w_k matter in training only: the score is the plain energy.

    Differs: virtual outliers are used from the share 0.4 of all steps on (the authors: from epoch 40 of 100), whether
    or not the queues of all classes are full by then, and suites with small sets choose shorter queues, so that they
    hold no features of long ago. Where the authors draw 10,000 samples of each class to keep one, its distance from
    the mean is drawn from the distribution of the largest of 10,000, and its direction uniformly, which is the same
    distribution; the covariance is factorised in float64. In OpenOOD's code the energy's weights are drawn in every
    call and the loss has no gradient; here they are learned, as the authors' are. Optimizer, schedule and augmentation
    are those of the recipe that the setting `like` names.
    """

    in_all = False
    recipe = "vos"
