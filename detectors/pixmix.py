"""PixMix: training images are mixed with pictures of fractals and with augmented copies of themselves."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Task, TrainBatch, Training, detector, recipe
from oodbench.detectors._fractals import mixing_pictures
from oodbench.detectors._loss_recipe import Losses, LossRecipe
from oodbench.detectors._pixel_operations import LOWEST, random_operation
from oodbench.detectors.msp import MSP

PAPER = (
    "Hendrycks, Zou, Mazeika, Tang, Li, Song & Steinhardt, PixMix: Dreamlike Pictures Comprehensively Improve Safety "
    "Measures, CVPR 2022"
)
LARGER = 36 / 32
"""Side of a mixing picture, of which a part is cut out, relative to that of an image."""


def exponents(count: int, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """How much of an image and of its partner a mixture has, for `count` mixtures: two tensors (N, 1, 1, 1).

    For half of them a ~ Beta(beta, 1) and b ~ Beta(1, beta), for the others a - 1 ~ Beta(1, beta), -b ~ Beta(1, beta).
    """
    device = generator.device
    usual = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5
    one, two = torch.rand(2, count, 1, 1, 1, generator=generator, device=device)
    high, low = one ** (1 / beta), 1 - two ** (1 / beta)  # Beta(beta, 1) and Beta(1, beta), from uniform numbers
    return torch.where(usual, high, 2 - high), torch.where(usual, low, -low)


def mixed_by_addition(image: Tensor, partner: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a x + b y of values from -1 to 1, cut off to that range."""
    return ((a * (2 * image - 1) + b * (2 * partner - 1) + 1) / 2).clamp_(0, 1)


def mixed_by_multiplication(image: Tensor, partner: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x^a y^b of values from 0 to 2, cut off to that range."""
    return ((2 * image) ** a * (2 * partner).clamp_min(1e-37) ** b / 2).clamp_(0, 1)


def windows(pictures: Tensor, side: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Random parts of `count` random pictures, (N, C, *side)."""
    device, (height, width) = generator.device, side
    which = torch.randint(0, len(pictures), (count, 1, 1), generator=generator, device=device)
    top = torch.randint(0, pictures.shape[2] - height + 1, (count, 1), generator=generator, device=device)
    left = torch.randint(0, pictures.shape[3] - width + 1, (count, 1), generator=generator, device=device)
    down, across = top + torch.arange(height, device=device), left + torch.arange(width, device=device)
    return pictures[which, :, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


@recipe("pixmix", title="PixMix", paper=PAPER, display_name="PixMix", cite="hendrycks2022pixmix")
class PixMixLoss(LossRecipe):
    """Cross-entropy of mixtures of images with pictures, labels unchanged.

    An image, augmented by one operation with probability one half, is mixed 0 to `k` times, by addition or by
    multiplication, with one picture or with an augmented copy of the original, each with probability one half.
    Operations have levels up to `severity` of 10; a larger `beta` keeps more of the image. `overlapping` adds four
    operations that are also corruptions of ImageNet-C. There are `pictures` pictures: fractals that are drawn once.
    """

    k: int = 4
    beta: float = 3.0
    severity: float = 3.0
    overlapping: bool = False
    pictures: int = 300
    grey_: bool
    """Whether images are grey, and repeated in three channels."""

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        for name, least in (("k", 0), ("pictures", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be positive and finite, got {self.beta}")
        if not LOWEST <= self.severity <= 10:
            raise ValueError(f"severity must be in [{LOWEST}, 10], got {self.severity}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier only."""
        self.grey_ = task.repeats_grey
        return super().networks(task)

    def augmented(self, images: Tensor, training: Training) -> Tensor:
        """Mixtures (N, C, H, W), in channels-last memory."""
        generator, (count, channels, height, width) = training.generator, images.shape
        side = math.ceil(max(height, width) * LARGER)
        drawn = mixing_pictures(self.pictures, side, 1 if self.grey_ else channels, images.device)
        partners = windows(drawn, (height, width), count, generator).expand_as(images).to(images.dtype)
        mixed = self.operated(images, 0.5, generator)
        rounds = torch.randint(0, self.k + 1, (count,), generator=generator, device=images.device)
        for number in range(self.k):
            rows = torch.nonzero(rounds > number)[:, 0]
            if not len(rows):
                break
            copies = torch.rand(len(rows), generator=generator, device=images.device) < 0.5
            others = partners[rows]
            others[copies] = random_operation(images[rows[copies]], self.severity, generator, self.overlapping)
            adds = torch.rand(len(rows), 1, 1, 1, generator=generator, device=images.device) < 0.5
            a, b = exponents(len(rows), self.beta, generator)
            pair = (mixed[rows], others, a, b)
            mixed[rows] = torch.where(adds, mixed_by_addition(*pair), mixed_by_multiplication(*pair))
        return mixed.contiguous(memory_format=torch.channels_last)

    def operated(self, images: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """A copy of the images, in which each is changed by one operation with probability `share`."""
        mixed = images.clone()
        chosen = torch.rand(len(images), generator=generator, device=images.device) < share
        mixed[chosen] = random_operation(images[chosen], self.severity, generator, self.overlapping)
        return mixed

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropy of the mixtures."""
        logits = training.networks["classifier"](batch.images)
        loss = F.cross_entropy(logits, batch.labels)
        return Losses(loss, {"cross_entropy_of_mixtures": loss}, logits)


@detector("pixmix", title="PixMix, MSP", paper=PAPER, display_name="PixMix", cite="hendrycks2022pixmix")
class PixMix(MSP):
    """The MSP score on a classifier trained on mixtures of images with fractals and with augmented copies.

    x and a partner y are mixed up to four times, as a x + b y of values from -1 to 1, or as x^a y^b of values from 0 to
    2: a ~ Beta(3, 1), b ~ Beta(1, 3), or for half of the mixtures a - 1 ~ Beta(1, 3) and -b ~ Beta(1, 3).

    Differs: the authors' mixing pictures are thousands of fractals and feature visualisations that others have made;
    here they are 300 fractals that this file's helper draws: attractors of iterated function systems, Julia sets and
    fractional noise. Grey images are mixed with grey pictures. OpenOOD adds the operations that overlap with
    ImageNet-C's corruptions, which the authors' default and ours leaves out. Optimizer, schedule, crops and flips are
    those of the recipe that the setting `like` names.
    """

    in_all = False
    recipe = "pixmix"
