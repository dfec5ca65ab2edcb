"""Builds the jobs that copy given arrays into the store, in place of those that train networks and run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs.given import GivenArrays
from oodbench.benchmark.plan.job_builder import JobBuilder
from oodbench.benchmark.plan.jobs import Checkpoint, ExtractJob, Outputs, SetRef
from oodbench.benchmark.plan.outputs.arrays import FEATURES, LOGITS, OUTPUT_KINDS, ArraysOfParts
from oodbench.benchmark.plan.outputs.jobs import ImportArraysJob, ImportHeadJob, ImportScoresJob
from oodbench.benchmark.plan.outputs.method_cells import scores_key
from oodbench.benchmark.plan.outputs.resolve import OutputsResolver
from oodbench.benchmark.plan.plan import Plan, Request
from oodbench.benchmark.plan.stage_versions import OUTPUTS_VERSION
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.weights.file import OUTPUTS
from oodbench.benchmark.plan.weights.trained import TrainedClassifier
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.store.store import Key

NO_IMAGES = (1, 1, 1)
"""In place of the shape of images (C, H, W)."""


class OutputsBuilder(JobBuilder):
    """Builds the jobs up to a network's outputs where these are given."""

    def __init__(
        self, request: Request, library: Library, plan: Plan, resolver: OutputsResolver, arrays: ArraysOfParts
    ) -> None:
        super().__init__(request, library, plan, resolver, Backbone(), None)
        self.arrays, self.sets = arrays, arrays.sets

    def id_shape(self, entry: IDEntry) -> tuple[int, int, int]:
        """The shape of images that are not there."""
        return NO_IMAGES

    def network_shape(self, entry: IDEntry) -> tuple[int, int, int]:
        """The shape of images that are not there."""
        return NO_IMAGES

    def classifier(self, entry: IDEntry, recipe: Recipe, seed: int) -> TrainedClassifier:
        """The network's number of classes and its head, if it is given."""
        return TrainedClassifier(self._head_job(self.arrays.place(seed)), entry, seed)

    def _head_job(self, place: int) -> ImportHeadJob:
        given = self.sets.of_seeds[place]
        head = self.arrays.head_sha256(place)
        content = {"weights": head, "classes": self.classes(place), "outputs_import": OUTPUTS_VERSION}
        name = Path(given.source).name
        key = Key("checkpoint", ".safetensors", f"{OUTPUTS}-{name}", content)
        job = ImportHeadJob(
            title=f"import the head of '{name}'" if head else f"import the number of classes of '{name}'",
            makes=(key,),
            checkpoint=Checkpoint(key, OUTPUTS, given.network, self.classes(place), NO_IMAGES),
            file=str(given.source),
            sha256=self.arrays.folder_sha256(place),
            set=str(self.sets.id_set),
            place=place,
            has_head=head is not None,
        )
        return self.plan.add(job)

    def classes(self, place: int = 0) -> int:
        """Number of classes, K; 0 if nothing tells."""
        given = self.sets.of_seeds[place]
        if given.classes:
            return len(given.classes)
        logits = given.id["test"].logits
        return logits.shape[1] if logits is not None else len(given.head.bias) if given.head else 0

    def extract_job(self, data: SetRef, trained: TrainedClassifier) -> ExtractJob:
        """The job that imports a set's logits and features."""
        place = self.arrays.place(trained.seed)
        given = self.arrays.of(data, place)
        name = f"{Path(self.sets.of_seeds[place].source).name}--{plain_name(data.set)}-{data.part}"
        keys: dict[str, Key] = {}
        for kind in OUTPUT_KINDS:
            array = getattr(given, kind)
            content = self._content(data, array) if array is not None else {"absent": kind, "data": data.checksum}
            keys[kind] = Key(kind, ".npy", name, content)
        absent = frozenset(kind for kind in OUTPUT_KINDS if getattr(given, kind) is None)
        job = ImportArraysJob(
            title=f"import {' and '.join(kind for kind in OUTPUT_KINDS if kind not in absent)} of {_shown(data)}",
            makes=tuple(key for kind, key in keys.items() if kind not in absent),
            after=(trained.job.id,),
            checkpoint=trained.checkpoint,
            outputs=Outputs(data, keys[LOGITS], keys[FEATURES], absent=absent),
            bytes=_stored_bytes(given, data.images),
            place=place,
        )
        return self.plan.add(job)

    def _content(self, data: SetRef, array: Any) -> dict[str, Any]:
        labels = self.arrays.labels(data)
        return self.arrays.content(data, array, **labels, threads=self.plan.threads, outputs_import=OUTPUTS_VERSION)

    def scores_job(self, data: SetRef, method: str, seed: int, place: int) -> ImportScoresJob:
        """The job that imports a method's scores of a set; `seed`: that of the file."""
        scores = self.arrays.of(data, place).scores[method][seed]
        key = scores_key(self.arrays.content(data, scores), method, data.set)
        title = f"import the scores of {_shown(data)} by {method}"
        return self.plan.add(
            ImportScoresJob(title=title, makes=(key,), data=data, method=method, place=place, seed=seed)
        )


def _stored_bytes(given: GivenArrays, images: int) -> dict[str, int]:
    """Bytes that logits, in 32 or 64 bits, and features, as float32, take for some images."""
    found: dict[str, int] = {}
    if given.logits is not None:
        found[LOGITS] = images * given.logits.shape[1] * max(4, given.logits.itemsize)
    if given.features is not None:
        found[FEATURES] = images * given.features.shape[1] * 4
    return found


def _shown(data: SetRef) -> str:
    return f"{plain_name(data.set)} ({data.part})"
