"""`Backbone`: a network architecture that ends in a linear layer on its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from oodbench.benchmark.plugins.base import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from oodbench.benchmark.plugins.pictures import Preprocessing
    from oodbench.benchmark.plugins.recipe import Head

FEATURE_MAPS = "feature maps"
"""What a backbone's blocks return, unless its class says otherwise (`Backbone.map_kind`)."""

IMAGENET_1K = "imagenet-1k"
"""In place of names of outputs: the 1,000 classes of ImageNet-1k, in the order of their WordNet identifiers."""


@dataclass(frozen=True)
class Pretrained:
    """Weights that a backbone's settings ask for, so that nothing is trained."""

    title: str
    """The weights in words: "IMAGENET1K_V2 of torchvision's resnet50"."""
    file: Callable[[], Path]
    """Returns the file of weights, downloaded where it is not yet in the library's own cache. Raises `DataError`, with
    the name of the file and where to put it, if that fails."""
    outputs: int
    """Number of outputs of the head; 0 if they have none (`Backbone.head_from_names`)."""
    labels: str | tuple[str, ...] = ()
    """What the outputs stand for, in their order: `IMAGENET_1K`, or a name each, a WordNet identifier (n01440764) or a
    word; () if that is not known."""


class Backbone(Plugin):
    """A network architecture: builds networks that have features and a linear head.

    Only `build` must be defined. The network that it returns has

    - `features(images) -> (N, D)`, the penultimate features;
    - `head`, a linear layer with bias, from features (N, D) to logits (N, K);
    - `forward(images)`, which equals `head(features(images))`.

    Images arrive as float32 in [0, 1], (N, C, H, W), with the channels of the ID set: 1 if it is grey, 3 if it is in
    colour. Normalisation by mean and standard deviation, if any, is part of the network. Annotated class attributes are
    the settings, as in `Detector`.
    """

    channels: ClassVar[int | None] = None
    """Channels of images for a backbone whose first layer fixes them: with 3, grey images are repeated in three
    channels. None, the default, for a backbone that builds its first layer for `image_shape`."""
    map_kind: ClassVar[str] = FEATURE_MAPS
    """What the outputs of its blocks are. Detectors of maps of another kind are skipped (`Detector.map_kind`)."""

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Say why images of a shape cannot be used. Asked before any training.

        Args:
            image_shape: Channels, height and width, (C, H, W).

        Returns:
            The reason as a phrase, such as "tiny_net needs images of at least 4 x 4 pixels"; None, the default, if the
            images can be used.
        """
        return None

    def refuses_classes(self, num_classes: int, image_shape: tuple[int, int, int]) -> str | None:
        """Say why a network for a number of classes cannot be built. Asked before any training.

        Args:
            num_classes: Number of classes, K.
            image_shape: Channels, height and width, (C, H, W), which `refuses` accepts.

        Returns:
            The reason as a phrase; None, the default, if it can be built.
        """
        return None

    @property
    def is_pretrained(self) -> bool:
        """Whether its networks come with trained weights, so that their preprocessing applies to every set."""
        return self.pretrained_weights() is not None

    @property
    def statistics(self) -> str:
        """Mean and standard deviation with which its networks normalise pixels, for notes under tables; "" for none."""
        return ""

    def preprocessing(self) -> Preprocessing | None:
        """How pictures of any size become this network's input, as its weights were trained or are evaluated.

        Returns:
            Resize, crop and interpolation; None, the default, for a network that is built for images of any size: it
            gets sets of one size as they are, and pictures of any size at 32 x 32.
        """
        return None

    def pretrained_weights(self) -> Pretrained | None:
        """The weights that the settings ask for.

        Returns:
            Where to find them, and what their outputs stand for; None, the default, for networks that are trained.
        """
        return None

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Build a freshly initialised network.

        Args:
            num_classes: Number of classes, K.
            image_shape: Channels, height and width of the images, (C, H, W).

        Returns:
            A module with `features`, `head` and `forward`, as described above.
        """
        raise NotImplementedError

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Return the modules of a built network whose outputs are its blocks' feature maps, (N, C, H, W), in order.

        Detectors that read feature maps attach forward hooks to them. Without blocks, the default, such detectors are
        skipped.
        """
        return []

    def head_from_names(self, network: nn.Module, names: Sequence[str]) -> Head:
        """Make a head of the names of classes, as networks of images and texts can.

        A backbone that defines it is used with given weights, whose file has no head: class names take the place of
        training.

        Args:
            network: A network that `build` returned, with the given weights but for its head, in evaluation mode.
            names: The names of the K classes in the order of the labels, as words.

        Returns:
            Weight (K, D) and bias (K,), finite; the same for the same names.
        """
        raise NotImplementedError

    def weight_name(self, network: nn.Module, name: str) -> str:
        """Translate the name of a weight in a user's file (`bench run --checkpoint`) to the network's own name.

        Args:
            network: A network that `build` returned.
            name: The name in the file.

        Returns:
            The name in the network's state dict; `name` itself by default.
        """
        return name


class Network(Protocol):
    """The part of a backbone's network that other modules use, as a type."""

    head: nn.Module

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features, (N, D), of images (N, C, H, W)."""
        ...
