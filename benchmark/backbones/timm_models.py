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
    """Features as timm pools them."""

    def features(self, images: Tensor) -> Tensor:
        """`forward_head(forward_features(images), pre_logits=True)`, (N, D)."""
        network: Any = self.network
        features: Tensor = network.forward_head(network.forward_features(self.normalise(images)), pre_logits=True)
        return features


@backbone("timm", title="Any network of timm: timm:NAME (needs timm)", paper="Wightman, PyTorch Image Models, 2019")
class TimmModel(Found):
    """`timm:resnet26`, short for `timm[model=resnet26]`; freshly initialised, as timm does; nothing is downloaded.

    The head is `get_classifier()`, features are what `forward_head(..., pre_logits=True)` gives it; blocks are the
    last maps of each resolution in `forward_features`. A network that fixes its image size is built for the ID set's.
    """

    def __post_init__(self) -> None:
        """Refuse a name that timm, where it is installed, does not have."""
        super().__post_init__()
        if _timm() is not None and not _timm().is_model(self.model):
            raise ValueError(f"timm has no network '{self.model}' (timm.list_models())")

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Also without the package."""
        return ABSENT if _timm() is None else super().refuses(image_shape)

    def create(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Without weights; with `img_size` where the network has that option."""
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
        """The network with its classifier apart."""
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
    """The package; None where it is not installed."""
    return importlib.import_module("timm") if importlib.util.find_spec("timm") else None
