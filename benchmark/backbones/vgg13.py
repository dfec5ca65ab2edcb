"""VGG-13 as released with the confidence loss (Lee et al., ICLR 2018)."""

from __future__ import annotations

from torch import nn

from oodbench.benchmark import backbone
from oodbench.benchmark.backbones._lee2018_convnet import ConvNet, FixedSize, initialise_as_released

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five blocks, each of two convolutions and 2 x 2 pooling: 32 x 32 pixels become 1 x 1."""


@backbone(
    "vgg13",
    title="VGG-13 (config B, no batch norm), 32x32",
    paper="Simonyan & Zisserman, ICLR 2015; as in Lee, Lee, Lee & Shin, ICLR 2018 (arXiv:1711.09325)",
    display_name="VGG-13",
    cite="simonyan2015vgg",
)
class VGG13(FixedSize):
    """Ten 3x3 convolutions with ReLU, five poolings, 512-512-K with ReLU and dropout 0.5 after both hidden layers.

    Network and initialisation follow `src/models/vgg.py` of alinlab/Confident_classifier (commit 462db01); an
    independent implementation. There is no batch norm, so that real and generated images can share a batch. 9,935,434
    parameters for K = 10; features are the 512 inputs of the last linear layer. Images in [0, 1] are not normalised.
    """

    def network(self, num_classes: int) -> ConvNet:
        """Build a network with the released initialisation."""
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            for inputs in (channels, width):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = width
        layers.append(nn.Flatten())
        for _ in range(2):
            layers += [nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)]
        network = ConvNet(nn.Sequential(*layers), nn.Linear(512, num_classes))
        initialise_as_released(network)
        return network
