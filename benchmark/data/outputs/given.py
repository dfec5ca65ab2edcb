"""What a user brings in place of images and networks: arrays of logits, features, labels and scores, set by set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TRAIN, VAL, TEST = ID_SPLITS = ("train", "val", "test")
"""Splits of the ID set: what detectors learn from, what they calibrate on, and what is scored."""


class GivenHead(NamedTuple):
    """The linear layer that maps features to logits."""

    weight: NDArray[np.floating[Any]]
    """(K, D)."""
    bias: NDArray[np.floating[Any]]
    """(K,)."""


@dataclass(frozen=True)
class GivenArrays:
    """What is known of the N images of one set. Arrays may be memory-mapped; all but one may be missing."""

    count: int
    """Number of images, N."""
    logits: NDArray[np.floating[Any]] | None = None
    """(N, K), finite."""
    features: NDArray[np.floating[Any]] | None = None
    """(N, D), finite."""
    labels: NDArray[np.int64] | None = None
    """Numbers of classes, int64 (N,), in [0, K)."""
    names: tuple[str, ...] | None = None
    """A name for each image, such as its path. They tell whether two methods, or runs, scored the same images."""
    scores: Mapping[str, Mapping[int, NDArray[np.float64]]] = field(default_factory=dict)
    """Method -> seed -> float64 (N,), finite, higher = more OOD whatever its source said."""


@dataclass(frozen=True)
class GivenOutputs:
    """The arrays of an ID set and its OOD sets under one network."""

    source: Path
    """The folder or file that they were read from."""
    title: str
    """Default name of a run on them."""
    id_set: str
    """Name of the ID set, as tables show it."""
    id: Mapping[str, GivenArrays]
    """The ID set's splits, by the names in `ID_SPLITS`; `test` is always there."""
    ood: Mapping[str, GivenArrays]
    """The OOD sets by name, in the order of tables; at least one."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """OOD set -> 'near' or 'far', where it is in one."""
    classes: tuple[str, ...] = ()
    """Names of the K classes, in the order of the logits; empty if only scores are given."""
    head: GivenHead | None = None
    network: str = ""
    """The network in the user's words, such as 'ResNet-50, torchvision V2'."""
    preprocessing: str = ""
    """How images became its input, in the user's words."""
    notes: tuple[str, ...] = ()
    """Remarks to print under the tables."""
