"""Deep ensemble: several classifiers, trained from different initial weights, whose predictions are averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Batch, Detector, Task, TrainBatch, Training, detector, recipe
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head
from oodbench.detectors.msp import log_one_minus_max

PAPER = (
    "Lakshminarayanan, Pritzel & Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, "
    "NeurIPS 2017"
)
MSP, ENERGY, MUTUAL_INFORMATION = "msp", "energy", "mutual_information"


class MeanHead(nn.Module):
    """The mean of the members' heads, each on its own part of the features: (N, M D) -> (N, K).

    Linear, with the members' weights side by side, divided by their number. The heads stay parts of their networks.
    """

    def __init__(self, heads: Iterable[nn.Linear]) -> None:
        super().__init__()
        self._heads = tuple(heads)  # not registered a second time

    @property
    def weight(self) -> Tensor:
        """(K, M D)."""
        return torch.cat([head.weight for head in self._heads], dim=1) / len(self._heads)

    @property
    def bias(self) -> Tensor:
        """(K,)."""
        return torch.stack([head.bias for head in self._heads]).mean(dim=0)

    @property
    def in_features(self) -> int:
        """M D."""
        return sum(head.in_features for head in self._heads)

    def each(self, features: Tensor) -> list[Tensor]:
        """The logits (N, K) of every member, of features (N, M D)."""
        parts = features.split([head.in_features for head in self._heads], dim=1)
        return [head(part) for head, part in zip(self._heads, parts, strict=True)]

    def forward(self, features: Tensor, member: int | None = None) -> Tensor:
        """The mean logits (N, K), or those of one member, of its own features (N, D)."""
        if member is not None:
            logits: Tensor = self._heads[member](features)
            return logits
        return torch.stack(self.each(features)).mean(dim=0)


class Ensemble(nn.Module):
    """Several networks as one: their features side by side, the mean of their logits, and the logits of each."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        """Raises `DataError` if a network has no linear head."""
        super().__init__()
        self.members = nn.ModuleList(members)
        what = "Recipe 'deep_ensemble' averages linear heads"
        self.head = MeanHead([linear_head(member, what) for member in self.members])

    def features(self, images: Tensor, member: int | None = None) -> Tensor:
        """(N, C, H, W) -> (N, M D), or (N, D) of one member."""
        if member is not None:
            features: Tensor = self.members[member].features(images)  # type: ignore[operator]
            return features
        return torch.cat([self.features(images, index) for index in range(len(self.members))], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """The mean logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """`members`: the logits of every member, side by side, (N, M K)."""
        return {"members": torch.cat(self.head.each(features), dim=1)}


class Member(nn.Module):
    """One member of an ensemble while it trains, through the ensemble's methods, which know the run's precision."""

    def __init__(self, ensemble: nn.Module, index: int) -> None:
        super().__init__()
        self._ensemble, self._index = (ensemble,), index

    def forward(self, images: Tensor) -> Tensor:
        """Its logits (N, K)."""
        (ensemble,) = self._ensemble
        logits: Tensor = ensemble.head(ensemble.features(images, self._index), self._index)  # type: ignore[operator]
        return logits


@recipe(
    "deep_ensemble",
    title="Deep ensemble",
    paper=PAPER,
    display_name="Deep ensemble",
    cite="lakshminarayanan2017ensembles",
)
class DeepEnsembleTraining(LossRecipe):
    """`members` classifiers, each trained on the cross-entropy from its own initial weights, by its own optimizer.

    The classifier's features are those of all members side by side, its head the mean of their heads, and the named
    output `members` has the logits of each.

    Differs: members get the same batches in the same order, because the loop draws one for all of them; the authors
    shuffle the images for each. Shifts and flips, where `like` has them, and dropout are drawn for each member. No
    adversarial training, which the authors add for small networks.
    """

    keeps_blocks = False
    members: int = 5

    def __post_init__(self) -> None:
        """Check the number of members."""
        super().__post_init__()
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")

    def named_outputs(self, task: Task) -> Mapping[str, int]:
        """The logits of every member."""
        return {"members": self.members * task.num_classes}

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The ensemble. Raises `DataError` if the backbone has no linear head."""
        return {
            "classifier": Ensemble(
                super(DeepEnsembleTraining, self).networks(task)["classifier"] for _ in range(self.members)
            )
        }

    def trained_networks(self, networks: Mapping[str, nn.Module]) -> int:
        """The members."""
        return self.members

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """The other recipe's optimizer for each member."""
        members = enumerate(networks["classifier"].members)  # type: ignore[arg-type]
        return {f"member_{index}": self.model.optimizers({"classifier": one})["classifier"] for index, one in members}

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropy of one member."""
        logits = training.networks["classifier"](batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        return Losses(loss, {"cross_entropy": loss}, logits)

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step of every member; the log has the means over members."""
        logged = []
        for index, (name, optimizer) in enumerate(training.optimizers.items()):
            member = Member(training.networks["classifier"], index)
            own = training._replace(networks={"classifier": member}, optimizers={name: optimizer})
            logged.append(super().step(own, batch))
        return {name: torch.stack([values[name] for values in logged]).mean() for name in logged[0]}


@detector(
    "deep_ensemble",
    title="Deep ensemble",
    paper=PAPER,
    display_name="Deep ensemble",
    cite="lakshminarayanan2017ensembles",
)
class DeepEnsemble(Detector):
    """A statistic of the members' logits f_m, with p_m = softmax(f_m) and p their mean over M members:

    - `msp`: log(1 - max_k p_k), the order of the authors' confidence;
    - `energy`: the mean of -log sum_k exp(f_mk);
    - `mutual_information`: H(p) - mean H(p_m) = mean KL(p_m || p), how much members disagree, after Gal (2016).

    Five networks by default, three in the embedded suites; the pass of an image through all of them counts as the one
    that detectors share. Accuracy, and other detectors on this recipe, use the mean of the logits: so does OpenOOD,
    whose score is that of `msp@deep_ensemble`.

    Differs: members see the same batches in the same order, and differ in their initial weights, and in shifts and
    flips where `like` has them; the authors shuffle the images for each, and add adversarial examples.
    """

    in_all = False
    recipe = "deep_ensemble"
    needs = frozenset({"logits"})
    reads = frozenset({"members"})
    statistic: str = MSP

    def __post_init__(self) -> None:
        """Check the statistic."""
        if self.statistic not in (MSP, ENERGY, MUTUAL_INFORMATION):
            raise ValueError(f"statistic must be '{MSP}', '{ENERGY}' or '{MUTUAL_INFORMATION}', got '{self.statistic}'")

    def score(self, batch: Batch) -> Tensor:
        """The statistic, in nats."""
        classes = batch.logits.shape[1]
        logits = batch.outputs["members"].reshape(len(batch.logits), -1, classes)
        if self.statistic == ENERGY:
            return -torch.logsumexp(logits, dim=2).mean(dim=1)
        log_p = torch.log_softmax(logits, dim=2)
        mean = torch.logsumexp(log_p, dim=1) - math.log(logits.shape[1])
        if self.statistic == MSP:
            return log_one_minus_max(mean)
        return (log_p.exp() * (log_p - mean[:, None])).sum(dim=2).mean(dim=1)
