"""Estimates, before a run, how much it will store: from the numbers of images, and the shapes of untrained networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.pictures.pixel_cache import GIGABYTE
from oodbench.benchmark.data.pictures.streamed import StreamedImages
from oodbench.benchmark.plan.jobs import Checkpoint, ExtractJob, HeadJob, ImportJob, Job, ScoreJob, TrainJob
from oodbench.benchmark.plan.outputs.jobs import ImportArraysJob, ImportScoresJob
from oodbench.benchmark.plan.plan import Plan
from oodbench.benchmark.plan.precision import FLOAT32, STORED
from oodbench.benchmark.plan.recipes.declared import NAMED_OUTPUTS
from oodbench.benchmark.plugins.networks.outline import outlines
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.stages.networks import CLASSIFIER, build_networks
from oodbench.benchmark.store.sizes import in_bytes
from oodbench.benchmark.store.store import Key, Store

COUNTED = ("features", "logits", NAMED_OUTPUTS, "scores", "checkpoint")
"""Kinds of artifacts whose size follows from the plan, in the order in which they are shown."""

UNKNOWN = {
    "fit": "what detectors learn",
    "maps": "what detectors keep of feature maps",
    "observed": "what detectors keep of feature maps",
}
"""Kinds whose size only the detectors know -> what they are."""


@dataclass(frozen=True)
class StoreEstimate:
    """Bytes that the artifacts of a plan take, those that are there already included."""

    sizes: Mapping[str, int]
    """By kind, of `COUNTED`."""
    there: int
    """Bytes of them that are in the store."""
    uncounted: tuple[str, ...] = ()
    """What is not counted, because its size is not known."""
    stored_as: tuple[str, ...] = field(default=())
    """What features are stored as."""
    decoded: int = 0
    """Bytes of decoded pixels that stay on the disk besides, once a set has been passed twice."""

    def text(self) -> str:
        """One line for a dry run."""
        parts = ", ".join(
            f"{NAMES.get(kind, kind)} {in_bytes(size)}{self._type(kind)}" for kind, size in self.sizes.items() if size
        )
        left_out = f"; not counted: {', '.join(self.uncounted)}" if self.uncounted else ""
        pixels = f"; decoded pixels up to {in_bytes(self.decoded)} (--pixel-cache)" if self.decoded else ""
        total, there = in_bytes(sum(self.sizes.values())), in_bytes(self.there)
        return f"stores {total}, {there} of it there: {parts}{pixels}{left_out}"

    def _type(self, kind: str) -> str:
        return f" as {' and '.join(self.stored_as)}" if kind == "features" and self.stored_as else ""


NAMES = {"checkpoint": "networks", NAMED_OUTPUTS: "named outputs"}


def estimate(plan: Plan, store: Store, library: Library) -> StoreEstimate:
    """How much a plan stores in all, and how much of it is in the store; nothing is computed but shapes."""
    shapes: dict[Checkpoint, _Shape] = {}
    sizes, there, uncounted, types = Counter(dict.fromkeys(COUNTED, 0)), 0, dict[str, None](), dict[str, None]()
    for job in plan.jobs.values():
        for key in job.makes:
            if (size := _size(job, key, shapes)) is None:
                uncounted |= {UNKNOWN[key.kind]: None} if key.kind in UNKNOWN else {}
                uncounted |= {NAMES.get(key.kind, key.kind): None} if key.kind in COUNTED else {}
                continue
            sizes[key.kind] += size
            there += size if store.has(key) else 0
            types |= {str(key.content.get(STORED, FLOAT32)): None} if key.kind == "features" else {}
    return StoreEstimate(dict(sizes), there, tuple(uncounted), tuple(types), _decoded(plan, library))


def _decoded(plan: Plan, library: Library) -> int:
    """Bytes of the decoded pixels that may stay on the disk: those of small sets of pictures, after a second pass."""
    passed = {job.outputs.data for job in plan.jobs.values() if isinstance(job, ExtractJob)}
    sets = (library.part(parse_set(data.set), data.part, data.limit).lazy for data in passed)
    most = library.files.view.pixel_cache * GIGABYTE
    return sum(images.nbytes for images in sets if isinstance(images, StreamedImages) and images.nbytes <= most)


@dataclass(frozen=True)
class _Shape:
    """What an untrained network says of the size of its outputs."""

    features: int | None
    """Numbers per image; None if the head does not say."""
    weights: int | None
    """Bytes of all networks of the recipe; None if they cannot be built."""


def _size(job: Job, key: Key, shapes: dict[Checkpoint, _Shape]) -> int | None:
    """Bytes of an artifact's numbers; None if they are not known."""
    if isinstance(job, ScoreJob | ImportScoresJob):
        return 8 * job.size
    if isinstance(job, ImportArraysJob):
        return job.bytes.get(key.kind)
    if isinstance(job, ExtractJob) and key.kind == "logits":
        return 4 * job.size * job.checkpoint.num_classes
    if isinstance(job, ExtractJob) and key.kind == NAMED_OUTPUTS:
        return 4 * job.size * sum(width for _, width in job.checkpoint.named)
    if not isinstance(job, ExtractJob | TrainJob | ImportJob | HeadJob):
        return None
    if job.checkpoint not in shapes:
        shapes[job.checkpoint] = _shape_of(job.checkpoint)
    shape = shapes[job.checkpoint]
    if not isinstance(job, ExtractJob):
        return shape.weights
    width = np.dtype(key.content.get(STORED, FLOAT32)).itemsize
    return None if shape.features is None else width * job.size * shape.features


def _shape_of(checkpoint: Checkpoint) -> _Shape:
    try:
        with outlines():
            networks = build_networks(checkpoint, torch.device("meta"))[1]
    except Exception:  # some networks compute while they are built; what is wrong with others is said elsewhere
        return _Shape(None, None)
    weight = getattr(getattr(networks.get(CLASSIFIER), "head", None), "weight", None)
    features = int(weight.shape[1]) if isinstance(weight, torch.Tensor) and weight.ndim == 2 else None
    return _Shape(features, sum(map(_bytes_of, networks.values())))


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
