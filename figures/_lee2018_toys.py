"""The toy experiments of Lee et al. (ICLR 2018), Figures 1 and 3: their data, networks and training loop.

The losses are those of the recipes in `detectors/`; this file only adds points in the plane and small networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oodbench.benchmark import Recipe, TrainBatch, Training
from oodbench.benchmark.stats.seeds import derive
from oodbench.detectors._confidence_loss import kl_to_uniform
from oodbench.detectors._dcgan import LATENT
from oodbench.detectors.gan_confidence import GAN

Points = NDArray[np.float64]
"""Points in the plane, (N, 2)."""


class Plane(NamedTuple):
    """Two classes in the plane, each one Gaussian N(mean, sd^2 I), in the box [-box, box]^2."""

    means: tuple[tuple[float, float], tuple[float, float]]
    sd: float
    box: float

    def draw(self, count: int, random: np.random.Generator) -> tuple[Points, NDArray[np.int64]]:
        """`count` points per class with their labels: (2 count, 2) and (2 count,)."""
        points = np.concatenate([random.normal(mean, self.sd, (count, 2)) for mean in self.means])
        return points, np.repeat(np.arange(2), count)

    def distance(self, points: Points) -> NDArray[np.float64]:
        """Distance of each point to the nearest mean in standard deviations, (N,)."""
        offsets = points[:, None, :] - np.array(self.means)
        nearest: NDArray[np.float64] = np.linalg.norm(offsets, axis=2).min(axis=1) / self.sd
        return nearest

    def log_density(self, points: Points) -> NDArray[np.float64]:
        """log p of the even mixture of both classes, (N,), in nats."""
        squares = ((points[:, None, :] - np.array(self.means)) ** 2).sum(axis=2) / (2 * self.sd**2)
        mixed: NDArray[np.float64] = np.logaddexp(-squares[:, 0], -squares[:, 1]) - np.log(4 * np.pi * self.sd**2)
        return mixed

    def outliers(self, count: int, half_side: float, radius: float, random: np.random.Generator) -> Points:
        """(count, 2): uniform on [-half_side, half_side]^2, with points within `radius` sd of a mean rejected."""
        accepted = np.empty((0, 2))
        while len(accepted) < count:
            drawn = random.uniform(-half_side, half_side, (2 * count, 2))
            accepted = np.concatenate([accepted, drawn[self.distance(drawn) >= radius]])
        return accepted[:count]


class Scaled(nn.Module):
    """Divides its input by a constant, so that torch's default initialisation suits a plane of any size."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, points: Tensor) -> Tensor:
        """x / scale, (N, 2)."""
        return points / self.scale


def perceptron(inputs: int, hidden: int, outputs: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """A fully connected network with two hidden layers, (N, inputs) -> (N, outputs)."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), activation(), nn.Linear(hidden, hidden), activation(), nn.Linear(hidden, outputs)
    )


def plane_gan(hidden: int, scale: float) -> dict[str, nn.Module]:
    """Generator and discriminator of points; both work on coordinates divided by `scale`."""
    generator = nn.Sequential(nn.Flatten(), *perceptron(LATENT, hidden, 2), Scaled(1 / scale))
    leaky = lambda: nn.LeakyReLU(0.2)  # noqa: E731
    return {"generator": generator, "discriminator": nn.Sequential(Scaled(scale), *perceptron(2, hidden, 1, leaky))}


class GuidedGAN(GAN):
    """The proposed GAN with a fixed classifier: the generator minimises GAN loss + beta KL(U || p(y|x)).

    Eq. 3 as in the later version of the paper and in the released script, without the submission's pull-away term.
    """

    beta: float = 1.0

    def generator_penalty(self, training: Training, fake: Tensor) -> Tensor:
        """Beta times the mean KL to uniform under the given, frozen classifier."""
        return self.beta * kl_to_uniform(training.given["classifier"](fake)).mean()


def trained(
    recipe: Recipe,
    build: Callable[[], dict[str, nn.Module]],
    batches: Callable[[torch.Generator], TrainBatch],
    steps: int,
    seed: int,
    given: Mapping[str, nn.Module] | None = None,
) -> dict[str, nn.Module]:
    """Train networks with a recipe's steps, each on a new batch; return them frozen, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initial weights"))
        networks = {name: network.train() for name, network in build().items()}
        torch.manual_seed(derive(seed, "layers"))
        draws = torch.Generator().manual_seed(derive(seed, "batches"))
        noise = torch.Generator().manual_seed(derive(seed, "steps"))
        training = Training(networks, recipe.optimizers(networks), dict(given or {}), noise)
        for _ in range(steps):
            recipe.step(training, batches(draws))
    return {name: network.eval().requires_grad_(False) for name, network in networks.items()}


def drawn_from(
    data: Tensor, labels: Tensor, outliers: Tensor | Callable[[int, torch.Generator], Tensor] | None, size: int
) -> Callable[[torch.Generator], TrainBatch]:
    """A function that draws batches: `size` rows with replacement, and as many outliers from a tensor or function."""

    def batch(random: torch.Generator) -> TrainBatch:
        rows = torch.randint(len(data), (size,), generator=random)
        if isinstance(outliers, Tensor):
            others: Tensor | None = outliers[torch.randint(len(outliers), (size,), generator=random)]
        else:
            others = outliers(size, random) if outliers is not None else None
        return TrainBatch(data[rows], labels[rows], others)

    return batch


@torch.no_grad()
def probabilities(classifier: nn.Module, points: Points) -> NDArray[np.float64]:
    """Softmax of the classifier's logits, (N, K), in float64."""
    logits = classifier(torch.from_numpy(points).float())
    shares: NDArray[np.float64] = torch.softmax(logits.double(), dim=1).numpy()
    return shares
