"""The "simple CNN" of the confidence-loss paper's Figure 2."""

from __future__ import annotations

from torch import nn

from oodbench.benchmark import backbone
from oodbench.benchmark.backbones._lee2018_convnet import ConvNet, FixedSize


@backbone(
    "simple_cnn",
    title="Simple CNN (2 conv, 3 linear), 32x32; sizes recalled",
    paper="Lee, Lee, Lee & Shin, ICLR 2018 (arXiv:1711.09325), Figure 2",
    display_name="Simple CNN",
    cite="lee2018confidence",
)
class SimpleCNN(FixedSize):
    """Two 5x5 convolutions with ReLU and 2x2 pooling, then 2048-2048-K with ReLU; no dropout, no batch norm.

    Known: two convolutions and three linear layers (the paper's text); Adam with learning rate 0.001 (the authors'
    first script). **Recalled [R], not checked against the appendix**: 128 and 256 filters of 5x5 at stride 1, 2x2
    pooling at stride 2, hidden layers of 2048, the second one least certain. Unknown, and therefore PyTorch's defaults:
    padding (none) and initialisation. 18,155,274 parameters for K = 10, 2,048 features.
    """

    def network(self, num_classes: int) -> ConvNet:
        """Build a network with PyTorch's default initialisation."""
        body = nn.Sequential(
            nn.Conv2d(3, 128, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256 * 5 * 5, 2048),
            nn.ReLU(),
            nn.Linear(2048, 2048),
            nn.ReLU(),
        )
        return ConvNet(body, nn.Linear(2048, num_classes))
