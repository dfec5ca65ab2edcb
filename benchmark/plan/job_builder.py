"""Builds the jobs up to a classifier's outputs, with their keys: train or import, extract, reduce maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from oodbench.benchmark.data.fit_images import role_of
from oodbench.benchmark.data.library import TESTED, Library
from oodbench.benchmark.data.pictures.block import BLOCK, block_of
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.jobs import (
    Checkpoint,
    ExtractJob,
    Head,
    HeadJob,
    Outputs,
    ReduceMapsJob,
    SetRef,
    TrainJob,
)
from oodbench.benchmark.plan.network_input import network_channels, refuses_channels
from oodbench.benchmark.plan.picture_view import backbone_identity
from oodbench.benchmark.plan.plan import Plan, Request
from oodbench.benchmark.plan.precision import FLOAT32, STORED
from oodbench.benchmark.plan.recipes.declared import of_recipe, outputs_of_pass
from oodbench.benchmark.plan.resolve import Resolver
from oodbench.benchmark.plan.stage_versions import EXTRACTION_VERSION, TRAINING_VERSION
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.weights.class_names import as_words, class_names, makes_heads
from oodbench.benchmark.plan.weights.file import Imported, Weights
from oodbench.benchmark.plan.weights.given import Given, StartMatch, match_start
from oodbench.benchmark.plan.weights.head import choose_head
from oodbench.benchmark.plan.weights.jobs import head_job, import_job, logits_job
from oodbench.benchmark.plan.weights.match import head_outputs
from oodbench.benchmark.plan.weights.trained import StartingNetwork, TrainedClassifier
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.dataset import GREY
from oodbench.benchmark.plugins.detector import Detector, observes, reduces
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.plugins.networks.outline import outlines
from oodbench.benchmark.plugins.recipe import Recipe, Task, fits_head, needs_start
from oodbench.benchmark.plugins.source_version import identity, start_command
from oodbench.benchmark.plugins.specs import SetSpec, Spec, canonical, parse_set
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.store.store import Key


class ReducedOutputs(NamedTuple):
    """A set's outputs under a checkpoint, with the map reductions of some detectors."""

    outputs: Outputs
    after: tuple[str, ...]
    """Ids of the jobs that compute them."""

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.outputs.data.images


