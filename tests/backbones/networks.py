"""Backbones and their networks by name, for several test files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone
from oodbench.benchmark.plugins.specs import create, parse_spec

SHAPE = (3, 32, 32)
TV = "torchvision:shufflenet_v2_x0_5"


def backbone(text: str) -> Backbone:
    plugin: Backbone = create("backbone", parse_spec(text))
    return plugin


def build(text: str, classes: int = 10, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return backbone(text).build(classes, shape)


def on_meta(text: str, classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return backbone(text).build(classes, SHAPE)


def maps_of(plugin: Backbone, network: Any, images: Tensor) -> list[Tensor]:
    """The outputs of the blocks in the order in which they return, recorded by hooks."""
    maps: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: maps.append(call[2])) for block in plugin.blocks(network)]
    with torch.no_grad():
        network.features(images)
    for hook in hooks:
        hook.remove()
    return maps
