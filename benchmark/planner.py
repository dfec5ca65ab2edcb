"""What is asked -> a plan. Pure: it reads data, whose checksums are in the keys, and changes nothing.

Equal recipes share one checkpoint; a checkpoint and a set share one forward pass, whatever the detectors.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from oodbench.benchmark import weights
from oodbench.benchmark.contract import Backbone, Detector, Plugin, Recipe
from oodbench.benchmark.data import Library
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.extract import EXTRACTION_VERSION
from oodbench.benchmark.jobs import (
    Checkpoint,
    ExtractJob,
    FitJob,
    ImportJob,
    Job,
    Outputs,
    ScoreJob,
    SetRef,
    TrainJob,
)
from oodbench.benchmark.plan import ALL, Cell, Pair, Plan, Request, Row
from oodbench.benchmark.precision import FLOAT32, resolved
from oodbench.benchmark.records import QUICK_LOOK, SKIPPED, Record
from oodbench.benchmark.resolve import Resolver, canonical, unlike
from oodbench.benchmark.scoring import SCORING_VERSION
from oodbench.benchmark.specs import SetSpec, Spec, create, parse_set, parse_spec
from oodbench.benchmark.store import Key
from oodbench.benchmark.suite import IDEntry, OODEntry, default_suite, read_suite
from oodbench.benchmark.training import TRAINING_VERSION
from oodbench.benchmark.versions import source_version
from oodbench.benchmark.weights import Imported

Made = TrainJob | ImportJob
"""What makes a classifier."""

CPU = torch.device("cpu")


def make_plan(request: Request, library: Library, device: torch.device = CPU) -> Plan:
    """Resolve every name, check what is needed and at hand, and lay out the work for a kind of device."""
    suite = read_suite(request.suite or default_suite())
    plan = Plan(suite, resolved(request.precision or suite.precision, device))
    _Planner(request, library, plan).fill()
    if not any(cell.id_scores for cell in plan.cells):
        reasons = [absence.reason for absence in plan.skipped] + [cell.record.reason for cell in plan.cells]
        why = next(filter(None, reasons), "no detector and no pair of sets was asked for.")
        raise UserError(f"Nothing to run: {why.rstrip('.')}.")
    return plan


class _Planner:
    """Fills one plan."""

    def __init__(self, request: Request, library: Library, plan: Plan) -> None:
        self.request, self.library, self.plan = request, library, plan
        self.weights = weights.read_weights(Path(request.checkpoint)) if request.checkpoint else None
        imported = Imported(file=self.weights.path.name, sha256=self.weights.sha256) if self.weights else Imported()
        self.resolver = Resolver(request, library, plan, imported)
        self.backbone: Backbone = create("backbone", parse_spec(request.backbone or plan.suite.backbone))
        plan.backbone = canonical(create("backbone", parse_spec(plan.suite.backbone)))
        self.charged: set[str] = set()

    def fill(self) -> None:
        specs = list(self.resolver.detectors())
        for entry in self.resolver.id_entries():
            pairs = [self.pair(entry, ood) for ood in self.resolver.ood_entries(entry)]
            self.plan.pairs.extend(pairs)
            rows = list({row.label: row for row in (self.resolver.row(spec, entry) for spec in specs)}.values())
            for seed in self.request.seeds:
                for row in rows:
                    self.add_cells(entry, pairs, row, seed)
        self.refuse_hopeless()

    def refuse_hopeless(self) -> None:
        """A detector that was asked for by name and can run nowhere is an error, not a row of dashes."""
        if ALL in self.request.detectors:
            return
        for label in {cell.record.label for cell in self.plan.cells}:
            cells = [cell for cell in self.plan.cells if cell.record.label == label]
            if all(cell.record.status == SKIPPED for cell in cells):
                raise UserError(f"Detector '{label}' cannot run: {cells[0].record.reason.rstrip('.')}.")

    def pair(self, entry: IDEntry, ood: OODEntry) -> Pair:
        source = entry.outliers is not None and self.library.same_distribution(entry.outliers, ood.set)
        return Pair(self.ref(entry.set, "test"), self.ref(ood.set, "test"), ood.group, source)

    def ref(self, spec: SetSpec, part: str) -> SetRef:
        limit = self.request.limit_train if part == "train" else 0
        return SetRef(str(spec), part, len(self.library.part(spec, part, limit)), limit)

    def checksum(self, data: SetRef) -> str:
        return self.library.part(parse_set(data.set), data.part, data.limit).checksum

    def add_cells(self, entry: IDEntry, pairs: list[Pair], row: Row, seed: int) -> None:
        reason = self.unmet(entry, row)
        if reason:
            self.plan.cells += [self.cell(entry, pair, row, seed, status=SKIPPED, reason=reason) for pair in pairs]
            return
        checkpoint, trained = self.imported(entry, row.recipe) or self.train(entry, row.recipe, seed)
        fitted = self.fit(entry, row, checkpoint, trained, seed)
        for pair in pairs:
            id_outputs, id_scores = self.score(entry, row, pair.id, checkpoint, trained, fitted, seed)
            _, ood_scores = self.score(entry, row, pair.ood, checkpoint, trained, fitted, seed)
            jobs = [self.plan.jobs[key.digest] for key in (id_scores, ood_scores)]
            cell = self.cell(entry, pair, row, seed, forward_images=self.charge(jobs, row), training=_training(trained))
            self.plan.cells.append(
                replace(cell, id_scores=id_scores, ood_scores=ood_scores, id_outputs=id_outputs, checkpoint=checkpoint)
            )

    def unmet(self, entry: IDEntry, row: Row) -> str:
        """Why a detector cannot run on an ID set; empty if it can."""
        shape = self.library.part(entry.set, "train").image_shape
        if reason := self.backbone.refuses(shape):
            return f"'{entry.set}' does not fit: {reason}"
        if self.weights is not None:
            if not isinstance(row.recipe, Imported):
                return f"its classifier is to be trained by recipe '{row.recipe.name}', and --checkpoint trains none"
            try:
                weights.fitted(self.weights, self.backbone, self.fresh_network(entry))
            except UserError as error:
                return f"with '{entry.set}': {error}"
        looks = type(row.detector).refuses is not Detector.refuses
        if looks and (reason := row.detector.refuses(self.fresh_network(entry))):
            return f"detector '{row.label}' cannot score with backbone '{self.backbone.name}': {reason}"
        for what, plugin in (("recipe", row.recipe), ("detector", row.detector)):
            if "outliers" in plugin.needs:
                if entry.outliers is None:
                    return f"{what} '{plugin.name}' needs outliers, and the suite names none for '{entry.set}'"
                try:
                    outliers = self.library.part(entry.outliers, "outliers").image_shape
                except OodbenchError as error:
                    return f"{what} '{plugin.name}' needs the outliers '{entry.outliers}': {error}"
                if reason := unlike(entry.set, shape, entry.outliers, outliers):
                    return f"{what} '{plugin.name}' needs outliers: {reason}"
        return ""

    def fresh_network(self, entry: IDEntry) -> torch.nn.Module:
        """A network of the run's backbone for an ID set, to be looked at only."""
        what = self.library.num_classes(entry.set), self.library.part(entry.set, "train").image_shape
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta"):
                    return self.backbone.build(*what)
            except (NotImplementedError, RuntimeError):  # a stranger's backbone may compute while it is built
                return self.backbone.build(*what)

    def cell(self, entry: IDEntry, pair: Pair, row: Row, seed: int, **more: Any) -> Cell:
        record = Record(
            id_set=pair.id.set,
            ood_set=pair.ood.set,
            group=pair.group,
            outlier_source=pair.outlier_source,
            seen=pair.outlier_source and "outliers" in row.recipe.needs,
            detector=row.detector.name,
            settings=row.detector.changed_settings(),
            recipe=row.recipe.name,
            recipe_settings=row.recipe.changed_settings(),
            backbone=str(canonical(self.backbone)),
            other_backbone=canonical(self.backbone) != self.plan.backbone,
            seed=seed,
            label=row.label,
            n_id=pair.id.images,
            n_ood=pair.ood.images,
            notes=(f"{QUICK_LOOK}: trained on {shortened}",) if (shortened := self.request.shortened) else (),
            **more,
        )
        return Cell(record, rules=self.request.metrics)

    def train(self, entry: IDEntry, recipe: Recipe, seed: int) -> tuple[Checkpoint, TrainJob]:
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
            "recipe": _identity(recipe),
            "backbone": _identity(self.backbone),
            "train": self.checksum(train),
            "outliers": self.checksum(outliers) if outliers else None,
            "given": given[0].key.digest if given else None,
            "schedule": schedule._asdict(),
            "seed": seed,
            "precision": self.plan.precision,
            "training": TRAINING_VERSION,
        })  # fmt: skip
        checkpoint = self.checkpoint(entry, key, str(canonical(recipe)))
        job = TrainJob(
            title=f"train {label} on {entry.set}, seed {seed}",
            makes=(key,),
            after=(given[1].id,) if given else (),
            checkpoint=checkpoint,
            train=train,
            outliers=outliers,
            given=given[0] if given else None,
            schedule=schedule,
            seed=seed,
            precision=self.plan.precision,
        )
        self.plan.jobs.setdefault(job.id, job)
        return checkpoint, job

    def imported(self, entry: IDEntry, recipe: Recipe) -> tuple[Checkpoint, ImportJob] | None:
        """The job that takes the weights from a user's file, whatever the seed; None for a recipe that trains."""
        if self.weights is None or not isinstance(recipe, Imported):
            return None
        file, sha256 = self.weights.path, self.weights.sha256
        key = Key("checkpoint", ".safetensors", f"{recipe.name}-{file.stem}-{self.backbone.name}", {
            "file": sha256,
            "backbone": _identity(self.backbone),
            "classes": self.library.num_classes(entry.set),
            "image_shape": list(self.library.part(entry.set, "train").image_shape),
            "import": weights.IMPORT_VERSION,
        })  # fmt: skip
        checkpoint = self.checkpoint(entry, key, recipe.name)
        title = f"import {file.name} for {self.backbone.name}"
        job = ImportJob(title=title, makes=(key,), checkpoint=checkpoint, file=str(file), sha256=sha256)
        self.plan.jobs.setdefault(job.id, job)
        return checkpoint, job

    def checkpoint(self, entry: IDEntry, key: Key, recipe: str) -> Checkpoint:
        """A classifier of the run's backbone for an ID set."""
        classes, image_shape = self.library.num_classes(entry.set), self.library.part(entry.set, "train").image_shape
        return Checkpoint(key, recipe, str(canonical(self.backbone)), classes, image_shape)

    def extract(self, data: SetRef, checkpoint: Checkpoint, trained: Made) -> tuple[Outputs, ExtractJob]:
        """The one forward pass of a set through a classifier."""
        title = f"{trained.checkpoint.key.label}--{data.set}-{data.part}"

        def key(what: str) -> Key:
            content = {"checkpoint": checkpoint.key.digest, "data": self.checksum(data), "precision": FLOAT32}
            return Key(what, ".npy", title, {**content, "extraction": EXTRACTION_VERSION})

        outputs = Outputs(data, key("logits"), key("features"))
        job = ExtractJob(
            title=f"extract {data} with {trained.title.partition(' ')[2]}",
            makes=(outputs.logits, outputs.features),
            after=(trained.id,),
            checkpoint=checkpoint,
            outputs=outputs,
        )
        self.plan.jobs.setdefault(job.id, job)
        return outputs, job

    def fit(self, entry: IDEntry, row: Row, checkpoint: Checkpoint, trained: Made, seed: int) -> FitJob | None:
        """The job that fits a detector; none for one that has nothing to learn."""
        if type(row.detector).fit is Detector.fit:
            return None
        parts = {"train": entry.set, "validation": entry.set}
        if "outliers" in row.detector.needs and entry.outliers:
            parts["outliers"] = entry.outliers
        made = {part: self.extract(self.ref(spec, part), checkpoint, trained) for part, spec in parts.items()}
        key = Key("fit", ".safetensors", f"{row.label}-{entry.set}-s{seed}", {
            "detector": _identity(row.detector),
            "checkpoint": checkpoint.key.digest,
            "outputs": {part: _digests(outputs) for part, (outputs, _) in made.items()},
            "scoring": SCORING_VERSION,
        })  # fmt: skip
        job = FitJob(
            title=f"fit {row.label} on {entry.set}, seed {seed}",
            makes=(key,),
            after=tuple(extract.id for _, extract in made.values()),
            detector=str(canonical(row.detector)),
            checkpoint=checkpoint,
            train=made["train"][0],
            validation=made["validation"][0],
            outliers=made["outliers"][0] if "outliers" in made else None,
            seed=seed,
        )
        self.plan.jobs.setdefault(job.id, job)
        return job

    def score(
        self,
        entry: IDEntry,
        row: Row,
        data: SetRef,
        checkpoint: Checkpoint,
        trained: Made,
        fitted: FitJob | None,
        seed: int,
    ) -> tuple[Outputs, Key]:
        """The job that scores one set, ID or OOD, with one detector."""
        outputs, extract = self.extract(data, checkpoint, trained)
        key = Key("scores", ".npy", f"{row.label}--{trained.checkpoint.key.label}--{data.set}", {
            "detector": _identity(row.detector),
            "outputs": _digests(outputs),
            "fitted": fitted.id if fitted else None,
            "scoring": SCORING_VERSION,
        })  # fmt: skip
        job = ScoreJob(
            title=f"score {data} with {row.label} (ID {entry.set}, seed {seed})",
            makes=(key,),
            after=(extract.id, *((fitted.id,) if fitted else ())),
            detector=str(canonical(row.detector)),
            checkpoint=checkpoint,
            outputs=outputs,
            fitted=fitted.makes[0] if fitted else None,
            seed=seed,
        )
        self.plan.jobs.setdefault(job.id, job)
        return outputs, key

    def charge(self, jobs: list[Job], row: Row) -> int:
        """Images pushed through a network for a cell as if the store were empty; what is shared is charged once."""
        images = 0
        todo = list(jobs)
        while todo:
            job = todo.pop()
            if job.id in self.charged or isinstance(job, TrainJob | ImportJob):
                continue
            self.charged.add(job.id)
            images += job.size if isinstance(job, ExtractJob) else 0
            images += row.detector.passes * job.size if isinstance(job, ScoreJob) else 0
            todo.extend(self.plan.jobs[other] for other in job.after)
        return images


def _identity(plugin: Plugin) -> dict[str, Any]:
    """What of a plug-in goes into a key."""
    return {"name": plugin.name, "settings": plugin.settings, "version": source_version(type(plugin))}


def _training(job: Made) -> dict[str, Any]:
    """What a record says of the training behind it."""
    if isinstance(job, ImportJob):
        return {"file": Path(job.file).name, "sha256": job.sha256}
    schedule = job.schedule
    facts = {"images": job.train.images, "epochs": schedule.epochs, "batch_size": schedule.batch_size}
    return {**facts, "precision": job.precision}


def _digests(outputs: Outputs) -> dict[str, str]:
    return {"logits": outputs.logits.digest, "features": outputs.features.digest}
