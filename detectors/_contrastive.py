"""Recipes that train features by comparing random views of images: two views of each, a projection, a linear head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Task, TrainBatch, Training
from oodbench.detectors._accuracy import share_correct
from oodbench.detectors._loss_recipe import REGIMES, Losses, LossRecipe, linear_head
from oodbench.detectors._views import Augmentation, draw, view

PROJECTION, CLASSIFIER = "projection", "classifier"


def contrastive(projections: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """The mean over i of -mean_p log [exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)], p the others of i's group.

    Supervised contrastive learning if groups are classes (L_out of Khosla et al.); NT-Xent, the loss of SimCLR, if they
    are pairs of views. Projections z of unit length, (N, D); `groups`, int64 (N,), with two or more of each.
    """
    similar = projections @ projections.T / temperature
    itself = torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    same = (groups[:, None] == groups) & ~itself
    total = torch.logsumexp(similar.masked_fill(itself, -torch.inf), dim=1)
    mean = (similar * same).sum(dim=1) / same.sum(dim=1)
    return (total - mean).mean()


class Projected(nn.Module):
    """A projection head: linear, ReLU, linear; its output has unit length."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors (N, width) of features (N, D), in float32 or better also where the layers compute in less."""
        raw: Tensor = self.layers(features)
        return F.normalize(raw.to(torch.promote_types(raw.dtype, torch.float32)), dim=1)


class Contrastive(LossRecipe):
    """Trains the features on `contrast`, and on them a linear head on cross-entropy, whose gradient ends at the head.

    Every image gives two views; there is no other augmentation. They are mirrored where `like` mirrors images.
    Optimizer and learning rates are those of `like`, for the projection and the head as well.
    """

    temperature: float = 0.1
    projection: int = 128
    smallest_crop: float = 0.2
    jitter: float = 0.4
    grey: float = 0.2

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        if self.projection < 2:
            raise ValueError(f"projection must be at least 2, got {self.projection}")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"smallest_crop must lie above 0 and at most at 1, got {self.smallest_crop}")
        for name in ("jitter", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")

    @property
    def augmentation(self) -> Augmentation:
        """How views are drawn."""
        return Augmentation(self.smallest_crop, flip=REGIMES[self.like].flip, jitter=self.jitter, grey=self.grey)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier and the projection. Raises `DataError` if the classifier has no linear head."""
        classifier = super().networks(task)[CLASSIFIER]
        head = linear_head(classifier, f"Recipe '{self.name}' projects the features before a linear head")
        return {CLASSIFIER: classifier, PROJECTION: Projected(head.in_features, self.projection)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """The optimizer of the other recipe, for both networks."""
        return self.model.optimizers({CLASSIFIER: nn.ModuleList(networks.values())})

    def shifted(self, images: Tensor, training: Training) -> Tensor:
        """The images as they are: views take the place of shifts and flips."""
        return images

    def augmented(self, images: Tensor, training: Training) -> Tensor:
        """Two views of each of N images, (2N, C, H, W): first one of every image, then the other."""
        both = torch.cat([images, images])
        return view(both, draw(len(both), self.augmentation, training.generator))

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """What `contrast` returns, and the mean cross-entropy of the head on both views."""
        classifier, labels = training.networks[CLASSIFIER], batch.labels.repeat(2)
        features = classifier.features(batch.images)  # type: ignore[operator]
        contrast = self.contrast(training, training.networks[PROJECTION](features), labels)
        logits = classifier.head(features.detach())  # type: ignore[operator]
        ce = F.cross_entropy(logits, labels)
        parts = {**contrast.parts, "cross_entropy": ce, "accuracy": share_correct(logits, labels)}
        return Losses(contrast.total + ce, parts)

    def contrast(self, training: Training, projections: Tensor, labels: Tensor) -> Losses:
        """The loss of the projections (2N, D), of unit length, of both views of N images, and their labels (2N,)."""
        raise NotImplementedError
