"""The LeNets of Deep SVDD and Deep SAD: encoders without bias terms, and the decoders that pre-train them.

A bias would let the encoder map every image to the centre: all weights 0, the last bias the centre (Ruff et al. 2018,
proposition 2). Batch norm therefore has no shift and no scale (`affine=False`), with eps 1e-4 as in the authors' code.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AUTO = "auto"


class Sizes(NamedTuple):
    """The widths of one of the authors' encoders."""

    channels: tuple[int, ...]
    """Channels of the convolutions, each 5 x 5, followed by batch norm, leaky ReLU and a maximum over 2 x 2."""
    code: int
    """Number of features, a multiple of 16."""
    hidden: int = 0
    """Units of a linear layer with batch norm and leaky ReLU before the code, and of one behind it in the decoder, a
    multiple of 16; 0 for none."""
    xavier: bool = False
    """Whether the decoder's convolutions start from Xavier's uniform distribution, and not from torch's default."""


NETWORKS = {
    "mnist": Sizes((8, 4), 32),
    "fashion": Sizes((16, 32), 64, hidden=128),
    "cifar10": Sizes((32, 64, 128), 128, xavier=True),
}
"""Values of the setting `network`, beside `AUTO`."""


def sizes_of(network: str, channels: int) -> Sizes:
    """The widths that a setting `network` names; "auto" is "mnist" for grey images and "cifar10" for others."""
    return NETWORKS[network if network != AUTO else "mnist" if channels == 1 else "cifar10"]


def require_network(network: str) -> None:
    """Raise `ValueError` for a setting `network` that names none."""
    if network != AUTO and network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join((AUTO, *NETWORKS))}, got '{network}'")


class Encoder(nn.Module):
    """Images (N, C, H, W) -> codes (N, D), without bias terms."""

    def __init__(self, sizes: Sizes, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        before, height, width = image_shape
        layers: list[nn.Module] = []
        for channels in sizes.channels:
            convolution = nn.Conv2d(before, channels, 5, padding=2, bias=False)
            layers += [convolution, nn.BatchNorm2d(channels, eps=1e-4, affine=False), nn.LeakyReLU(), nn.MaxPool2d(2)]
            before, height, width = channels, height // 2, width // 2
        units = before * height * width
        if units == 0:
            least = 2 ** len(sizes.channels)
            raise ValueError(f"the network needs images of at least {least} x {least} pixels, got {image_shape[1:]}")
        layers.append(nn.Flatten())
        if sizes.hidden:
            hidden = nn.Linear(units, sizes.hidden, bias=False)
            layers += [hidden, nn.BatchNorm1d(sizes.hidden, eps=1e-4, affine=False), nn.LeakyReLU()]
        layers.append(nn.Linear(sizes.hidden or units, sizes.code, bias=False))
        self.layers = nn.Sequential(*layers)

    def features(self, images: Tensor) -> Tensor:
        """Codes (N, D), of either sign."""
        codes: Tensor = self.layers(images)
        return codes

    def forward(self, images: Tensor) -> Tensor:
        """The same."""
        return self.features(images)


class Decoder(nn.Module):
    """Codes (N, D) -> images (N, C, H, W) in [0, 1], by transposed convolutions of enlarged maps, without bias terms.

    A code, or the hidden layer behind it, is read as maps of 4 x 4, which grow step by step to the sides of the image:
    8, 16 and 32 for an encoder with two convolutions, or 4, 8, 16 and 32 for one with three. The authors' images have
    sides of 28, for which their maps lose two pixels on the way: 8, 14 and 28.
    """

    def __init__(self, sizes: Sizes, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, *self.image = image_shape
        hidden = [nn.Linear(sizes.code, sizes.hidden, bias=False)] if sizes.hidden else []
        normed = [nn.BatchNorm1d(sizes.hidden, eps=1e-4, affine=False)] if sizes.hidden else []
        self.hidden = nn.Sequential(*hidden, *normed)
        widths = [(sizes.hidden or sizes.code) // 16, *reversed(sizes.channels), channels]
        convolutions = [nn.ConvTranspose2d(one, other, 5, padding=2, bias=False) for one, other in pairwise(widths)]
        self.convolutions = nn.ModuleList(convolutions)
        for convolution in convolutions if sizes.xavier else ():
            nn.init.xavier_uniform_(convolution.weight, gain=nn.init.calculate_gain("leaky_relu"))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-4, affine=False) for width in widths[1:-1])

    def forward(self, codes: Tensor) -> Tensor:
        """Reconstructions (N, C, H, W)."""
        maps = F.leaky_relu(self.hidden(codes).unflatten(1, (-1, 4, 4)))
        last = len(self.convolutions) - 1
        for step, convolution in enumerate(self.convolutions):
            sides = [math.ceil(side / 2 ** (last - step)) for side in self.image]
            maps = convolution(F.interpolate(maps, size=sides))
            if step < last:
                maps = F.leaky_relu(self.norms[step](maps))
        return torch.sigmoid(maps)
