"""The DCGAN of the confidence-loss paper (Radford et al. 2016), for 32 x 32 images in [0, 1].

Generator: z (100) -> 4x4 -> 8x8 -> 16x16 -> 32x32 by transposed 4x4 convolutions with batch norm and ReLU, and a final
sigmoid. Discriminator: the mirror image with leaky ReLU 0.2 and no batch norm in the first layer. It returns a logit,
because binary cross-entropy on logits is the stable form of the released script's sigmoid + BCE. For grey images both
have one channel, whatever the classifier's: in three, samples would differ from the images by their colour alone.
Widths are 512-256-128 as released for `width` = 128, and scale with `width`. Weights N(0, 0.02), batch norm N(1, 0.02).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError

LATENT = 100

ALIKE = 0.002
"""Standard deviation among samples, in the mean over pixels, below which they are alike: half of a shade of grey."""

CERTAIN = 1e-3
"""A discriminator is certain if its mean probabilities of images and of samples are that near to 0 or 1."""


def generator(width: int, channels: int) -> nn.Sequential:
    """z (N, 100, 1, 1) -> images (N, channels, 32, 32) in [0, 1]."""

    def up(inputs: int, outputs: int, stride: int, padding: int) -> list[nn.Module]:
        layer = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

    return _initialised(
        nn.Sequential(
            *up(LATENT, 4 * width, 1, 0),
            *up(4 * width, 2 * width, 2, 1),
            *up(2 * width, width, 2, 1),
            nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False),
            nn.Sigmoid(),
        )
    )


def discriminator(width: int, channels: int) -> nn.Sequential:
    """Images (N, channels, 32, 32) -> logits of being real, (N, 1, 1, 1)."""

    def down(inputs: int, outputs: int) -> list[nn.Module]:
        layer = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]

    return _initialised(
        nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            *down(width, 2 * width),
            *down(2 * width, 4 * width),
            nn.Conv2d(4 * width, 1, 4, 1, 0, bias=False),
        )
    )


def gan_networks(width: int, image_shape: tuple[int, int, int], repeats_grey: bool = False) -> dict[str, nn.Module]:
    """A new generator and discriminator. Raises `DataError` for images that are not 32 x 32.

    With `repeats_grey`, images (N, C, 32, 32) have C equal channels: the generator draws one channel and repeats it,
    and the discriminator sees the first.
    """
    channels, *size = image_shape
    if size != [32, 32]:
        raise DataError(f"The DCGAN draws 32 x 32 images; these are {size[0]} x {size[1]}. Use a recipe without it.")
    if not repeats_grey:
        return {"generator": generator(width, channels), "discriminator": discriminator(width, channels)}
    return {
        "generator": nn.Sequential(*generator(width, 1), Repeated(channels)),
        "discriminator": nn.Sequential(FirstChannel(), *discriminator(width, 1)),
    }


class Repeated(nn.Module):
    """One channel, repeated: (N, 1, H, W) -> (N, `channels`, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """The same pixels in every channel."""
        return images.repeat(1, self.channels, 1, 1)


class FirstChannel(nn.Module):
    """The first of several equal channels: (N, C, H, W) -> (N, 1, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        """The pixels of one channel."""
        return images[:, :1]


def noise(count: int, random: torch.Generator) -> Tensor:
    """z ~ N(0, 1), (count, 100, 1, 1), on the generator's device."""
    return torch.randn(count, LATENT, 1, 1, generator=random, device=random.device)


def discriminator_loss(network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """-log D(real) - log(1 - D(fake)), each a batch mean; two passes, for separate batch-norm statistics."""
    return loss_of_logits(network(real), network(fake))


def loss_of_logits(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's loss from its logits of images and of samples."""
    return F.binary_cross_entropy_with_logits(
        real_logits, torch.ones_like(real_logits)
    ) + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))


@torch.no_grad()
def health(real_logits: Tensor, fake_logits: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """What shows that the training of a GAN has failed, as scalars by name (`collapse`).

    The mean probabilities that the discriminator gives to images and to samples of being images, and the mean over
    pixels of the standard deviation among samples (N, C, H, W), 0 for a single one.
    """
    return {
        "p_real": torch.sigmoid(real_logits).mean(),
        "p_fake": torch.sigmoid(fake_logits).mean(),
        "sample_deviation": fake.std(dim=0, correction=0).mean(),
    }


def collapse(means: Mapping[str, float]) -> str | None:
    """What has failed, by the means of `health` over an epoch, as a clause; None if nothing has."""
    if means["sample_deviation"] < ALIKE:
        return f"all samples of the generator are alike (standard deviation {means['sample_deviation']:.2g})"
    real, fake = means["p_real"], means["p_fake"]
    if all(min(p, 1 - p) < CERTAIN for p in (real, fake)):
        return f"the discriminator was certain for an epoch (probability {real:.5f} of images, {fake:.5f} of samples)"
    return None


def generator_loss(network: nn.Module, fake: Tensor) -> Tensor:
    """The non-saturating loss -log D(fake), batch mean."""
    logits = network(fake)
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


@torch.no_grad()
def picture(network: nn.Module, random: torch.Generator, count: int = 64) -> Tensor:
    """Generated images in [0, 1], (count, channels, 32, 32), with the generator in evaluation mode."""
    was_training = network.training
    images: Tensor = network.eval()(noise(count, random))
    network.train(was_training)
    return images


def _initialised(network: nn.Sequential) -> nn.Sequential:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    return network