class JobBuilder:
    """Builds the jobs that detectors share, for one plan. Each method adds its job to the plan and returns it."""

    def __init__(
        self,
        request: Request,
        library: Library,
        plan: Plan,
        resolver: Resolver,
        backbone: Backbone,
        given: Given | None,
    ) -> None:
        start_command()
        self.request, self.library, self.plan = request, library, plan
        self.resolver, self.backbone, self.given = resolver, backbone, given
        self.names_head = makes_heads(backbone)
        self._starts: dict[tuple[SetSpec, str], StartMatch] = {}
        self._networks: dict[tuple[SetSpec, int], torch.nn.Module] = {}
        self._heads: dict[tuple[SetSpec, str], Head | None] = {}
        self._shapes: dict[SetSpec, tuple[int, int, int]] = {}
        self._refused: dict[SetSpec, str] = {}

    def ref(self, spec: SetSpec, part: str) -> SetRef:
        """Part of a set, by name; --limit-train applies to the training part, --limit-test to what is scored."""
        limits = {"train": self.request.limit_train, **dict.fromkeys(TESTED, self.request.limit_test)}
        limit = limits.get(role_of(part), 0)
        images = self.library.part(spec, part, limit)
        return SetRef(str(spec), part, len(images), limit, images.checksum, images.groups_checksum)

    def fit_ref(self, entry: IDEntry) -> SetRef:
        """The images of an ID set that detectors are fitted on."""
        return self.ref(entry.set, self.resolver.parts(entry.set).train)

    def checksum(self, data: SetRef) -> str:
        """Checksum of the images that a reference names."""
        return self.library.part(parse_set(data.set), data.part, data.limit).checksum

    def classifier(self, entry: IDEntry, recipe: Recipe, seed: int) -> TrainedClassifier:
        """The classifier that a recipe trains, or that the user's file holds."""
        if self.given is not None and isinstance(recipe, Imported):
            return TrainedClassifier(import_job(self, entry, self.given.of(seed)), entry, seed)
        start = self.start(entry, seed) if needs_start(recipe) else None
        if start is None:
            return TrainedClassifier(self.train_job(entry, recipe, seed), entry, seed)
        if fits_head(recipe):
            label = str(self.resolver.recipe_label(recipe, entry))
            return TrainedClassifier(head_job(self, entry, recipe, label, seed, start), entry, seed, start)
        return TrainedClassifier(self.train_job(entry, recipe, seed, start), entry, seed, start)

    def start(self, entry: IDEntry, seed: int) -> StartingNetwork:
        """The given weights that a training with a seed starts from."""
        if self.given is None:
            raise AssertionError("a recipe that starts from given weights needs some")
        weights = self.given.of(seed)
        keeps_head = self.start_match(entry, weights).keeps_head
        return StartingNetwork(import_job(self, entry, weights, without_head=not keeps_head), entry, seed)

    def start_match(self, entry: IDEntry, weights: Weights) -> StartMatch:
        """The network that a training on an ID set starts from, in a user's file. Raises `UserError` if it fits not."""
        place = entry.set, weights.sha256
        if place not in self._starts:
            self._starts[place] = match_start(weights, self.backbone, partial(self._given_network, entry, weights))
        return self._starts[place]

    def _given_network(self, entry: IDEntry, weights: Weights, with_head: bool) -> torch.nn.Module:
        """The network that given weights are matched with. Raises `UserError` if its head does not suit the ID set."""
        head = self.head(entry, weights) if with_head else None
        return self.untrained_network(entry, head.outputs if head else 0)

    def train_job(self, entry: IDEntry, recipe: Recipe, seed: int, start: StartingNetwork | None = None) -> TrainJob:
        """The job that trains a recipe, after that of the recipe it builds on."""
        base = None
        if recipe.builds_on:
            base = self.train_job(entry, self.resolver.recipe(Spec(recipe.builds_on), entry), seed)
        train = self.ref(entry.set, self.resolver.parts(entry.set).training)
        outliers = self.ref(entry.outliers, "outliers") if "outliers" in recipe.needs and entry.outliers else None
        schedule = self.plan.suite.schedule(recipe.name, entry.set)
        if self.request.epochs:
            schedule = schedule._replace(epochs=self.request.epochs)
        label = self.resolver.recipe_label(recipe, entry)
        key = Key("checkpoint", ".safetensors", f"{label}-{entry.set}-{self.backbone.name}-s{seed}", {
            "recipe": identity(recipe),
            "backbone": backbone_identity(self.backbone),
            "train": self.checksum(train),
            "outliers": self.checksum(outliers) if outliers else None,
            "given": base.checkpoint.key.digest if base else None,
            "schedule": schedule._asdict(),
            "seed": seed,
            "precision": self.plan.precision,
            "threads": self.plan.threads,
            "training": TRAINING_VERSION,
            **({"start": start.job.id} if start else {}),
            **self._converted(entry),
        })  # fmt: skip
        job = TrainJob(
            title=f"train {label} on {entry.set}, seed {seed}",
            makes=(key,),
            after=tuple(job.id for job in (base, start.job if start else None) if job),
            checkpoint=of_recipe(self.stored(entry, key, str(canonical(recipe))), recipe),
            train=train,
            outliers=outliers,
            given=base.checkpoint if base else None,
            schedule=schedule,
            seed=seed,
            precision=self.plan.precision,
            start=start.job.checkpoint if start else None,
            keeps_head=start is not None and start.gives_head_of(self.library.num_classes(entry.set)),
        )
        return self.plan.add(job)

    def stored(self, entry: IDEntry, key: Key, recipe: str) -> Checkpoint:
        """The networks that a job stores under a key, by what is needed to build them."""
        task = self.task(entry)
        backbone = str(canonical(self.backbone))
        return Checkpoint(key, recipe, backbone, task.num_classes, task.image_shape, task.repeats_grey)

    def task(self, entry: IDEntry) -> Task:
        """What a recipe builds networks for."""
        classes, image_shape = self.library.num_classes(entry.set), self.network_shape(entry)
        repeats_grey = self.id_shape(entry)[0] == GREY < image_shape[0]
        return Task(classes, image_shape, partial(self.backbone.build, classes, image_shape), repeats_grey)

    def _converted(self, entry: IDEntry) -> dict[str, int]:
        """The network's channels as an entry of a training's key; none if the training images have as many."""
        channels = self.network_shape(entry)[0]
        return {} if channels == self.id_shape(entry)[0] else {"channels": channels}

    def id_shape(self, entry: IDEntry) -> tuple[int, int, int]:
        """Channels, height and width of the images of an ID set."""
        return self.library.part(entry.set, self.resolver.parts(entry.set).shown).image_shape

    def network_shape(self, entry: IDEntry) -> tuple[int, int, int]:
        """Channels, height and width of the images that the run's network takes for an ID set."""
        if entry.set not in self._shapes:
            size, unused = self.id_shape(entry)[1:], self.resolver.parts(entry.set).unused
            channels = network_channels(
                self.backbone,
                self.given.first if self.given else None,
                self.plan.suite.channels,
                self.library.channels(entry.set, without=unused),
                lambda channels: self._build(entry, (channels, *size)),
            )
            self._shapes[entry.set] = (channels, *size)
        return self._shapes[entry.set]

    def extract_job(self, data: SetRef, trained: TrainedClassifier) -> ExtractJob:
        """The single forward pass of a set through a classifier, or through the network whose features it shares."""
        if isinstance(trained.job, HeadJob) and trained.start:
            return logits_job(self, data, trained, self.extract_job(data, trained.start.as_classifier))
        if trained.label_outputs and parse_set(data.set) in (trained.entry.set, *trained.entry.shifted):
            data = replace(data, label_outputs=trained.label_outputs)
        title = f"{trained.checkpoint.key.label}--{data.set}-{data.part}"
        block = block_of(trained.checkpoint.image_shape, self.plan.preprocessing, self.plan.block)
        content = {
            "checkpoint": trained.checkpoint.key.digest,
            "data": self.checksum(data),
            "precision": FLOAT32,
            "threads": self.plan.threads,
            "extraction": EXTRACTION_VERSION,
            **_other_block(block),
        }
        stored = {} if self.plan.store_features == FLOAT32 else {STORED: self.plan.store_features}
        outputs = outputs_of_pass(data, trained.checkpoint, title, content, stored)
        job = ExtractJob(
            title=f"extract {data} with {trained.job.title.partition(' ')[2]}",
            makes=outputs.arrays,
            after=(trained.job.id,),
            checkpoint=trained.checkpoint,
            outputs=outputs,
            block=block,
        )
        return self.plan.add(job)

    def outputs(self, data: SetRef, trained: TrainedClassifier, detectors: Sequence[Detector]) -> ReducedOutputs:
        """A set's outputs: its forward pass, and in it the reductions of those detectors that use feature maps."""
        extract = self.extract_job(data, trained)
        jobs: list[ExtractJob | ReduceMapsJob] = [extract]
        maps: dict[str, Key] = {}
        observed: dict[str, Key] = {}
        for detector in detectors:
            spec, learned = str(canonical(detector)), None
            if observes(detector):
                learned = self._observe_maps_job(detector, trained)
                observed[spec] = learned.makes[0]
                jobs.append(learned)
            if reduces(detector) and (learned is None or learned.pass_id != extract.id):
                reduced = self._reduce_maps_job("maps", ".npy", detector, extract, learned)
                maps[spec] = reduced.makes[0]
                jobs.append(reduced)
        outputs = replace(extract.outputs, maps=maps, observed=observed)
        return ReducedOutputs(outputs, tuple(dict.fromkeys(job.id for job in jobs)))

    def _observe_maps_job(self, detector: Detector, trained: TrainedClassifier) -> ReduceMapsJob:
        """What a detector learns from the training split's maps."""
        extract = self.extract_job(self.fit_ref(trained.entry), trained)
        return self._reduce_maps_job("observed", ".safetensors", detector, extract)

    def _reduce_maps_job(
        self,
        kind: str,
        extension: str,
        detector: Detector,
        extract: ExtractJob,
        learned: ReduceMapsJob | None = None,
    ) -> ReduceMapsJob:
        data, checkpoint = extract.outputs.data, extract.checkpoint
        content: dict[str, Any] = {
            "detector": identity(detector, detector.map_settings),
            "checkpoint": checkpoint.key.digest,
            "data": self.checksum(data),
            "observed": learned.id if learned else None,
            "threads": self.plan.threads,
            "extraction": EXTRACTION_VERSION,
            **_other_block(extract.block),
        }
        key = Key(kind, extension, f"{detector.name}--{checkpoint.key.label}--{data.set}-{data.part}", content)
        job = ReduceMapsJob(
            title=f"look at the maps of {data} for {canonical(detector)}",
            makes=(key,),
            after=(extract.id, *extract.after, *((learned.id,) if learned else ())),
            detector=str(canonical(detector)),
            checkpoint=checkpoint,
            data=data,
            pass_id=extract.id,
            learns=kind == "observed",
            observed=learned.makes[0] if learned else None,
        )
        return self.plan.add(job)

    def refused_channels(self, entry: IDEntry) -> str:
        """Why the run's backbone cannot take the channels of an ID set; empty if it can."""
        if entry.set not in self._refused:
            size = self.network_shape(entry)[1:]
            build = lambda channels: self._build(entry, (channels, *size))  # noqa: E731
            self._refused[entry.set] = refuses_channels(self.backbone, build, self.network_shape(entry))
        return self._refused[entry.set]

    def blocks(self, entry: IDEntry) -> int:
        """Number of blocks that the run's backbone names in its network for an ID set."""
        return len(asked(self.backbone, "blocks", self.untrained_network(entry)))

    def untrained_network(self, entry: IDEntry, outputs: int = 0) -> torch.nn.Module:
        """A network of the run's backbone for an ID set, to inspect only; built once.

        `outputs`: number of its outputs; 0 for the classes of the ID set.
        """
        outputs = outputs or self.library.num_classes(entry.set)
        if (entry.set, outputs) not in self._networks:
            self._networks[entry.set, outputs] = self._build(entry, self.network_shape(entry), outputs)
        return self._networks[entry.set, outputs]

    def head(self, entry: IDEntry, weights: Weights) -> Head | None:
        """What becomes of a given head for an ID set; None where its outputs are the classes in their order.

        Raises `UserError` if the set's classes are not among its outputs.
        """
        place = entry.set, weights.sha256
        if place not in self._heads:
            own = self.given.pretrained if self.given else None
            outputs = head_outputs(weights, self.backbone, self.untrained_network(entry))
            names = class_names(entry, self.request, self.library)
            labels, how = own.labels if own else (), self.request.head or self.plan.suite.head
            self._heads[place] = choose_head(str(entry.set), names, outputs, labels, how) if outputs else None
        return self._heads[place]

    def head_names(self, entry: IDEntry) -> tuple[str, ...]:
        """The names, as words, that the backbone makes its head of; empty for one that does not. Raises `UserError`."""
        return tuple(map(as_words, class_names(entry, self.request, self.library))) if self.names_head else ()

    def _build(self, entry: IDEntry, shape: tuple[int, int, int], outputs: int = 0) -> torch.nn.Module:
        classes = outputs or self.library.num_classes(entry.set)
        try:
            with outlines():
                network: torch.nn.Module = self.backbone.build(classes, shape)
        except OodbenchError:
            raise
        except Exception:  # some backbones compute while they are built, which fails without memory for numbers
            with restored_rng(torch.device("cpu")):
                network = asked(self.backbone, "build", classes, shape)
        return network


def _other_block(block: int) -> dict[str, int]:
    """The size of blocks as an entry of the keys of a pass; none for `BLOCK`, which older stores were made with."""
    return {} if block == BLOCK else {"block": block}
