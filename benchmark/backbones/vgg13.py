"""VGG-13 as released with the confidence loss."""

from __future__ import annotations

from torch import nn

from oodbench.benchmark import backbone
from oodbench.benchmark.backbones._lee2018_convnet import ConvNet, FixedSize, initialise_as_released

WIDTHS = (64, 128, 256, 512, 512)
"""Two convolutions each, then a 2 x 2 pool: 32 x 32 pixels become 1 x 1."""


@backbone(
    "vgg13",
    title="VGG-13 (config B, no batch norm), 32x32",
    paper="Simonyan & Zisserman, ICLR 2015; as in Lee, Lee, Lee & Shin, ICLR 2018 (arXiv:1711.09325)",
)
class VGG13(FixedSize):
    """Ten 3x3 convolutions with ReLU, five pools, 512-512-K with ReLU and dropout 0.5 after either hidden layer.

    Source: `src/models/vgg.py` of alinlab/Confident_classifier (commit 462db01), network and initialisation; written
    anew. No batch norm, so that real and generated images may share a batch. 9,935,434 parameters for K = 10; features
    are the 512 inputs of the last linear layer. Images come in [0, 1], without mean or standard deviation taken out.
    """

    def network(self, num_classes: int) -> ConvNet:
        """Fresh weights as the release draws them."""
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
