"""Any network of timm, which is an optional dependency."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from oodbench.benchmark import DataError, backbone
from oodbench.benchmark.backbones._normalise import Normalise
from oodbench.benchmark.backbones._third_party import Found, FoundNetwork, blocks_of

ABSENT = "backbone 'timm' needs the package timm, which is not installed: pip install 'oodbench[timm]'"


class TimmNetwork(FoundNetwork):
    """A timm network with timm's own pooling of features."""

    def features(self, images: Tensor) -> Tensor:
        """`forward_head(forward_features(images), pre_logits=True)`, (N, D)."""
        network: Any = self.network
        features: Tensor = network.forward_head(network.forward_features(self.normalise(images)), pre_logits=True)
        return features


@backbone("timm", title="Any network of timm: timm:NAME (needs timm)", paper="Wightman, PyTorch Image Models, 2019")
class TimmModel(Found):
    """`timm:resnet26`, short for `timm[model=resnet26]`: a network of timm, freshly initialised; nothing is downloaded.

    The head is `get_classifier()`, and features are the output of `forward_head(..., pre_logits=True)`. Blocks are the
    last feature maps of each resolution in `forward_features`. A network with a fixed image size is built for the size
    of the ID set's images.
    """

    def __post_init__(self) -> None:
        """Check the name, if timm is installed."""
        super().__post_init__()
        if _timm() is not None and not _timm().is_model(self.model):
            raise ValueError(f"timm has no network '{self.model}' (timm.list_models())")

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Refuse if timm is not installed, or if the network does not accept the images."""
        return ABSENT if _timm() is None else super().refuses(image_shape)

    def create(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Create the network without pretrained weights; with `img_size` if it has that option."""
        timm = _timm()
        if timm is None:
            raise DataError(f"{ABSENT[0].upper()}{ABSENT[1:]}.")
        options = {"pretrained": False, "num_classes": num_classes, "in_chans": image_shape[0]}
        with suppress(TypeError):
            sized: nn.Module = timm.create_model(self.model, img_size=image_shape[1:], **options)
            return sized
        network: nn.Module = timm.create_model(self.model, **options)
        return network

    def wrapped(self, network: nn.Module, num_classes: int, image_shape: tuple[int, int, int]) -> FoundNetwork:
        """Separate the classifier. Raises `DataError` if it is not a linear layer on features (N, D)."""
        inner: Any = network
        head = inner.get_classifier()
        name = next((name for name, module in network.named_modules() if module is head), "")
        if not name or not isinstance(head, nn.Linear) or head.bias is None or head.out_features != num_classes:
            raise self.no_head()
        _, seen = self.tried(network, inner.forward_features, image_shape)
        features, _ = self.tried(
            network, lambda x: inner.forward_head(inner.forward_features(x), pre_logits=True), image_shape
        )
        if features.shape != (1, head.in_features):
            raise self.no_head()
        return TimmNetwork(network, name, blocks_of(seen, image_shape), Normalise(self.normalisation, image_shape[0]))


def _timm() -> Any:
    """The package timm; None if it is not installed."""
    return importlib.import_module("timm") if importlib.util.find_spec("timm") else None
