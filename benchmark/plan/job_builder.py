"""The jobs behind a score, and their keys: train, extract, tune, fit, score. Each is added to the plan once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plan.jobs import (
    Checkpoint,
    ExtractJob,
    FitJob,
    ImportJob,
    Outputs,
    ReduceMapsJob,
    ScoreJob,
    SetRef,
    TrainJob,
    TuneJob,
)
from oodbench.benchmark.plan.plan import Plan, Request, Row
from oodbench.benchmark.plan.precision import FLOAT32
from oodbench.benchmark.plan.resolve import Resolver
from oodbench.benchmark.plan.stage_versions import (
    EXTRACTION_VERSION,
    IMPORT_VERSION,
    SCORING_VERSION,
    TRAINING_VERSION,
    TUNING_VERSION,
)
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.tuning_protocols import candidates
from oodbench.benchmark.plan.weights_file import Imported, Weights
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.detector import Detector, compares, observes, reduces
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.source_version import identity
from oodbench.benchmark.plugins.specs import SetSpec, Spec, canonical, parse_set
from oodbench.benchmark.store.store import Key


class TrainedClassifier(NamedTuple):
    """A classifier: the job that makes it, for which ID set, and the seed of all that is random after it."""

    job: TrainJob | ImportJob
    entry: IDEntry
    seed: int

    @property
    def checkpoint(self) -> Checkpoint:
        """What it is stored as."""
        return self.job.checkpoint


class JobBuilder:
    """Makes the jobs of one plan."""

    def __init__(
        self,
        request: Request,
        library: Library,
        plan: Plan,
        resolver: Resolver,
        backbone: Backbone,
        weights: Weights | None,
    ) -> None:
        self.request, self.library, self.plan = request, library, plan
        self.resolver, self.backbone, self.weights = resolver, backbone, weights
        self._networks: dict[SetSpec, torch.nn.Module] = {}

    def ref(self, spec: SetSpec, part: str) -> SetRef:
        """Part of a set, by name; the training part cut down with --limit-train."""
        limit = self.request.limit_train if part == "train" else 0
        images = self.library.part(spec, part, limit)
        return SetRef(str(spec), part, len(images), limit, images.checksum)

    def checksum(self, data: SetRef) -> str:
        """The content of what a name stands for."""
        return self.library.part(parse_set(data.set), data.part, data.limit).checksum

    def classifier(self, entry: IDEntry, recipe: Recipe, seed: int) -> TrainedClassifier:
        """The classifier that a recipe trains, or that the user's file holds."""
        imported = self.weights is not None and isinstance(recipe, Imported)
        return TrainedClassifier(self.take(entry, recipe) if imported else self.train(entry, recipe, seed), entry, seed)

    def take(self, entry: IDEntry, recipe: Recipe) -> ImportJob:
        """The job that takes the weights from a user's file, whatever the seed."""
        if self.weights is None:
            raise AssertionError("only a plan with weights takes some")
        file, sha256 = self.weights.path, self.weights.sha256
        key = Key("checkpoint", ".safetensors", f"{recipe.name}-{file.stem}-{self.backbone.name}", {
            "file": sha256,
            "backbone": identity(self.backbone),
            "classes": self.library.num_classes(entry.set),
            "image_shape": list(self.library.part(entry.set, "train").image_shape),
            "import": IMPORT_VERSION,
        })  # fmt: skip
        title = f"import {file.name} for {self.backbone.name}"
        checkpoint = self.checkpoint(entry, key, recipe.name)
        job = ImportJob(title=title, makes=(key,), checkpoint=checkpoint, file=str(file), sha256=sha256)
        self.plan.jobs.setdefault(job.id, job)
        return job

    def checkpoint(self, entry: IDEntry, key: Key, recipe: str) -> Checkpoint:
        """A classifier of the run's backbone for an ID set."""
        classes, image_shape = self.library.num_classes(entry.set), self.library.part(entry.set, "train").image_shape
        return Checkpoint(key, recipe, str(canonical(self.backbone)), classes, image_shape)

    def train(self, entry: IDEntry, recipe: Recipe, seed: int) -> TrainJob:
        """The job that trains a recipe, after the one that it builds on."""
        given = (
            self.train(entry, self.resolver.recipe(Spec(recipe.builds_on), entry), seed) if recipe.builds_on else None
        )
        train = self.ref(entry.set, "train")
        outliers = self.ref(entry.outliers, "outliers") if "outliers" in recipe.needs and entry.outliers else None
        schedule = self.plan.suite.schedule(recipe.name, entry.set)
        if self.request.epochs:
            schedule = schedule._replace(epochs=self.request.epochs)
        label = self.resolver.recipe_label(recipe, entry)
        key = Key("checkpoint", ".safetensors", f"{label}-{entry.set}-{self.backbone.name}-s{seed}", {
            "recipe": identity(recipe),
            "backbone": identity(self.backbone),
            "train": self.checksum(train),
            "outliers": self.checksum(outliers) if outliers else None,
            "given": given.checkpoint.key.digest if given else None,
            "schedule": schedule._asdict(),
            "seed": seed,
            "precision": self.plan.precision,
            "training": TRAINING_VERSION,
        })  # fmt: skip
        checkpoint = self.checkpoint(entry, key, str(canonical(recipe)))
        job = TrainJob(
            title=f"train {label} on {entry.set}, seed {seed}",
            makes=(key,),
            after=(given.id,) if given else (),
            checkpoint=checkpoint,
            train=train,
            outliers=outliers,
            given=given.checkpoint if given else None,
            schedule=schedule,
            seed=seed,
            precision=self.plan.precision,
        )
        self.plan.jobs.setdefault(job.id, job)
        return job

    def extract(self, data: SetRef, trained: TrainedClassifier) -> ExtractJob:
        """The one forward pass of a set through a classifier."""
        title = f"{trained.checkpoint.key.label}--{data.set}-{data.part}"
        content = {
            "checkpoint": trained.checkpoint.key.digest,
            "data": self.checksum(data),
            "precision": FLOAT32,
            "extraction": EXTRACTION_VERSION,
        }
        outputs = Outputs(data, *(Key(what, ".npy", title, content) for what in ("logits", "features")))
        job = ExtractJob(
            title=f"extract {data} with {trained.job.title.partition(' ')[2]}",
            makes=(outputs.logits, outputs.features),
            after=(trained.job.id,),
            checkpoint=trained.checkpoint,
            outputs=outputs,
        )
        self.plan.jobs.setdefault(job.id, job)
        return job

    def tune(self, row: Row, trained: TrainedClassifier, sources: Sequence[SetRef]) -> TuneJob | None:
        """The job that chooses a detector's settings on OOD sources; none for one that leaves no choice."""
        choices = candidates(row.detector)
        if len(choices) == 1:
            return None
        made, entry = self._fitted_on(row, trained, choices), trained.entry
        ood = [reduce_maps(self, source, trained, choices) for source in sources]
        key = Key("tuned", ".json", f"{row.label}-{entry.set}-s{trained.seed}", {
            "candidates": [identity(choice) for choice in choices],
            "checkpoint": trained.checkpoint.key.digest,
            "outputs": {part: _digests(job.outputs) for part, job in made.items()},
            "ood": [_digests(job.outputs) for job in ood],
            "scoring": SCORING_VERSION,
            "tuning": TUNING_VERSION,
        })  # fmt: skip
        images = made["validation"].size + sum(job.size for job in ood)
        job = TuneJob(
            title=f"tune {row.label} on {entry.set}, seed {trained.seed}",
            makes=(key,),
            after=_after(*made.values(), *ood),
            candidates=tuple(str(canonical(choice)) for choice in choices),
            checkpoint=trained.checkpoint,
            **_parts(made),
            ood=tuple(job.outputs for job in ood),
            passes=sum(images * self.passes(entry, c) + self.passes_in_fit(entry, c, made) for c in choices),
            seed=trained.seed,
        )
        self.plan.jobs.setdefault(job.id, job)
        return job

    def fit(self, row: Row, trained: TrainedClassifier, tuned: TuneJob | None) -> FitJob | None:
        """The job that fits a detector; none for one that has nothing to learn."""
        if type(row.detector).fit is Detector.fit:
            return None
        choices, entry = _choices(row, tuned), trained.entry
        made = self._fitted_on(row, trained, choices)
        key = Key("fit", ".safetensors", f"{row.label}-{entry.set}-s{trained.seed}", {
            "detector": identity(row.detector),
            "checkpoint": trained.checkpoint.key.digest,
            "outputs": {part: _digests(job.outputs) for part, job in made.items()},
            "scoring": SCORING_VERSION,
            **({"tuned": tuned.id} if tuned else {}),
        })  # fmt: skip
        job = FitJob(
            title=f"fit {row.label} on {entry.set}, seed {trained.seed}",
            makes=(key,),
            after=(*_after(*made.values()), *((tuned.id,) if tuned else ())),
            detector=str(canonical(row.detector)),
            checkpoint=trained.checkpoint,
            **_parts(made),
            seed=trained.seed,
            tuned=tuned.makes[0] if tuned else None,
            passes=self.passes_in_fit(entry, row.detector, made),
            passes_if=tuple(self.passes_in_fit(entry, choice, made) for choice in choices) if tuned else (),
        )
        self.plan.jobs.setdefault(job.id, job)
        return job

    def score(
        self, row: Row, data: SetRef, trained: TrainedClassifier, fitted: FitJob | None, tuned: TuneJob | None
    ) -> ScoreJob:
        """The job that scores one set, ID or OOD, with one detector."""
        choices, entry = _choices(row, tuned), trained.entry
        seen = reduce_maps(self, data, trained, choices)
        bank = self.extract(self.ref(trained.entry.set, "train"), trained) if compares(row.detector) else None
        key = Key("scores", ".npy", f"{row.label}--{trained.checkpoint.key.label}--{data.set}", {
            "detector": identity(row.detector),
            "outputs": _digests(seen.outputs),
            "fitted": fitted.id if fitted else None,
            "scoring": SCORING_VERSION,
            **({"tuned": tuned.id} if tuned else {}),
            **({"bank": bank.id} if bank else {}),
        })  # fmt: skip
        job = ScoreJob(
            title=f"score {data} with {row.label} (ID {trained.entry.set}, seed {trained.seed})",
            makes=(key,),
            after=(*seen.after, *(job.id for job in (bank, fitted, tuned) if job)),
            detector=str(canonical(row.detector)),
            checkpoint=trained.checkpoint,
            outputs=seen.outputs,
            fitted=fitted.makes[0] if fitted else None,
            tuned=tuned.makes[0] if tuned else None,
            seed=trained.seed,
            passes=data.images * self.passes(entry, row.detector),
            passes_if=tuple(data.images * self.passes(entry, choice) for choice in choices) if tuned else (),
            bank=bank.outputs if bank else None,
        )
        self.plan.jobs.setdefault(job.id, job)
        return job

    def fresh_network(self, entry: IDEntry) -> torch.nn.Module:
        """A network of the run's backbone for an ID set, to be looked at only; the same one every time."""
        if entry.set not in self._networks:
            self._networks[entry.set] = self._built(entry)
        return self._networks[entry.set]

    def _built(self, entry: IDEntry) -> torch.nn.Module:
        what = self.library.num_classes(entry.set), self.library.part(entry.set, "train").image_shape
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    network: torch.nn.Module = self.backbone.build(*what)
            except (NotImplementedError, RuntimeError):  # a stranger's backbone may compute while it is built
                network = self.backbone.build(*what)
        return network

    def blocks(self, entry: IDEntry) -> int:
        """How many blocks the run's backbone names of its network for an ID set."""
        return len(self.backbone.blocks(self.fresh_network(entry)))

    def passes(self, entry: IDEntry, detector: Detector) -> int:
        """Network passes an image of a detector's `score`."""
        return detector.passes_for(self.blocks(entry) if "maps" in detector.needs else 0)

    def passes_in_fit(self, entry: IDEntry, detector: Detector, made: Mapping[str, ReducedOutputs]) -> int:
        """Images that a detector's `fit` pushes through the network."""
        images = [made[part].size if part in made else 0 for part in ("validation", "outliers")]
        return detector.passes_in_fit(self.blocks(entry) if "maps" in detector.needs else 0, *images)

    def _fitted_on(
        self, row: Row, trained: TrainedClassifier, choices: Sequence[Detector]
    ) -> dict[str, ReducedOutputs]:
        """What a detector may learn from, by part."""
        entry = trained.entry
        parts = {"train": entry.set, "validation": entry.set}
        if "outliers" in row.detector.needs and entry.outliers:
            parts["outliers"] = entry.outliers
        return {part: reduce_maps(self, self.ref(spec, part), trained, choices) for part, spec in parts.items()}


