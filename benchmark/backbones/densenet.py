"""Densely connected networks for 32 x 32 images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import backbone
from oodbench.benchmark.backbones._residual import Staged, StagedNetwork, initialise_by_fan_out


class Bottleneck(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to 4 k channels, batch norm, ReLU, 3x3 to k; appended to the input."""

    def __init__(self, inputs: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, inputs + growth, H, W)."""
        out = self.drop(self.conv1(F.relu(self.bn1(x))))
        return torch.cat([x, self.drop(self.conv2(F.relu(self.bn2(out))))], dim=1)

    def drop(self, x: Tensor) -> Tensor:
        """Dropout after a convolution, in training mode only."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Dense(nn.Module):
    """A dense block: bottlenecks at one resolution. `layer` has its name in public weight files."""

    def __init__(self, count: int, inputs: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(Bottleneck(inputs + k * growth, growth, dropout) for k in range(count)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, inputs + count * growth, H, W)."""
        out: Tensor = self.layer(x)
        return out


class Transition(nn.Module):
    """Batch norm, ReLU, a 1x1 convolution, and 2 x 2 average pooling."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""
        out = self.conv1(F.relu(self.bn1(x)))
        if self.dropout:
            out = F.dropout(out, self.dropout, self.training)
        return F.avg_pool2d(out, 2)


class DenseNetNetwork(StagedNetwork):
    """Three dense blocks of (depth - 4) / 6 bottlenecks, two transitions, batch norm and ReLU at the end."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        depth: int,
        growth: int,
        reduction: float,
        dropout: float,
        statistics: str,
    ) -> None:
        super().__init__(statistics, channels)
        count, width = (depth - 4) // 6, 2 * growth
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.block1 = Dense(count, width, growth, dropout)
        width += count * growth
        self.trans1 = Transition(width, int(width * reduction), dropout)
        width = int(width * reduction)
        self.block2 = Dense(count, width, growth, dropout)
        width += count * growth
        self.trans2 = Transition(width, int(width * reduction), dropout)
        width = int(width * reduction)
        self.block3 = Dense(count, width, growth, dropout)
        width += count * growth
        self.bn1 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)
        initialise_by_fan_out(self)

    def maps(self, images: Tensor) -> Tensor:
        """Non-negative feature maps at a quarter of the resolution."""
        x = self.trans1(self.block1(self.conv1(images)))
        x = self.block3(self.trans2(self.block2(x)))
        return F.relu(self.bn1(x))

    def stages(self) -> list[nn.Module]:
        """The three dense blocks, without their transitions."""
        return [self.block1, self.block2, self.block3]


@backbone(
    "densenet",
    title="DenseNet-BC (100 layers, growth 12), 32x32",
    paper="Huang, Liu, van der Maaten & Weinberger, CVPR 2017 (arXiv:1608.06993); as in ODIN (arXiv:1706.02690)",
    display_name="DenseNet-BC",
    cite="huang2017densenet",
)
class DenseNet(Staged):
    """DenseNet-BC-`depth`-`growth`, with bottlenecks and transitions that keep the share `reduction` of the channels.

    The "DenseNet-100-12" of ODIN and later papers is DenseNet-BC-100-12: 769,162 parameters for K = 10, 342 features.
    (Without bottlenecks and compression, 100-12 would have about 7 million.) Layers, their names and the initialisation
    (convolutions He fan-out, the head's bias 0) are those of andreasveit/densenet-pytorch, which that literature uses;
    an independent implementation. Normalisation as in `resnet18`.
    """

    depth: int = 100
    growth: int = 12
    reduction: float = 0.5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check that the depth is of the form 6 n + 4, and the other settings' ranges."""
        super().__post_init__()
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4, such as 40, 100 or 190, got {self.depth}")
        if self.growth < 1 or not 0 < self.reduction <= 1 or not 0 <= self.dropout < 1:
            got = f"{self.growth}, {self.reduction} and {self.dropout}"
            raise ValueError(f"growth must be 1 or more, reduction in (0, 1] and dropout in [0, 1), got {got}")

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Build a network for images of at least 4 x 4 pixels."""
        return DenseNetNetwork(
            num_classes,
            image_shape[0],
            self.depth,
            self.growth,
            self.reduction,
            self.dropout,
            self.normalisation,
        )
