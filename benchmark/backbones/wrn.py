"""Wide residual networks for 32 x 32 images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import backbone
from oodbench.benchmark.backbones._residual import Staged, StagedNetwork, initialise_by_fan_out


class WideBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions, dropout between them, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = dropout
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        if self.dropout:
            out = F.dropout(out, self.dropout, self.training)
        shortcut: Tensor = x if self.convShortcut is None else self.convShortcut(active)
        total: Tensor = shortcut + self.conv2(out)
        return total


class Stage(nn.Module):
    """Blocks of one resolution; the first block reduces it. `layer` has its name in public weight files."""

    def __init__(self, count: int, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        first = WideBlock(inputs, outputs, stride, dropout)
        self.layer = nn.Sequential(first, *(WideBlock(outputs, outputs, 1, dropout) for _ in range(count - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        out: Tensor = self.layer(x)
        return out


class WideResNetNetwork(StagedNetwork):
    """Three stages of (depth - 4) / 6 blocks and 16, 32, 64 channels times `widen`, batch norm and ReLU at the end."""

    def __init__(
        self, num_classes: int, channels: int, depth: int, widen: int, dropout: float, statistics: str
    ) -> None:
        super().__init__(statistics, channels)
        count, widths = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.block1 = Stage(count, widths[0], widths[1], 1, dropout)
        self.block2 = Stage(count, widths[1], widths[2], 2, dropout)
        self.block3 = Stage(count, widths[2], widths[3], 2, dropout)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.head = nn.Linear(widths[3], num_classes)
        initialise_by_fan_out(self)

    def maps(self, images: Tensor) -> Tensor:
        """Non-negative feature maps at a quarter of the resolution."""
        x: Tensor = self.conv1(images)
        for stage in self.stages():
            x = stage(x)
        return F.relu(self.bn1(x))

    def stages(self) -> list[nn.Module]:
        """The three stages. Their feature maps are sums and have either sign."""
        return [self.block1, self.block2, self.block3]


@backbone(
    "wrn",
    title="Wide ResNet (WRN-28-10), 32x32",
    paper="Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016 (arXiv:1605.07146)",
    display_name="WRN-28-10",
    cite="zagoruyko2016wrn",
)
class WideResNet(Staged):
    """WRN-`depth`-`widen`; WRN-28-10 has 36,479,194 parameters for K = 10 and 640 features.

    Layers, their names and the initialisation (convolutions He fan-out, the head's bias 0) are those of
    xternalz/WideResNet-pytorch, which the OOD literature uses; an independent implementation. `dropout` is the share of
    units dropped between the convolutions of a block: 0 by default, 0.3 in the paper's variant with dropout.
    Normalisation as in `resnet18`.
    """

    depth: int = 28
    widen: int = 10
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check that the depth is of the form 6 n + 4, and the other settings' ranges."""
        super().__post_init__()
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4, such as 16, 28 or 40, got {self.depth}")
        if self.widen < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"widen must be 1 or more and dropout in [0, 1), got {self.widen} and {self.dropout}")

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Build a network for images of any size."""
        return WideResNetNetwork(num_classes, image_shape[0], self.depth, self.widen, self.dropout, self.normalisation)
