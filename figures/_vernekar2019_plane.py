"""The plane of the figures of Vernekar et al. (2019): classifiers of two Gaussians, and what they say far away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oodbench.benchmark import Recipe, TrainBatch, Training, WithOutputs
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.stats.seeds import derive
from oodbench.detectors.ascood import ASCOODLoss, Standardised
from oodbench.detectors.confidence import ConfidenceLoss
from oodbench.detectors.cross_entropy import CrossEntropy
from oodbench.detectors.gan_entropy import EntropyLoss
from oodbench.detectors.joint import JointConfidenceLoss
from oodbench.detectors.msp import log_one_minus_max
from oodbench.detectors.reject_class import REJECT, RejectClassLoss, rejecting
from oodbench.figures._lee2018_toys import (
    GuidedGAN,
    Plane,
    Points,
    Scaled,
    drawn_from,
    perceptron,
    plane_gan,
    trained,
)

DIRECTIONS = 720
"""Points on each circle."""
SURE = 0.75
"""A point counts as confidently classified where the largest probability of a class exceeds this."""
RADII = (10.0, 100.0, 1000.0)
"""Distances from the middle of both classes, in their standard deviations, that the caption gives numbers for."""


class Setting(NamedTuple):
    """The settings of the toy: those of figure 3 (a, b) of Lee et al., as `bench figures lee2018` draws it."""

    plane: Plane = Plane(((-2.5, 0.0), (2.5, 0.0)), sd=1.0, box=10.0)
    points: int = 2000
    outliers: int = 4000
    radius: float = 3.0
    """Outliers of the box within this many standard deviations of a mean are rejected."""
    ring: float = 4.0
    """Outliers of the ring lie from `radius` to this many standard deviations from the nearest mean."""
    hidden: int = 64
    steps: int = 3000
    batch: int = 128
    generator_rate: float = 0.0005
    discriminator_rate: float = 0.002
    beta: float = 1.5
    """Of the GAN that draws at the boundary."""
    alpha: float = 1.0
    """Of `ascood`, in the plane's units: a whole gradient, because there are two coordinates and no pixels."""
    scale: float = 3.0
    """Coordinates are divided by this before the first layer."""
    far: float = 1000.0
    """Half the side of the maps on the right."""


class PlaneNetwork(nn.Module):
    """A ReLU network of points (N, 2) with two hidden layers, `features` and a linear `head`."""

    def __init__(self, hidden: int, scale: float) -> None:
        super().__init__()
        *layers, self.head = perceptron(2, hidden, 2)
        self.body = nn.Sequential(Scaled(scale), *layers)

    def features(self, points: Tensor) -> Tensor:
        """The second hidden layer, (N, hidden)."""
        features: Tensor = self.body(points)
        return features

    def forward(self, points: Tensor) -> Tensor:
        """Logits, (N, 2)."""
        logits: Tensor = self.head(self.features(points))
        return logits


class RejectsOutliers(RejectClassLoss):
    """The reject class, for the batch's outliers in place of generated points."""

    def generated(self, training: Training, batch: TrainBatch) -> Tensor:
        """The outliers, (N, 2)."""
        assert batch.outliers is not None
        return batch.outliers


class Method(NamedTuple):
    """One classifier of the figure: how it is trained, and on which points outside of the classes."""

    title: str
    recipe: Recipe
    build: Callable[[], dict[str, nn.Module]]
    outliers: str = ""
    """"box" or "ring"; empty for none."""
    generator_of: str = ""
    """The method whose generator is used, frozen."""


class Trained(NamedTuple):
    """A trained classifier with its generator, if it has one."""

    networks: Mapping[str, nn.Module]

    @torch.no_grad()
    def judged(self, points: Points) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """The largest probability of a class, the OOD score, and the predicted class of points (N, 2): (N,) each.

        With a reject class, probabilities are of K + 1 classes, and the score is the log odds of that class.
        """
        classifier: Any = self.networks["classifier"]
        features = classifier.features(torch.from_numpy(points).float())
        logits = classifier.head(features).double()
        best = logits.argmax(dim=1).numpy()
        outputs = classifier.outputs(features) if isinstance(classifier, WithOutputs) else {}
        if REJECT not in outputs:
            return torch.softmax(logits, dim=1).amax(dim=1).numpy(), log_one_minus_max(logits).numpy(), best
        reject = outputs[REJECT].double()
        shares = torch.softmax(torch.cat([logits, reject], dim=1), dim=1)[:, :-1]
        odds = reject[:, 0] - torch.logsumexp(logits, dim=1)
        return shares.amax(dim=1).numpy(), odds.numpy(), best


