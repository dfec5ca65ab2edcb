"""A class-conditional variational autoencoder, and samples at the boundary of the ID data that are made with it.

The networks are those of the code released for Vernekar et al., Out-of-distribution Detection in Classifiers via
Generation (2019, arXiv:1910.04241): two strided 3 x 3 convolutions each way, a hidden layer of 16 before the latent
vector, the class as a one-hot vector beside the encoder's hidden features and beside the latent vector.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUANTILE = 0.95
"""Share of latent vectors inside of the smallest ellipsoid that boundary samples are drawn from."""
OUTER = 1.5
"""Radius of the largest one in radii of the smallest."""
SHORTEST = 0.1
"""Length of the shortest step off the manifold, in the images' units; the longest is the root of their dimension."""


class Encoder(nn.Module):
    """Images (N, C, H, W) in [0, 1] and one-hot labels (N, K) -> means and log variances of z, each (N, latent)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, latent: int, width: int) -> None:
        super().__init__()
        channels, height, side = image_shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(2 * width * -(-height // 4) * -(-side // 4) + classes, 16)
        self.latent = nn.Linear(16, 2 * latent)

    def forward(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's parameters."""
        hidden = F.relu(self.hidden(torch.cat([self.body(images), classes], dim=1)))
        means, log_variances = self.latent(hidden).chunk(2, dim=1)
        return means, log_variances


class Decoder(nn.Module):
    """Latent vectors (N, latent) and one-hot labels (N, K) -> logits of pixels, (N, C, H, W)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, latent: int, width: int) -> None:
        super().__init__()
        channels, self.height, self.side = image_shape
        self.start = (2 * width, -(-self.height // 4), -(-self.side // 4))
        self.latent, self.classes = latent, classes
        self.hidden = nn.Linear(latent + classes, math.prod(self.start))
        self.body = nn.Sequential(
            nn.ConvTranspose2d(2 * width, 2 * width, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, 1, 1),
        )

    def forward(self, z: Tensor, classes: Tensor) -> Tensor:
        """Logits whose sigmoids are the pixels, cut to the images' size."""
        hidden = F.relu(self.hidden(torch.cat([z, classes], dim=1))).unflatten(1, self.start)
        logits: Tensor = self.body(hidden)[:, :, : self.height, : self.side]
        return logits


def negative_elbo(images: Tensor, logits: Tensor, means: Tensor, log_variances: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy of the pixels, and KL(N(means, variances) || N(0, I)): sums, (N,) each, in nats."""
    pixels = F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(dim=1)
    return pixels, (means.square() + log_variances.exp() - 1 - log_variances).sum(dim=1) / 2


def quantile_radius(latent: int) -> float:
    """The distance from 0 within which the share `QUANTILE` of N(0, I) lies, in `latent` dimensions."""
    from scipy.stats import chi  # imported late: it takes long, and every run imports this file

    return float(chi.ppf(QUANTILE, latent))


def outer_latents(count: int, latent: int, generator: torch.Generator) -> Tensor:
    """(count, latent): random directions, at radii uniform from the 95% quantile of N(0, I) to 1.5 times that."""
    device = generator.device
    directions = F.normalize(torch.randn(count, latent, generator=generator, device=device), dim=1)
    inner = quantile_radius(latent)
    radii = torch.rand(count, 1, generator=generator, device=device)
    return directions * inner * (1 + (OUTER - 1) * radii)


def tangents(decoder: nn.Module, z: Tensor, classes: Tensor) -> Tensor:
    """Derivatives J of decoded pixels with respect to each latent variable, (N, C H W, latent).

    One pass forward, and one backward for J^T u; its derivatives with respect to u are the columns.
    """
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        pixels = torch.sigmoid(decoder(at, classes).to(z.dtype).flatten(1))
        dual = torch.zeros_like(pixels, requires_grad=True)
        (product,) = torch.autograd.grad(pixels, at, dual, create_graph=True)
        columns = [torch.autograd.grad(column.sum(), dual, retain_graph=True)[0] for column in product.unbind(dim=1)]
    return torch.stack(columns, dim=2)


def off_the_manifold(images: Tensor, tangent: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved at right angles to the columns of `tangent` (N, C H W, latent), and cut to [0, 1].

    Lengths are uniform from 0.1 to the root of the number of values in an image, as released (28 for MNIST).
    """
    device, dimension = generator.device, tangent.shape[1]
    drawn = torch.randn(len(images), dimension, 1, generator=generator, device=device).to(tangent.dtype)
    basis = torch.linalg.qr(tangent)[0]
    normal = F.normalize((drawn - basis @ (basis.mT @ drawn)).squeeze(2), dim=1)
    share = torch.rand(len(images), 1, generator=generator, device=device).to(tangent.dtype)
    length = SHORTEST + (math.sqrt(dimension) - SHORTEST) * share
    return (images + (length * normal).view_as(images)).clamp(0, 1)


def boundary_samples(
    encoder: Encoder, decoder: Decoder, images: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """As many samples as images, (N, C, H, W) in [0, 1]: half moved off the manifold, half at its boundary.

    The first half are images, moved at right angles to the manifold that the decoder describes. The second are decoded
    from latent vectors farther out than most of their class.
    """
    one_hot = F.one_hot(labels, decoder.classes).to(images.dtype)
    half = len(images) // 2
    with torch.no_grad():
        means = encoder(images[:half], one_hot[:half])[0].to(images.dtype)
        moved = off_the_manifold(images[:half], tangents(decoder, means, one_hot[:half]).to(images.dtype), generator)
        z = outer_latents(len(images) - half, means.shape[1], generator).to(images.dtype)
        decoded = torch.sigmoid(decoder(z, one_hot[half:])).to(images.dtype)
    return torch.cat([moved, decoded])
