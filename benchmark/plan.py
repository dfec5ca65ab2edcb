"""What is asked -> jobs and cells. Pure: it reads data (their checksums are in the keys) and changes nothing.

Equal recipes share one checkpoint; a checkpoint and a set share one forward pass, whatever the detectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from oodbench.benchmark.contract import Detector, Plugin, Recipe
from oodbench.benchmark.data import Library
from oodbench.benchmark.errors import OodbenchError, UserError, unknown
from oodbench.benchmark.extract import EXTRACTION_VERSION
from oodbench.benchmark.jobs import Checkpoint, ExtractJob, FitJob, Job, Outputs, ScoreJob, SetRef, TrainJob
from oodbench.benchmark.records import SKIPPED, Record
from oodbench.benchmark.registry import registry, source_version
from oodbench.benchmark.scoring import SCORING_VERSION
from oodbench.benchmark.specs import DetectorSpec, SetSpec, Spec, create, parse_detector, parse_set, parse_spec
from oodbench.benchmark.store import Key
from oodbench.benchmark.suite import IDEntry, OODEntry, Suite, default_suite, read_suite
from oodbench.benchmark.training import PRECISION, TRAINING_VERSION

ALL = "all"


@dataclass(frozen=True)
class Request:
    """What the user asks for, names not yet resolved."""

    suite: str = ""
    detectors: tuple[str, ...] = (ALL,)
    id_sets: tuple[str, ...] = (ALL,)
    ood_sets: tuple[str, ...] = (ALL,)
    backbone: str = ""
    seeds: tuple[int, ...] = (0,)


class Absence(NamedTuple):
    """Something that was met through 'all' and cannot be had."""

    what: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """An ID set against an OOD set."""

    id: SetRef
    ood: SetRef
    group: str
    outlier_source: bool


@dataclass(frozen=True)
class Cell:
    """One number-to-be of the table: a record without results, and the keys that the results come from."""

    record: Record
    id_scores: Key | None = None
    ood_scores: Key | None = None
    id_outputs: Outputs | None = None
    checkpoint: Checkpoint | None = None


@dataclass
class Plan:
    """Jobs in an order that their dependencies allow, and the cells that they fill."""

    suite: Suite
    jobs: dict[str, Job] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    skipped: list[Absence] = field(default_factory=list)
    unavailable: list[Absence] = field(default_factory=list)

    def jobs_for(self, cells: Iterable[Cell]) -> list[Job]:
        """The jobs that some cells need, directly or not, in plan order."""
        wanted: set[str] = set()
        todo = [k.digest for cell in cells for k in (cell.id_scores, cell.ood_scores) if k is not None]
        while todo:
            job = todo.pop()
            if job not in wanted:
                wanted.add(job)
                todo.extend(self.jobs[job].after)
        return [job for id_, job in self.jobs.items() if id_ in wanted]


class Row(NamedTuple):
    """A detector with its recipe resolved for one ID set."""

    label: str
    detector: Detector
    recipe: Recipe


def make_plan(request: Request, library: Library) -> Plan:
    """Resolve every name, check what is needed and at hand, and lay out the work."""
    plan = Plan(read_suite(request.suite or default_suite()))
    return _Planner(request, library, plan).plan_all()


class _Planner:
    def __init__(self, request: Request, library: Library, plan: Plan) -> None:
        self.request, self.library, self.plan = request, library, plan
        self.backbone = create("backbone", parse_spec(request.backbone or plan.suite.backbone))
        self.charged: set[str] = set()

    def plan_all(self) -> Plan:
        specs = list(self.detectors())
        for entry in self.id_entries():
            pairs = [pair for ood in self.ood_entries(entry) if (pair := self.pair(entry, ood))]
            self.plan.pairs.extend(pairs)
            rows = list({row.label: row for spec in specs for row in [self.row(spec, entry)]}.values())
            for seed in self.request.seeds:
                for row in rows:
                    self.add_cells(entry, pairs, row, seed)
        if not any(cell.id_scores for cell in self.plan.cells):
            raise UserError(f"Nothing to run: {self.first_reason()}")
        return self.plan

    def first_reason(self) -> str:
        reasons = [a.reason for a in self.plan.skipped] + [cell.record.reason for cell in self.plan.cells]
        return next(filter(None, reasons), "no detector and no pair of sets was asked for.")

    # names -> objects

    def detectors(self) -> Iterator[DetectorSpec]:
        """The detectors asked for; 'all' leaves out, and notes, what cannot be loaded."""
        for name in self.request.detectors:
            if name == ALL:
                for entry in registry.entries("detector").values():
                    reason = entry.reason()
                    if reason:
                        self.plan.unavailable.append(Absence(entry.name, reason))
                    else:
                        yield DetectorSpec(Spec(entry.name))
            else:
                yield parse_detector(name)

    def row(self, spec: DetectorSpec, entry: IDEntry) -> Row:
        """Settings checked, and the recipe: the one asked for, else the detector's, else the suite's."""
        detector: Detector = create("detector", spec.detector)
        default = Spec(detector.recipe or self.plan.suite.recipe)
        recipe = self.recipe(spec.recipe or default, entry)
        own = spec.recipe is None or str(_canonical(recipe)) == str(_canonical(self.recipe(default, entry)))
        label = DetectorSpec(_canonical(detector), None if own else _canonical(recipe, spec.recipe))
        return Row(str(label), detector, recipe)

    def recipe(self, spec: Spec, entry: IDEntry) -> Recipe:
        recipe: Recipe = create("recipe", spec, self.plan.suite.recipe_settings(spec.name, entry.set))
        return recipe

    def id_entries(self) -> Iterator[IDEntry]:
        for name in self.request.id_sets:
            for spec in [e.set for e in self.plan.suite.entries] if name == ALL else [parse_set(name)]:
                if self.at_hand(spec, "train", named=name != ALL):
                    yield self.plan.suite.entry(spec)

    def ood_entries(self, entry: IDEntry) -> Iterator[OODEntry]:
        known = {ood.set: ood for ood in entry.ood}
        for name in self.request.ood_sets:
            if name == ALL and not known:
                raise UserError(
                    f"Suite '{self.plan.suite.name}' has no OOD sets for '{entry.set}'. Name some with --ood."
                )
            chosen = list(known) if name == ALL else [parse_set(name)]
            for spec in chosen:
                self.refuse_overlap(entry.set, spec)
                if self.at_hand(spec, "test", named=name != ALL):
                    yield known.get(spec, OODEntry(spec))

    def refuse_overlap(self, id_set: SetSpec, ood: SetSpec) -> None:
        """An ID set cannot be its own OOD set, nor can a set that holds some of its classes."""
        both = id_set.classes is not None and ood.classes is not None
        shared = not both or bool(set(id_set.classes or ()) & set(ood.classes or ()))
        if id_set.name == ood.name and id_set.forms == ood.forms and shared:
            raise UserError(
                f"'{ood}' cannot be an OOD set of '{id_set}': they share images. Choose another --ood, or classes that "
                f"do not overlap, such as {id_set.name}[0-6] against {id_set.name}[7-9]."
            )

    def at_hand(self, spec: SetSpec, part: str, named: bool) -> bool:
        """Whether a set can be loaded; if not, an error for one that was named, a note for one met through 'all'."""
        for kind, name in [("dataset", spec.name), *(("form", form) for form in spec.forms)]:
            if name not in registry.entries(kind):
                what = "data set" if kind == "dataset" else kind
                raise unknown(what, name, registry.entries(kind), "bench list datasets")
        try:
            self.library.part(spec, part)
        except UserError:
            raise
        except OodbenchError as error:
            if named:
                raise UserError(str(error)) from error
            absence = Absence(str(spec), str(error))
            if absence not in self.plan.skipped:
                self.plan.skipped.append(absence)
            return False
        return True

    def pair(self, entry: IDEntry, ood: OODEntry) -> Pair:
        source = entry.outliers is not None and self.library.same_distribution(entry.outliers, ood.set)
        return Pair(self.ref(entry.set, "test"), self.ref(ood.set, "test"), ood.group, source)

    def ref(self, spec: SetSpec, part: str) -> SetRef:
        return SetRef(str(spec), part, len(self.library.part(spec, part)))

    def checksum(self, data: SetRef) -> str:
        return self.library.part(parse_set(data.set), data.part).checksum

    # objects -> jobs and cells

    def add_cells(self, entry: IDEntry, pairs: list[Pair], row: Row, seed: int) -> None:
        reason = self.unmet(entry, row)
        if reason:
            self.plan.cells += [self.cell(entry, pair, row, seed, status=SKIPPED, reason=reason) for pair in pairs]
            return
        checkpoint, trained = self.train(entry, row.recipe, seed)
        fitted = self.fit(entry, row, checkpoint, trained, seed)
        for pair in pairs:
            id_outputs, id_scores = self.score(row, pair.id, checkpoint, trained, fitted, seed)
            _, ood_scores = self.score(row, pair.ood, checkpoint, trained, fitted, seed)
            jobs = [self.plan.jobs[key.digest] for key in (id_scores, ood_scores)]
            cell = self.cell(entry, pair, row, seed, forward_images=self.charge(jobs, row))
            self.plan.cells.append(
                replace(cell, id_scores=id_scores, ood_scores=ood_scores, id_outputs=id_outputs, checkpoint=checkpoint)
            )

    def unmet(self, entry: IDEntry, row: Row) -> str:
        """Why a detector cannot run on an ID set; empty if it can."""
        for what, plugin in (("recipe", row.recipe), ("detector", row.detector)):
            if "outliers" in plugin.needs:
                if entry.outliers is None:
                    return f"{what} '{plugin.name}' needs outliers, and the suite names none for '{entry.set}'"
                try:
                    self.library.part(entry.outliers, "outliers")
                except OodbenchError as error:
                    return f"{what} '{plugin.name}' needs the outliers '{entry.outliers}': {error}"
        return ""

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
            backbone=str(_canonical(self.backbone)),
            seed=seed,
            label=row.label,
            n_id=pair.id.images,
            n_ood=pair.ood.images,
            **more,
        )
        return Cell(record)

    def train(self, entry: IDEntry, recipe: Recipe, seed: int) -> tuple[Checkpoint, TrainJob]:
        """The job that trains a recipe, after the one that it builds on."""
        given = self.train(entry, self.recipe(Spec(recipe.builds_on), entry), seed) if recipe.builds_on else None
        train = self.ref(entry.set, "train")
        outliers = self.ref(entry.outliers, "outliers") if "outliers" in recipe.needs and entry.outliers else None
        schedule = self.plan.suite.schedule(recipe.name, entry.set)
        key = Key("checkpoint", ".safetensors", f"{recipe.name}-{entry.set}-{self.backbone.name}-s{seed}", {
            "recipe": _identity(recipe),
            "backbone": _identity(self.backbone),
            "train": self.checksum(train),
            "outliers": self.checksum(outliers) if outliers else None,
            "given": given[0].key.digest if given else None,
            "schedule": schedule._asdict(),
            "seed": seed,
            "precision": PRECISION,
            "training": TRAINING_VERSION,
        })  # fmt: skip
        image_shape = self.library.part(entry.set, "train").image_shape
        backbone, classes = str(_canonical(self.backbone)), self.library.num_classes(entry.set)
        checkpoint = Checkpoint(key, str(_canonical(recipe)), backbone, classes, image_shape)
        job = TrainJob(
            title=f"train {_canonical(recipe)} on {entry.set}, seed {seed}",
            makes=(key,),
            after=(given[1].id,) if given else (),
            checkpoint=checkpoint,
            train=train,
            outliers=outliers,
            given=given[0] if given else None,
            schedule=schedule,
            seed=seed,
        )
        self.plan.jobs.setdefault(job.id, job)
        return checkpoint, job

    def extract(self, data: SetRef, checkpoint: Checkpoint, trained: TrainJob) -> tuple[Outputs, ExtractJob]:
        """The one forward pass of a set through a classifier."""
        title = f"{trained.checkpoint.key.label}--{data.set}-{data.part}"

        def key(what: str) -> Key:
            content = {"checkpoint": checkpoint.key.digest, "data": self.checksum(data), "precision": PRECISION}
            return Key(what, ".npy", title, {**content, "extraction": EXTRACTION_VERSION})

        outputs = Outputs(data, key("logits"), key("features"))
        job = ExtractJob(
            title=f"extract {data} with {trained.title.removeprefix('train ')}",
            makes=(outputs.logits, outputs.features),
            after=(trained.id,),
            checkpoint=checkpoint,
            outputs=outputs,
        )
        self.plan.jobs.setdefault(job.id, job)
        return outputs, job

    def fit(self, entry: IDEntry, row: Row, checkpoint: Checkpoint, trained: TrainJob, seed: int) -> FitJob | None:
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
            "outputs": {part: outputs.logits.digest for part, (outputs, _) in made.items()},
            "scoring": SCORING_VERSION,
        })  # fmt: skip
        job = FitJob(
            title=f"fit {row.label} on {entry.set}, seed {seed}",
            makes=(key,),
            after=tuple(extract.id for _, extract in made.values()),
            detector=str(_canonical(row.detector)),
            checkpoint=checkpoint,
            train=made["train"][0],
            validation=made["validation"][0],
            outliers=made["outliers"][0] if "outliers" in made else None,
            seed=seed,
        )
        self.plan.jobs.setdefault(job.id, job)
        return job

    def score(
        self, row: Row, data: SetRef, checkpoint: Checkpoint, trained: TrainJob, fitted: FitJob | None, seed: int
    ) -> tuple[Outputs, Key]:
        """The job that scores one set, ID or OOD, with one detector."""
        outputs, extract = self.extract(data, checkpoint, trained)
        key = Key("scores", ".npy", f"{row.label}--{trained.checkpoint.key.label}--{data.set}", {
            "detector": _identity(row.detector),
            "outputs": outputs.logits.digest,
            "fitted": fitted.id if fitted else None,
            "scoring": SCORING_VERSION,
        })  # fmt: skip
        job = ScoreJob(
            title=f"score {data} with {row.label} (ID {trained.train.set}, seed {seed})",
            makes=(key,),
            after=(extract.id, *((fitted.id,) if fitted else ())),
            detector=str(_canonical(row.detector)),
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
            if job.id in self.charged or isinstance(job, TrainJob):
                continue
            self.charged.add(job.id)
            images += job.size if isinstance(job, ExtractJob) else 0
            images += row.detector.passes * job.size if isinstance(job, ScoreJob) else 0
            todo.extend(self.plan.jobs[other] for other in job.after)
        return images


def _canonical(plugin: Plugin, given: Spec | None = None) -> Spec:
    """A plug-in as the user would type it: its name and the settings that differ from the defaults (or were given)."""
    settings = plugin.changed_settings()
    if given is not None:
        settings = {name: value for name, value in plugin.settings.items() if name in dict(given.settings)}
    return Spec(plugin.name, tuple(sorted(settings.items())))


def _identity(plugin: Plugin) -> dict[str, Any]:
    """What of a plug-in goes into a key."""
    return {"name": plugin.name, "settings": plugin.settings, "version": source_version(type(plugin))}
