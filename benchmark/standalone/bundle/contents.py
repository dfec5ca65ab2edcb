"""`Bundle`: everything that a chosen detector needs to score images elsewhere, in memory and as a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from oodbench.benchmark.errors import MetricError, UserError
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.standalone.bundle import file
from oodbench.benchmark.standalone.bundle.scoring import Arithmetic
from oodbench.benchmark.stats.accepted_share import Threshold, rank_of
from oodbench.benchmark.store.tensor_file import pack, unpack

WEIGHTS, BANK, VALIDATION, STATE = "weights.", "bank", "validation", "state."

MOST_SCORES = 20_000
"""Validation scores that a bundle keeps; of more, as many order statistics at equal distances."""


@dataclass(frozen=True)
class PluginUsed:
    """A plug-in of the bundle: what creates it again, and the version that made the numbers."""

    spec: str
    """Its name with settings."""
    version: str
    origin: str
    """Where it came from: 'built-in', a package with its version, or a file."""


@dataclass(frozen=True)
class NetworkWeights:
    """Where the network's weights are, and how to recognise them."""

    sha256: str
    """Over names, types, shapes and values of all tensors of the network's state dict."""
    included: bool
    path: str = ""
    """Where the weights were when the bundle was written."""
    source: str = ""
    """What they are, in words: trained by a recipe, or a user's file."""


@dataclass(frozen=True)
class NetworkInput:
    """What the network takes, and how pictures become that."""

    shape: tuple[int, int, int]
    """Channels, height and width."""
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = ""
    """Of `Preprocessing`; empty without one: pictures of another size are then cut to the centre square and resized."""
    exif: bool = False
    statistics: str = ""
    """Mean and standard deviation with which the network normalises its input itself, in words."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Resize and crop; None if the run had none."""
        return Preprocessing(self.resize, self.crop, self.interpolation) if self.interpolation else None


@dataclass(frozen=True)
class ValidationScores:
    """What a bundle knows of the scores of ID validation images."""

    set: str
    part: str
    images: int
    sha256: str
    """Checksum of the images."""
    groups: int | None
    """Number of groups of images that depend on each other; None if every image is its own."""


@dataclass(frozen=True)
class Bundle:
    """A chosen detector with its network."""

    detector: PluginUsed
    backbone: PluginUsed
    recipe: str
    """The recipe of the network, which builds it again; it is not trained."""
    chosen: Mapping[str, Any]
    """The settings that a rule chose."""
    tuned: Mapping[str, Any]
    """The settings that tuning chose, and on what; empty if none were tuned."""
    weights: NetworkWeights
    input: NetworkInput
    arithmetic: Arithmetic
    outputs: int
    """Number of outputs of the network, K."""
    class_names: tuple[str, ...]
    """What each output stands for, (K,)."""
    id_set: str
    threshold: Threshold
    validation: ValidationScores
    probe: tuple[float, ...]
    """Scores of the probe images (`monitor.probe_images`) where the bundle was written."""
    provenance: Mapping[str, Any]
    """The run, the cells' keys, versions, commit and suite."""
    row: tuple[Mapping[str, Any], ...]
    """The detector's row of the run's table: one entry for each OOD set, with its metrics and intervals."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """The weights, as `weights.NAME`, if they are included; `bank`; `validation`: sorted scores, float64."""
    state: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the detector has learned."""

    @property
    def validation_scores(self) -> NDArray[np.float64]:
        """Sorted scores of ID validation images: all of them, or `MOST_SCORES` order statistics."""
        scores: NDArray[np.float64] = self.tensors[VALIDATION].numpy()
        return scores

    def threshold_at(self, tpr: float) -> float:
        """The score up to which images are accepted, so that `tpr` of ID validation images are.

        Raises `MetricError` for a `tpr` that is no share.
        """
        if not 0 < tpr <= 1:
            raise MetricError(f"tpr is the share of ID images to accept, above 0 and at most 1; got {tpr:g}.")
        if tpr == self.threshold.tpr:
            return self.threshold.value
        scores, count = self.validation_scores, self.validation.images
        rank = rank_of(tpr, count)
        kept = kept_ranks(count)
        return float(scores[np.searchsorted(kept, rank)])

    def write(self, path: Path, overwrite: bool = False) -> str:
        """Write the bundle to a file and return its SHA-256; see `file.write` for errors."""
        tensors = dict(self.tensors)
        document = {
            name.name: msgspec.to_builtins(getattr(self, name.name))
            for name in dataclasses.fields(self)
            if name.name not in ("tensors", "state")
        }
        in_state: dict[str, Tensor] = {}
        document["state"] = pack(dict(self.state), in_state)
        tensors |= {f"{STATE}{name}": tensor for name, tensor in in_state.items()}
        document["threshold"] = self.threshold._asdict()
        return file.write(path, document, tensors, overwrite)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle's file. Raises `UserError` if it is not a bundle, is damaged, or is of a newer oodbench."""
    document, tensors = file.read(path)
    try:
        state = unpack(document.pop("state"), _without_prefix(tensors, STATE))
        document["threshold"] = list(Threshold(**document["threshold"]))
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(STATE)}
        plain = {name.name: document[name.name] for name in dataclasses.fields(Bundle) if name.name in document}
        bundle = msgspec.convert({**plain, "tensors": {}, "state": {}}, Bundle)
        return dataclasses.replace(bundle, tensors=kept, state=state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"'{path}' does not describe a detector: {problem}. Export it again.") from error


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def weights_of(bundle: Bundle) -> dict[str, Tensor]:
    """The network's weights by name; empty if the bundle has only their hash."""
    return _without_prefix(bundle.tensors, WEIGHTS)


def kept_ranks(count: int) -> NDArray[np.int64]:
    """Ranks, 1 to N, of the sorted validation scores that a bundle keeps: all, or `MOST_SCORES` at equal distances."""
    if count <= MOST_SCORES:
        return np.arange(1, count + 1)
    return np.rint(np.linspace(1, count, MOST_SCORES)).astype(np.int64)


def kept_scores(scores: NDArray[np.float64]) -> Tensor:
    """The sorted validation scores that a bundle keeps, float64."""
    return torch.from_numpy(np.sort(scores)[kept_ranks(len(scores)) - 1])