def _choices(row: Row, tuned: TuneJob | None) -> list[Detector]:
    """The detectors that a row's may turn out to be."""
    return candidates(row.detector) if tuned else [row.detector]


def _after(*seen: ReducedOutputs) -> tuple[str, ...]:
    return tuple(dict.fromkeys(id_ for one in seen for id_ in one.after))


def _parts(made: Mapping[str, ReducedOutputs]) -> dict[str, Any]:
    """The fields of a job that fits."""
    outliers = made["outliers"].outputs if "outliers" in made else None
    return {"train": made["train"].outputs, "validation": made["validation"].outputs, "outliers": outliers}


def _digests(outputs: Outputs) -> dict[str, Any]:
    kept = {"maps": outputs.maps, "observed": outputs.observed}
    by_detector = {what: {spec: key.digest for spec, key in keys.items()} for what, keys in kept.items() if keys}
    return {"logits": outputs.logits.digest, "features": outputs.features.digest, **by_detector}


class ReducedOutputs(NamedTuple):
    """A set under a checkpoint, as some detectors see it."""

    outputs: Outputs
    after: tuple[str, ...]
    """The jobs that make it."""

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.outputs.data.images


def reduce_maps(
    builder: JobBuilder, data: SetRef, trained: TrainedClassifier, detectors: Sequence[Detector]
) -> ReducedOutputs:
    """Add to the plan the pass of a set, and what the detectors among these that look at maps keep of it."""
    extract = builder.extract(data, trained)
    after = [extract.id]
    maps: dict[str, Key] = {}
    observed: dict[str, Key] = {}
    for detector in detectors:
        spec, learned = str(canonical(detector)), None
        if observes(detector):
            learned = _reduce_maps_job(
                builder, detector, builder.extract(builder.ref(trained.entry.set, "train"), trained), True, None
            )
            observed[spec] = learned.makes[0]
            after.append(learned.id)
        if reduces(detector) and (learned is None or learned.pass_id != extract.id):
            kept = _reduce_maps_job(builder, detector, extract, False, learned)
            maps[spec] = kept.makes[0]
            after.append(kept.id)
    outputs = replace(extract.outputs, maps=maps, observed=observed)
    return ReducedOutputs(outputs, tuple(dict.fromkeys(after)))


def _reduce_maps_job(
    builder: JobBuilder, detector: Detector, extract: ExtractJob, learns: bool, learned: ReduceMapsJob | None
) -> ReduceMapsJob:
    data, checkpoint = extract.outputs.data, extract.checkpoint
    kind, extension = ("observed", ".safetensors") if learns else ("maps", ".npy")
    key = Key(kind, extension, f"{detector.name}--{checkpoint.key.label}--{data.set}-{data.part}", {
        "detector": identity(detector, detector.map_settings),
        "checkpoint": checkpoint.key.digest,
        "data": builder.checksum(data),
        "observed": learned.id if learned else None,
        "extraction": EXTRACTION_VERSION,
    })  # fmt: skip
    job = ReduceMapsJob(
        title=f"look at the maps of {data} for {canonical(detector)}",
        makes=(key,),
        after=(extract.id, *extract.after, *((learned.id,) if learned else ())),
        detector=str(canonical(detector)),
        checkpoint=checkpoint,
        data=data,
        pass_id=extract.id,
        learns=learns,
        observed=learned.makes[0] if learned else None,
    )
    made = builder.plan.jobs.setdefault(job.id, job)
    return made if isinstance(made, ReduceMapsJob) else job