def methods(s: Setting) -> dict[str, Method]:
    """The classifiers by name, in the order of the panels; a generator's method stands before those that use it."""
    rates: dict[str, Any] = {
        "generator_learning_rate": s.generator_rate,
        "discriminator_learning_rate": s.discriminator_rate,
    }
    ascood = ASCOODLoss(share=1.0, alpha=s.alpha)

    def alone() -> dict[str, nn.Module]:
        return {"classifier": PlaneNetwork(s.hidden, s.scale)}

    def with_gan() -> dict[str, nn.Module]:
        return {**alone(), **plane_gan(s.hidden, s.scale)}

    def rejects() -> dict[str, nn.Module]:
        return {"classifier": rejecting(PlaneNetwork(s.hidden, s.scale))}

    def standardised() -> dict[str, nn.Module]:
        return {"classifier": Standardised(PlaneNetwork(s.hidden, s.scale), ascood.sigma)}

    return {
        "cross_entropy": Method("cross-entropy", CrossEntropy(), alone),
        "confidence, box": Method("confidence loss,\nbox", ConfidenceLoss(), alone, "box"),
        "confidence, ring": Method("confidence loss,\nring", ConfidenceLoss(), alone, "ring"),
        "joint": Method("joint confidence\nloss", JointConfidenceLoss(**rates), with_gan),
        "gan_entropy": Method("entropy, confident\nsamples", EntropyLoss(**rates), with_gan),
        "ascood": Method("ASCOOD", ascood, standardised),
        "reject, box": Method("reject class,\nbox", RejectsOutliers(), rejects, "box"),
        "reject, ring": Method("reject class,\nring", RejectsOutliers(), rejects, "ring"),
        "reject, joint": Method("reject class,\njoint's GAN", RejectClassLoss(), rejects, generator_of="joint"),
        "reject, boundary": Method(
            "reject class,\nboundary GAN", RejectClassLoss(), rejects, generator_of="confidence, box"
        ),
    }


def ring(s: Setting, random: np.random.Generator) -> Points:
    """Points (outliers, 2) uniform in the plane from `radius` to `ring` standard deviations from the nearest mean."""
    side = max(abs(value) for mean in s.plane.means for value in mean) + s.ring * s.plane.sd
    accepted = np.empty((0, 2))
    while len(accepted) < s.outliers:
        drawn = s.plane.outliers(4 * s.outliers, side, s.radius, random)
        accepted = np.concatenate([accepted, drawn[s.plane.distance(drawn) <= s.ring]])
    return accepted[: s.outliers]


def train_all(s: Setting, seed: int) -> dict[str, Trained]:
    """Every classifier, trained on the same points; those without a further output from the same initial weights."""
    points, labels = s.plane.draw(s.points, np.random.default_rng(derive(seed, "far", "points")))
    random = np.random.default_rng(derive(seed, "far", "outliers"))
    outside = {"box": s.plane.outliers(s.outliers, s.plane.box, s.radius, random), "ring": ring(s, random)}
    data, classes = torch.from_numpy(points).float(), torch.from_numpy(labels)
    made: dict[str, Trained] = {}
    for name, method in methods(s).items():
        outliers = torch.from_numpy(outside[method.outliers]).float() if method.outliers else None
        draw = drawn_from(data, classes, outliers, s.batch)
        given = {"generator": _generator(s, made[method.generator_of], draw, seed)} if method.generator_of else None
        made[name] = Trained(trained(method.recipe, method.build, draw, s.steps, derive(seed, "far"), given))
    return made


def _generator(s: Setting, source: Trained, draw: Callable[[torch.Generator], TrainBatch], seed: int) -> nn.Module:
    """The generator that was trained with a classifier, or else the proposed GAN of Lee et al. for that classifier."""
    if "generator" in source.networks:
        return source.networks["generator"]
    recipe = GuidedGAN(
        beta=s.beta, generator_learning_rate=s.generator_rate, discriminator_learning_rate=s.discriminator_rate
    )
    build = lambda: plane_gan(s.hidden, s.scale)  # noqa: E731
    return trained(recipe, build, draw, s.steps, derive(seed, "far", "gan"), source.networks)["generator"]


def circle(plane: Plane, radius: float) -> Points:
    """(DIRECTIONS, 2): points on the circle of so many standard deviations around the middle of both classes."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    return radius * plane.sd * np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Measured(NamedTuple):
    """Accuracy, and by radius the share of directions with confidence above SURE and the AUROC of the score."""

    accuracy: float
    confident: tuple[float, ...]
    auroc: tuple[float, ...]


def measured(s: Setting, made: Trained, seed: int) -> Measured:
    """Numbers of one method, on fresh points and on circles of RADII."""
    fresh, truth = s.plane.draw(1000, np.random.default_rng(derive(seed, "far", "test")))
    _, inside, best = made.judged(fresh)
    rings = [made.judged(circle(s.plane, radius)) for radius in RADII]
    return Measured(
        float((best == truth).mean()),
        tuple(float((confidence > SURE).mean()) for confidence, _, _ in rings),
        tuple(float(auroc(inside, scores)) for _, scores, _ in rings),
    )
