"""Decides which images the run's networks take: their channels, height and width, for each ID set.

A network has the channels of its ID set. Where they are fixed, in this order, by the backbone (`Backbone.channels`), by
the first layer in a user's file of weights, or by the suite (`channels` in [protocol]), all images are converted to
them (`data.channels`): grey is repeated in three channels, and a grey network gets colour as luma.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import nn

from oodbench.benchmark.data.channels import are_convertible
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.weights.file import Weights
from oodbench.benchmark.plan.weights.match import fitting_tensors
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.dataset import COLOUR, GREY
from oodbench.benchmark.plugins.networks.parts import device_of
from oodbench.benchmark.stats.seeds import restored_rng

Shape = tuple[int, int, int]
"""Channels, height, width."""


def network_channels(
    backbone: Backbone, weights: Weights | None, suite: int | None, own: int, build: Callable[[int], nn.Module]
) -> int:
    """Channels of the images that a run's network takes for an ID set.

    Args:
        backbone: The run's backbone.
        weights: The user's file; None if networks are trained.
        suite: The channels that the suite gives every network; None for those of the ID set.
        own: Channels of the ID set.
        build: Returns an untrained network for images with a number of channels.

    Returns:
        The number of channels with which the most weights have the network's shapes; without weights, the fixed or the
        ID set's own number.
    """
    if backbone.channels is not None:
        return backbone.channels
    wanted = own if suite is None else suite
    if weights is None:
        return wanted
    fitting: dict[int, int] = {}
    for channels in dict.fromkeys((wanted, COLOUR, GREY)):
        if are_convertible(own, channels):
            with suppress(OodbenchError):  # a backbone may refuse such images
                fitting[channels] = fitting_tensors(weights, backbone, build(channels))
    return max(fitting, key=lambda channels: fitting[channels], default=wanted)


def refuses_channels(backbone: Backbone, build: Callable[[int], nn.Module], shape: Shape) -> str:
    """Why a backbone cannot take images of a shape (C, H, W), if that is because its first layer fixes three channels.

    `build` returns an untrained network for images with a number of channels. Empty if the network takes the images, or
    fails for another reason, which is reported when it is trained.
    """
    if shape[0] == COLOUR or _follows_channels(build, shape[0]):
        return ""
    if _takes(build, shape) or not _takes(build, (COLOUR, *shape[1:])):
        return ""
    return (
        f"backbone '{backbone.name}' builds a network for 3 channels, and these images have {shape[0]}; build its "
        "first layer for image_shape[0] channels, or declare channels = 3 in its class, so that grey images are "
        "repeated"
    )


def _follows_channels(build: Callable[[int], nn.Module], channels: int) -> bool:
    """Whether the shape of the first weight matrix or kernel depends on the images' channels.

    A glance that settles most networks: trying one on the 'meta' device makes torch load a thousand modules.
    """
    try:
        first, other = (next(w.shape for w in build(c).parameters() if w.ndim > 1) for c in (channels, COLOUR))
    except Exception:  # a plug-in may raise anything; `_takes` says what that means
        return False
    return first != other


def _takes(build: Callable[[int], nn.Module], shape: Shape) -> bool:
    """Whether a network built for images of a shape (C, H, W) processes a black one.

    The network is tried in evaluation mode on its own device, which may be 'meta'.
    """
    try:
        network = build(shape[0]).eval()
        with torch.no_grad(), restored_rng(torch.device("cpu")):
            network(torch.zeros(1, *shape, device=device_of(network)))
    except Exception:  # a plug-in may raise anything
        return False
    return True
