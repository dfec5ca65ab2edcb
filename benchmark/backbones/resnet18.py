"""ResNet-18 for 32 x 32 images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import backbone
from oodbench.benchmark.backbones._residual import Staged, StagedNetwork


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18Network(StagedNetwork):
    """A 3x3 convolution at full resolution without pooling, then four stages of two blocks."""

    def __init__(self, num_classes: int, channels: int, width: int, statistics: str) -> None:
        super().__init__(statistics, channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 2)
        self.head = nn.Linear(8 * width, num_classes)

    def maps(self, images: Tensor) -> Tensor:
        """Non-negative feature maps at an eighth of the resolution."""
        x: Tensor = F.relu(self.bn1(self.conv1(images)))
        for stage in self.stages():
            x = stage(x)
        return x

    def stages(self) -> list[nn.Module]:
        """The four stages."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))


@backbone(
    "resnet18",
    title="ResNet-18 for 32x32 images (3x3 stem, no max-pool)",
    paper="He, Zhang, Ren & Sun, Deep Residual Learning, CVPR 2016; stem as OpenOOD's resnet18_32x32",
    display_name="ResNet-18",
    cite="he2016resnet",
)
class ResNet18(Staged):
    """A 3x3 stem at stride 1 and four stages of 64, 128, 256, 512 channels, with batch norm.

    Layers and their names are those of kuangliu/pytorch-cifar, on which OpenOOD's `resnet18_32x32` is based; an
    independent implementation with the same (PyTorch's default) initialisation. 11,173,962 parameters for K = 10;
    features are the 512 channel means of the last stage. `width` scales all stages.

    The network normalises pixels itself, with the statistics that `normalisation` names (cifar10, cifar100, imagenet,
    half, raw). In OpenOOD the data loader does it. The numbers are the same, those of the ID set for every scored set,
    but detectors that perturb pixels do so in [0, 1] here and in normalised units there.
    """

    width: int = 64

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Build a network with PyTorch's default initialisation, for images of any size."""
        return ResNet18Network(num_classes, image_shape[0], self.width, self.normalisation)

    def weight_name(self, network: nn.Module, name: str) -> str:
        """Rename the head, and the shortcuts of torchvision's ResNet-18, whose layers are the same otherwise."""
        return super().weight_name(network, name).replace(".downsample.", ".shortcut.")
