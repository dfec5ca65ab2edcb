"""Names of weights in the EfficientNets of other packages, as timm's.

The PyTorch port by Luke Melas-Kyriazi (efficientnet_pytorch), and packages that follow it, number blocks through all
stages and name layers by what they do: `_blocks.1._expand_conv.weight` is timm's `blocks.1.0.conv_pw.weight`.
"""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
"""Layers before and after the blocks, by their names in the port."""

EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Layers of a block that widens its input first."""

PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Layers of a block that does not."""

SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
"""Layers of a squeeze in either."""

INSIDE = re.compile(r"_blocks\.(\d{1,3})\.(_\w+)\.(.+)")


def timm_name(name: str, network: Any) -> str:
    """A name of the port as timm's for an EfficientNet of timm; any other name as it is."""
    stages = getattr(network, "blocks", None)
    if not name.startswith("_") or stages is None:
        return name
    layer, dot, rest = name.partition(".")
    if layer in OUTSIDE:
        return f"{OUTSIDE[layer]}{dot}{rest}"
    inside = INSIDE.fullmatch(name)
    if inside is None:
        return name
    places = [(stage, number) for stage, blocks in enumerate(stages) for number in range(len(blocks))]
    if int(inside[1]) >= len(places):
        return name
    stage, number = places[int(inside[1])]
    names = {**(EXPANDING if hasattr(stages[stage][number], "conv_pwl") else PLAIN), **SQUEEZE}
    return f"blocks.{stage}.{number}.{names.get(inside[2], inside[2])}.{inside[3]}"
