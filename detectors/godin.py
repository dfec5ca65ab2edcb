"""Generalized ODIN: logits are a quotient h / g, and h alone is the score, on an image that is moved to raise it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oodbench.benchmark import (
    Batch,
    Classifier,
    Detector,
    FitData,
    Task,
    TrainBatch,
    Training,
    WithOutputs,
    detector,
    recipe,
)
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head

PAPER = (
    "Hsu, Shen, Jin & Kira, Generalized ODIN: Detecting Out-of-distribution Image without Learning from "
    "Out-of-distribution Data, CVPR 2020"
)
COSINE, INNER, EUCLIDEAN = "cosine", "inner", "euclidean"
SIMILARITIES = (COSINE, INNER, EUCLIDEAN)
EPSILONS = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
"""Steps of the paper's search, in units of pixels in [0, 1]."""
TINY = 1e-4
"""Added to norms, as in OpenOOD's code."""
SMALLEST = 1e-6
"""Of g: its sigmoid may underflow, and logits would not be finite."""
BLOCK = 256
"""Number of images in a pass of the detector's own: the gradient keeps all activations in memory."""


class Domain(nn.Module):
    """g, the sigmoid of a batch-normalised linear map of features: (N, D) -> (N, 1), above 0 and at most 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, features: Tensor) -> Tensor:
        """g of each image. A batch of one image has no variance, and is normalised by the running statistics."""
        values, norm = self.linear(features), self.norm
        if self.training and len(features) == 1:
            values = F.batch_norm(
                values, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, eps=norm.eps
            )
        else:
            values = norm(values)
        return torch.sigmoid(values).clamp_min(SMALLEST)


class _OnExtended(nn.Module):
    """The weight (K, E) of a linear head on extended features, from the weight (K, D) of a similarity."""

    def __init__(self, similarity: str) -> None:
        super().__init__()
        self.similarity = similarity

    def forward(self, weight: Tensor) -> Tensor:
        if self.similarity == COSINE:
            norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
            return torch.cat([weight / (norms + TINY), torch.zeros_like(weight[:, :1])], dim=1)
        if self.similarity == INNER:
            return weight  # its last column is the bias
        size = weight.shape[1]
        square = weight.square().sum(dim=1, keepdim=True)
        return torch.cat([2 * weight, torch.full_like(square, -1), -square], dim=1) / size


class Decomposed(WithOutputs):
    """A backbone's network whose logits are h / g, with the named outputs `h` (N, K) and `g` (N, 1).

    Its features are those of the backbone, f, extended by what makes h linear, and divided by g: (f / |f|, 1) / g for
    the cosine, (f, 1) / g for the inner product, and (f, |f|^2, 1) / g for the Euclidean distance. So the head is
    linear, without a bias, and head(features) = h / g; the last feature is 1 / g.
    """

    def __init__(self, network: nn.Module, similarity: str, classes: int) -> None:
        super().__init__(network)
        head = network.head
        assert isinstance(head, nn.Linear)
        self.similarity = similarity
        width = head.in_features
        self.domain = Domain(width)
        extended = {COSINE: width + 1, INNER: width + 1, EUCLIDEAN: width + 2}[similarity]
        weight = torch.empty(classes, width)
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
        if similarity == INNER:
            weight = torch.cat([weight, torch.zeros(classes, 1)], dim=1)
        linear = nn.Linear(extended, classes)
        nn.init.zeros_(linear.bias).requires_grad_(False)
        linear.weight = nn.Parameter(weight)
        parametrize.register_parametrization(linear, "weight", _OnExtended(similarity), unsafe=True)
        network.head = linear

    def features(self, images: Tensor) -> Tensor:
        """Extended features divided by g, (N, E)."""
        features = super().features(images).to(images.dtype)
        with torch.autocast(images.device.type, enabled=False):
            g = self.domain(features)
            if self.similarity == COSINE:
                features = features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + TINY)
            parts = [features, torch.ones_like(g)]
            if self.similarity == EUCLIDEAN:
                parts.insert(1, features.square().sum(dim=1, keepdim=True))
            extended: Tensor = torch.cat(parts, dim=1) / g
            return extended

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """h and g of features that this network has made."""
        g = 1 / features[:, -1:]
        return {"h": self.head(features) * g, "g": g}


@recipe("godin", title="Generalized ODIN", paper=PAPER, display_name="G-ODIN", cite="hsu2020godin")
class GodinLoss(LossRecipe):
    """Cross-entropy of the logits h_k(f) / g(f) of features f, with g = sigmoid(BN(w f + b)) for each image.

    `similarity`, of a feature and a learned w_k: "cosine", h_k = cos(f, w_k); "inner", h_k = w_k f + b_k; "euclidean",
    h_k = -|f - w_k|^2 / D. The weights of h have no weight decay, as in the authors' training. `Decomposed` says what
    features and head are then, so that head(features) = logits.
    """

    similarity: str = COSINE

    def __post_init__(self) -> None:
        """Check the name of the similarity."""
        super().__post_init__()
        if self.similarity not in SIMILARITIES:
            raise ValueError(f"similarity must be {COSINE}, {INNER} or {EUCLIDEAN}, got '{self.similarity}'")

    def named_outputs(self, task: Task) -> Mapping[str, int]:
        """h of each class, and g."""
        return {"h": task.num_classes, "g": 1}

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier with its head replaced. Raises `DataError` if it has no linear head."""
        classifier = super().networks(task)["classifier"]
        linear_head(classifier, "Recipe 'godin' replaces a linear head")
        return {"classifier": Decomposed(classifier, self.similarity, task.num_classes)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """The optimizer of the other recipe, with a group of its own for the weights of h, without weight decay."""
        optimizers = super().optimizers(networks)
        optimizer = optimizers["classifier"]
        head = {id(weight) for weight in networks["classifier"].head.parameters()}  # type: ignore[union-attr]
        ours = []
        for group in optimizer.param_groups:
            ours += [weight for weight in group["params"] if id(weight) in head and weight.requires_grad]
            group["params"] = [weight for weight in group["params"] if id(weight) not in head]
        optimizer.add_param_group({"params": ours, "weight_decay": 0.0})
        return optimizers

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropy of h / g."""
        logits = training.networks["classifier"](batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        return Losses(loss, {"cross_entropy": loss}, logits)


@detector("godin", title="Generalized ODIN", paper=PAPER, display_name="G-ODIN", cite="hsu2020godin")
class Godin(Detector):
    """-max_k h_k(x~), x~ = x + epsilon sign(grad_x max_k h_k(x)), on a classifier with the logits h / g.

    `epsilon` is in units of pixels in [0, 1], and x~ may leave [0, 1]. The network stays in evaluation mode. Two passes
    per image. No OOD image is needed.

    Default of `epsilon`: the one of 0, 0.0025, 0.005, 0.01, 0.02, 0.04 and 0.08 with the largest mean of max_k h_k(x~)
    over ID validation images. Authors: the same search. Default suite: 0.04 on digits and 0.02 on glyphs, seed 0; not a
    part of 'all'.

    Differs: OpenOOD takes 0.0025. On a network whose h rises with every step the search ends at a large one, which may
    rank worse than none; `epsilon=0` is h of the image as it is. Pixels with gradient 0 do not change; OpenOOD's code
    moves them up. Other detectors see the logits h / g, and features with which a linear head makes them: (f / |f|, 1)
    / g for the cosine. Optimizer, schedule and augmentation are those of the recipe that the setting `like` names;
    weights of h have no weight decay.
    """

    needs = frozenset({"images", "network"})
    reads = frozenset({"h"})
    passes = 2
    in_all = False
    recipe = "godin"
    grid = {"epsilon": (None, *EPSILONS)}
    epsilon: float | None = None

    def __post_init__(self) -> None:
        """Check epsilon."""
        if self.epsilon is not None and not 0 <= self.epsilon < float("inf"):
            raise ValueError(
                f"epsilon is a step in units of pixels from 0 to 1 and must not be negative, got {self.epsilon}"
            )

    def passes_in_fit(self, blocks: int, validation: int, outliers: int) -> int:
        """One pass for the gradients and one for each step of the search."""
        return validation * (1 + len(EPSILONS)) if self.epsilon is None else 0

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Choose epsilon on the ID validation images if it is left to the search."""
        self.epsilon_ = self.epsilon
        if self.epsilon is None:
            totals = torch.zeros(len(EPSILONS), dtype=torch.float64)
            for part in data.validation.batches(BLOCK):
                totals += torch.stack([found.sum() for found in largest_h(classifier, part.images, EPSILONS)]).cpu()
            self.epsilon_ = EPSILONS[int(totals.argmax())]
            self.chosen_ = {"epsilon": self.epsilon_}

    def score(self, batch: Batch) -> Tensor:
        """Minus the largest h of the image that was moved."""
        assert self.epsilon_ is not None
        if self.epsilon_ == 0:
            return -batch.outputs["h"].amax(dim=1)
        found = [largest_h(batch.classifier, part.images, [self.epsilon_])[0] for part in batch.batches(BLOCK)]
        return -torch.cat(found)


def largest_h(classifier: Classifier, images: Tensor, epsilons: tuple[float, ...] | list[float]) -> list[Tensor]:
    """max_k h_k, (N,), of images (N, C, H, W) that are moved by each epsilon, float64."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_h(classifier, images).sum(), images)
    with torch.no_grad():
        return [_h(classifier, images + epsilon * gradient.sign()) for epsilon in epsilons]


def _h(classifier: Classifier, images: Tensor) -> Tensor:
    largest: Tensor = classifier.outputs(classifier.features(images))["h"].double().amax(dim=1)
    return largest
