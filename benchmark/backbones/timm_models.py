"""Any network of timm, which is an optional dependency."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from oodbench.benchmark import DataError, FoundNetwork, Preprocessing, Pretrained, backbone, blocks_of
from oodbench.benchmark.backbones._downloads import from_hub, from_url, suggested
from oodbench.benchmark.backbones._efficientnet_names import timm_name
from oodbench.benchmark.backbones._third_party import Found

ABSENT = "backbone 'timm' needs the package timm, which is not installed: pip install 'oodbench[timm]'"


class TimmNetwork(FoundNetwork):
    """A timm network with timm's own pooling of features."""

    def features(self, images: Tensor) -> Tensor:
        """`forward_head(forward_features(images), pre_logits=True)`, (N, D)."""
        network: Any = self.network
        features: Tensor = network.forward_head(network.forward_features(self.normalise(images)), pre_logits=True)
        return features


@backbone(
    "timm",
    title="Any network of timm: timm:NAME (needs timm)",
    paper="Wightman, PyTorch Image Models, 2019",
    display_name="timm",
    cite="wightman2019timm",
)
class TimmModel(Found):
    """`timm:resnet26`, short for `timm[model=resnet26]`: a network of timm.

    It is freshly initialised, or, with `pretrained`, has the weights that timm publishes under this name, whose tag
    after the dot says which: `timm:vit_base_patch16_224.augreg2_in21k_ft_in1k[pretrained=true]`. They are downloaded
    into the cache of huggingface_hub or torch.hub.

    The head is `get_classifier()`, and features are the output of `forward_head(..., pre_logits=True)`. Blocks are the
    last feature maps of each resolution in `forward_features`. A network with a fixed image size is built for the size
    of the ID set's images.
    """

    pretrained: bool = False

    def __post_init__(self) -> None:
        """Check the name, if timm is installed."""
        super().__post_init__()
        timm = _timm()
        if timm is None:
            return
        name, _, tag = self.model.partition(".")
        if not timm.is_model(name):
            near = suggested(f"timm has no network '{name}'", name, timm.list_models())
            raise ValueError(f"{near} (timm.list_models())")
        tags = [full.partition(".")[2] for full in timm.list_models(f"{name}.*", pretrained=True)]
        if tag and tag not in tags:
            raise ValueError(suggested(f"timm has no weights '{tag}' of {name}", tag, tags))
        if self.pretrained and not self._config():
            raise ValueError(f"timm has no weights of {name}")
        if self.pretrained and not self._config().get("num_classes"):
            raise ValueError(f"timm's weights {self.model} have no classifier")

    def _config(self) -> dict[str, Any]:
        """What timm knows about the weights of this name, or its default weights; empty if there are none."""
        timm = _timm()
        found = timm.models.get_pretrained_cfg(self.model) if timm else None
        return found.to_dict() if found else {}

    def _evaluation(self) -> dict[str, Any]:
        """The sizes and statistics with which timm evaluates these weights; empty without timm."""
        timm = _timm()
        resolved: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=self._config()) if timm else {}
        return resolved

    def own_statistics(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Mean and standard deviation that timm evaluates with."""
        found = self._evaluation() if self._config() else {}
        return (found["mean"], found["std"]) if found else None

    def preprocessing(self) -> Preprocessing | None:
        """The transform with which timm evaluates, from `resolve_data_config`; None if timm knows none.

        Raises `DataError` for one that pads pictures or keeps them in another aspect than square.
        """
        if not self._config():
            return None
        found = self._evaluation()
        crop = (found["input_size"][1], found["input_size"][2])
        scaled = tuple(math.floor(side / found["crop_pct"]) for side in crop)
        if found["crop_mode"] == "squash":
            return Preprocessing((scaled[0], scaled[1]), None if scaled == crop else crop, found["interpolation"])
        if found["crop_mode"] != "center" or crop[0] != crop[1]:
            raise DataError(
                f"timm evaluates {self.model} at {crop[0]} x {crop[1]} pixels with the crop mode "
                f"'{found['crop_mode']}', which oodbench does not have: give --resize and --crop."
            )
        return Preprocessing(scaled[0], crop, found["interpolation"])

    def pretrained_weights(self) -> Pretrained | None:
        """The weights that the name stands for, from the hub where timm has them there, else from their address."""
        if not self.pretrained or _timm() is None:
            return None
        config = self._config()
        title = f"of timm's {config.get('architecture')}.{config.get('tag')}".rstrip(".")
        return Pretrained(title, lambda: _fetched(title, config), config["num_classes"], _labels(config))

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
        blocks = blocks_of(seen, image_shape, getattr(inner, "num_prefix_tokens", None))
        return TimmNetwork(network, name, blocks, self.normalise(image_shape[0]))

    def weight_name(self, network: nn.Module, name: str) -> str:
        """Translate timm's name of a weight, or for EfficientNets that of a port, to the name in the wrapper."""
        known = timm_name(name, network.network) if isinstance(network, FoundNetwork) else name
        return super().weight_name(network, known)


def _timm() -> Any:
    """The package timm; None if it is not installed."""
    return importlib.import_module("timm") if importlib.util.find_spec("timm") else None


def _fetched(title: str, config: dict[str, Any]) -> Any:
    """The file of weights, from where timm takes it: the hub if it is there, else its address."""
    if config.get("hf_hub_id"):
        return from_hub(title, config["hf_hub_id"], config.get("hf_hub_filename") or "")
    return from_url(title, config["url"])


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """The WordNet identifiers of the outputs, in their order; empty if timm does not know them."""
    data: Any = importlib.import_module("timm.data")
    subset = data.infer_imagenet_subset(config)
    return tuple(data.ImageNetInfo(subset).label_names()) if subset else ()
