"""Builds the jobs of networks with given weights: their import, heads fitted to their features, logits of these."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plan.jobs import Checkpoint, ExtractJob, Head, HeadJob, ImportJob, Outputs, SetRef
from oodbench.benchmark.plan.picture_view import backbone_identity
from oodbench.benchmark.plan.plan import Plan
from oodbench.benchmark.plan.stage_versions import EXTRACTION_VERSION, HEAD_VERSION, IMPORT_VERSION
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.weights.file import IMPORTED, Weights
from oodbench.benchmark.plan.weights.trained import StartingNetwork, TrainedClassifier
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.source_version import identity
from oodbench.benchmark.plugins.specs import SetSpec, canonical
from oodbench.benchmark.store.store import Key


class Builder(Protocol):
    """The part of `JobBuilder` that these functions use; each adds its job to the plan and returns it."""

    library: Library
    plan: Plan
    backbone: Backbone

    def ref(self, spec: SetSpec, part: str) -> SetRef:
        """Part of a set."""

    def fit_ref(self, entry: IDEntry) -> SetRef:
        """What detectors, and heads, are fitted on."""

    def checksum(self, data: SetRef) -> str:
        """Checksum of its images."""

    def network_shape(self, entry: IDEntry) -> tuple[int, int, int]:
        """Channels, height and width of the images that networks take."""

    def stored(self, entry: IDEntry, key: Key, recipe: str) -> Checkpoint:
        """The networks that a job stores under a key."""

    def head(self, entry: IDEntry, weights: Weights) -> Head | None:
        """What becomes of a given head."""

    def head_names(self, entry: IDEntry) -> tuple[str, ...]:
        """The class names that the head is made of; none for a head that is given."""

    def extract_job(self, data: SetRef, trained: TrainedClassifier) -> ExtractJob:
        """The pass of a set."""


def import_job(builder: Builder, entry: IDEntry, weights: Weights, without_head: bool = False) -> ImportJob:
    """The job that imports the weights of a user's file; one for all seeds that use it."""
    head = None if without_head else builder.head(entry, weights)
    names = () if without_head else builder.head_names(entry)
    checkpoint_classes = head.classes if head else builder.library.num_classes(entry.set)
    key = Key("checkpoint", ".safetensors", f"{IMPORTED}-{weights.path.stem}-{builder.backbone.name}", {
        "file": weights.sha256,
        "backbone": backbone_identity(builder.backbone),
        "classes": checkpoint_classes,
        "image_shape": list(builder.network_shape(entry)),
        "import": IMPORT_VERSION,
        **(head.key() if head else {}),
        **({"whole_head": True} if head and head.taken else {}),  # stored as well, so that its order can be checked
        **({"without_head": True} if without_head else {}),
        **({"names": list(names), "threads": builder.plan.threads} if names else {}),
    })  # fmt: skip
    job = ImportJob(
        title=f"import {weights.path.name} for {builder.backbone.name}",
        makes=(key,),
        checkpoint=replace(builder.stored(entry, key, IMPORTED), num_classes=checkpoint_classes),
        file=str(weights.path),
        sha256=weights.sha256,
        without_head=without_head,
        head=head,
        names=names,
    )
    return builder.plan.add(job)


def head_job(
    builder: Builder, entry: IDEntry, recipe: Recipe, label: str, seed: int, start: StartingNetwork
) -> HeadJob:
    """The job that fits a head to the features of given weights; `label`: the recipe as a user would type it."""
    train = builder.extract_job(builder.fit_ref(entry), start.as_classifier)
    outliers = None
    if "outliers" in recipe.needs and entry.outliers:
        outliers = builder.extract_job(builder.ref(entry.outliers, "outliers"), start.as_classifier)
    key = Key("checkpoint", ".safetensors", f"{label}-{entry.set}-{builder.backbone.name}-s{seed}", {
        "recipe": identity(recipe),
        "backbone": backbone_identity(builder.backbone),
        "start": start.job.id,
        "train": builder.checksum(train.outputs.data),
        "features": train.outputs.features.digest,
        "outliers": outliers.outputs.features.digest if outliers else None,
        "seed": seed,
        "threads": builder.plan.threads,
        "head": HEAD_VERSION,
    })  # fmt: skip
    job = HeadJob(
        title=f"train {label} on features of {entry.set}, seed {seed}",
        makes=(key,),
        after=(start.job.id, *(job.id for job in (train, outliers) if job)),
        checkpoint=builder.stored(entry, key, str(canonical(recipe))),
        start=start.job.checkpoint,
        train=train.outputs,
        outliers=outliers.outputs if outliers else None,
        seed=seed,
    )
    return builder.plan.add(job)


def logits_job(builder: Builder, data: SetRef, trained: TrainedClassifier, passed: ExtractJob) -> ExtractJob:
    """The logits of a head that was fitted to features; `passed` computes those of the set."""
    features = passed.outputs.features
    content = {
        "checkpoint": trained.checkpoint.key.digest,
        "features": features.digest,
        "data": builder.checksum(data),
        "threads": builder.plan.threads,
        "extraction": EXTRACTION_VERSION,
        "head": HEAD_VERSION,
    }
    logits = Key("logits", ".npy", f"{trained.checkpoint.key.label}--{data.set}-{data.part}", content)
    job = ExtractJob(
        title=f"classify features of {data} with {trained.job.title.partition(' ')[2]}",
        makes=(logits,),
        after=(trained.job.id, passed.id),
        checkpoint=trained.checkpoint,
        outputs=Outputs(data, logits, features),
        block=passed.block,
        features_stored=True,
    )
    return builder.plan.add(job)
