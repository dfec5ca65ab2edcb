"""Turns a request into a plan. It reads data, whose checksums are part of the keys, and writes nothing.

Equal recipes share one checkpoint; a checkpoint and a set share one forward pass, whatever the detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from oodbench.benchmark.data.channels import conversion
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.metrics.names import EXTENDED
from oodbench.benchmark.plan.cells.charging import Charging, forwarded
from oodbench.benchmark.plan.cells.tuning_sources import TuningSources
from oodbench.benchmark.plan.detector_jobs import DetectorJobs
from oodbench.benchmark.plan.id_sets.parts import IDParts, fit_notes, recorded
from oodbench.benchmark.plan.job_builder import JobBuilder
from oodbench.benchmark.plan.jobs import ScoreJob, SetRef
from oodbench.benchmark.plan.obstacles import Obstacles
from oodbench.benchmark.plan.picture_view import described, run_backbone
from oodbench.benchmark.plan.plan import ALL, Absence, Cell, ExtendedInputs, Pair, Plan, Request, Row
from oodbench.benchmark.plan.precision import FLOAT32, resolve_precision
from oodbench.benchmark.plan.resolve import Resolver
from oodbench.benchmark.plan.suite import IDEntry, OODEntry, Suite
from oodbench.benchmark.plan.suite_file import default_suite, read_suite
from oodbench.benchmark.plan.threads import counted_threads
from oodbench.benchmark.plan.tuning_protocols import LEAVE_ONE_OUT
from oodbench.benchmark.plan.weights.file import Imported
from oodbench.benchmark.plan.weights.given import read_given
from oodbench.benchmark.plan.weights.trained import (
    TrainedClassifier,
    refuse_unused_names,
    refuse_unused_options,
    same_for_all_seeds,
    training_facts,
)
from oodbench.benchmark.plugins.guarded import CallError
from oodbench.benchmark.plugins.specs import SetSpec, canonical, parse_set
from oodbench.benchmark.records.record import OTHER_THREADS, QUICK_TEST, QUICK_TRAINING, SKIPPED, Record

CPU = torch.device("cpu")


def make_plan(request: Request, library: Library, device: torch.device = CPU) -> Plan:
    """Resolve every name, check that everything needed is available, and lay out the work for a type of device."""
    plan = new_plan(request, read_suite(request.suite or default_suite()), device)
    Planner(request, library, plan).fill()
    refuse_empty(plan)
    return plan


def new_plan(request: Request, suite: Suite, device: torch.device) -> Plan:
    """A plan without jobs and cells."""
    return Plan(
        suite,
        resolve_precision(request.precision or suite.precision, device),
        request.threads or suite.threads,
        block=request.block or suite.block,
        store_features=request.store_features or suite.store_features,
    )


def refuse_empty(plan: Plan) -> None:
    """Raise `UserError` if no cell of a plan gets numbers."""
    if not any(cell.id_scores for cell in plan.cells):
        reasons = [absence.reason for absence in plan.skipped] + [cell.record.reason for cell in plan.cells]
        reason = next(filter(None, reasons), "no detector and no pair of sets was requested.")
        raise UserError(f"Nothing to run: {reason.rstrip('.')}.")


class Planner:
    """Fills one plan; `set_up` decides where outputs of networks come from."""

    resolver: Resolver
    builder: JobBuilder
    obstacles: Obstacles
    network: str
    """The network, as records show it."""

    def __init__(self, request: Request, library: Library, plan: Plan) -> None:
        self.request, self.library, self.plan = request, library, plan
        self.set_up()
        self.jobs = DetectorJobs(self.builder)
        self.protocol = request.protocol or plan.suite.protocol
        self.sources = TuningSources(self.protocol, self.builder)
        self.charging = Charging(plan)
        self.changed: dict[SetSpec, SetRef | None] = {}
        """The slightly changed test images of each ID set; None if there are none."""

    def set_up(self) -> None:
        """Prepare to plan with networks that are trained or whose weights are given."""
        request, library, plan = self.request, self.library, self.plan
        backbone = run_backbone(request, plan.suite)
        plan.preprocessing = described(library.files.view, backbone)
        self.given = read_given(request.checkpoint, request.seeds, backbone)
        refuse_unused_names(request, self.given)
        self.resolver = Resolver(request, library, plan, self.given)
        self.builder = JobBuilder(request, library, plan, self.resolver, backbone, self.given)
        self.obstacles = Obstacles(library, self.builder, backbone, self.given)
        self.network = str(canonical(backbone))

    def parts(self, entry: IDEntry) -> IDParts:
        """The parts of an ID set that the run uses."""
        return self.resolver.parts(entry.set)

    def fill(self) -> None:
        """Add all pairs, cells and jobs to the plan."""
        specs = list(self.resolver.detectors())
        for entry in self.resolver.id_entries():
            self.library.notes += [note for note in self.notes_on(entry) if note not in self.library.notes]
            pairs = [self.pair(entry, ood) for ood in self.resolver.ood_entries(entry)]
            self.plan.pairs.extend(pairs)
            self.resolver.leakage.note_repeated(parse_set(pair.ood.set) for pair in pairs)
            self.resolver.leakage.refuse_shifted(entry, self.shifted_sets(entry))
            scored = [entry.set, *self.shifted_sets(entry), *(parse_set(pair.ood.set) for pair in pairs)]
            shared = self.sources.of_entry(entry, scored)
            rows = list({row.label: row for row in (self.resolver.row(spec, entry) for spec in specs)}.values())
            recipes = [row.recipe for row in rows]
            refuse_unused_options(self.request, recipes)
            notes = same_for_all_seeds(self.request, recipes)
            self.library.notes += [note for note in notes if note not in self.library.notes]
            for seed in self.request.seeds:
                for row in rows:
                    self.add_cells(entry, pairs, row, seed, shared)
        self.require_runnable()

    def notes_on(self, entry: IDEntry) -> list[str]:
        """Notes under the tables on what detectors learn from."""
        return fit_notes(self.parts(entry), self.library)

    def require_runnable(self) -> None:
        """Raise `UserError` if a detector that was requested by name cannot run on any pair."""
        if ALL in self.request.detectors:
            return
        for label in {cell.record.label for cell in self.plan.cells}:
            cells = [cell for cell in self.plan.cells if cell.record.label == label]
            if all(cell.record.status == SKIPPED for cell in cells):
                raise UserError(f"Detector '{label}' cannot run: {cells[0].record.reason.rstrip('.')}.")

    def pair(self, entry: IDEntry, ood: OODEntry) -> Pair:
        """An ID set against an OOD set, with the images that are scored."""
        source = entry.outliers is not None and self.library.same_distribution(entry.outliers, ood.set)
        part = "scored" if self.protocol == LEAVE_ONE_OUT else "test"
        images = self.builder.ref(entry.set, self.parts(entry).scored), self.builder.ref(ood.set, part)
        return Pair(*images, ood.group, source, self.builder.network_shape(entry)[0])

    def add_cells(self, entry: IDEntry, pairs: list[Pair], row: Row, seed: int, shared: list[SetRef]) -> None:
        """Add the cells of a row with one seed; `shared`: images that settings are chosen on, for all pairs alike."""
        row = self.of_seed(row, seed)
        try:
            reason = self.obstacles.of_backbone(entry, row)
        except CallError as error:
            reason = str(error)
        if reason and ALL in self.request.detectors and row.detector.name not in self.request.detectors:
            absence = Absence(row.label, reason)
            self.plan.skipped += [absence] if absence not in self.plan.skipped else []
            return
        reason = reason or self.obstacles.of_row(entry, row)
        if reason:
            self.plan.cells += [self.cell(entry, pair, row, seed, status=SKIPPED, reason=reason) for pair in pairs]
            return
        trained = self.builder.classifier(entry, row.recipe, seed)
        for pair in pairs:
            sources = shared or self.sources.of_pair(pairs, pair)
            try:
                reason = self.untunable(row, pair, sources)
                cell = None if reason else self.planned_cell(pair, row, trained, sources)
            except CallError as error:
                cell, reason = None, str(error)
            self.plan.cells.append(cell or self.cell(entry, pair, row, seed, status=SKIPPED, reason=reason))

    def of_seed(self, row: Row, seed: int) -> Row:
        """A row with the file of weights of a seed, if weights are given for its recipe."""
        is_given = self.given is not None and isinstance(row.recipe, Imported)
        return row._replace(recipe=self.given.imported(seed)) if self.given and is_given else row

    def planned_cell(self, pair: Pair, row: Row, trained: TrainedClassifier, sources: list[SetRef]) -> Cell:
        """A cell that can run, its jobs added to the plan; `sources` are the images to tune on."""
        entry, jobs = trained.entry, self.jobs
        tuned = jobs.tune_job(row, trained, sources) if sources else None
        fit = None if tuned else jobs.fit_job(row, trained)
        id_job, ood_job = (jobs.score_job(row, data, trained, fit, tuned) for data in (pair.id, pair.ood))
        classifies = trained.checkpoint.gives_logits
        extended = [jobs.score_job(row, data, trained, fit, tuned) for data in self.extended_sets(entry, classifies)]
        charged = self.charging.charge([id_job, ood_job, *extended])
        ref = self.changed_set(entry)
        changed = jobs.score_job(row, ref, trained, fit, tuned) if ref else None
        training = training_facts(trained, self.plan.threads)
        facts = {"forward_images": sum(map(forwarded, charged)), "training": training}
        choices = enumerate(candidate.detector for candidate in tuned.candidates) if tuned else ()
        return replace(
            self.cell(entry, pair, row, trained.seed, **facts),
            id_scores=id_job.makes[0],
            ood_scores=ood_job.makes[0],
            id_outputs=None if "logits" in id_job.outputs.absent else id_job.outputs,  # without: no ID accuracy
            checkpoint=trained.checkpoint,
            tuned=tuned.makes[0] if tuned else None,
            forwarded_if={spec: sum(forwarded(job, choice) for job in charged) for choice, spec in choices},
            extended_inputs=_extended_inputs(extended, bool(self.parts(entry).validation))
            if self.is_extended
            else None,
            tuned_on_each=jobs.on_each(row, trained, sources, (pair.id, pair.ood)) if tuned else (),
            changed_scores=changed.makes[0] if changed else None,
        )

    def changed_set(self, entry: IDEntry) -> SetRef | None:
        """The slightly changed test images of an ID set; None without stability, or, with a note, if there are none."""
        if not (self.request.stability and self.plan.suite.stability):
            return None
        if entry.set not in self.changed:
            try:
                self.changed[entry.set] = self.builder.ref(entry.set, self.parts(entry).changed)
            except (
                OodbenchError,
                OSError,
                ValueError,
                MemoryError,
            ) as error:  # no run fails for it
                self.changed[entry.set] = None
                self.library.notes.append(f"No stability on '{entry.set}', as its images cannot be changed: {error}")
        return self.changed[entry.set]

    def extended_sets(self, entry: IDEntry, classifies: bool = True) -> list[SetRef]:
        """The sets to score for the extended metrics, if these are requested: ID validation, then shifted ID sets.

        Shifted sets are left out where no network classifies them: they count by their accuracy.
        """
        if not self.is_extended:
            return []
        parts = self.parts(entry)
        validation = [self.builder.ref(entry.set, parts.validation)] if parts.validation else []
        shifted = self.shifted_sets(entry) if classifies else ()
        return [*validation, *(self.builder.ref(spec, parts.shifted(spec)) for spec in shifted)]

    def shifted_sets(self, entry: IDEntry) -> tuple[SetSpec, ...]:
        """The shifted ID sets that are scored: those of the suite that there are, if extended metrics are requested."""
        if not self.is_extended:
            return ()
        return tuple(spec for spec in entry.shifted if self.resolver.is_available(spec, "test", named=False))

    @property
    def is_extended(self) -> bool:
        """Whether the extended metrics are requested."""
        return EXTENDED in self.request.metrics

    def untunable(self, row: Row, pair: Pair, sources: list[SetRef]) -> str:
        """Why the protocol cannot choose a detector's settings for a pair; empty if it can or need not."""
        return self.sources.obstacle(row.detector, pair, sources)

    def cell(self, entry: IDEntry, pair: Pair, row: Row, seed: int, **facts: Any) -> Cell:
        """A cell without artifacts; `facts` are further fields of its record."""
        record = Record(
            id_set=pair.id.set,
            ood_set=pair.ood.set,
            group=pair.group,
            outlier_source=pair.outlier_source,
            seen=pair.outlier_source and "outliers" in row.recipe.needs | row.detector.needs,
            detector=row.detector.name,
            settings=row.detector.changed_settings(),
            recipe=row.recipe.name,
            recipe_settings=row.recipe.changed_settings(),
            backbone=self.network,
            channels=pair.channels,
            preprocessing=self.plan.preprocessing,
            converted={ref.set: how for ref in (pair.id, pair.ood) if (how := self.conversion(ref, pair.channels))},
            seed=seed,
            label=row.label,
            sanity=row.detector.is_sanity_baseline,
            n_id=pair.id.images,
            n_ood=pair.ood.images,
            notes=self.departures(),
            fitted_on=recorded(self.parts(entry), self.library),
            **facts,
        )
        return Cell(record, pair, rules=tuple(name for name in self.request.metrics if name != EXTENDED))

    def conversion(self, ref: SetRef, channels: int) -> str:
        """How images are converted for a network with a number of channels; empty if they are not."""
        return conversion(self.library.part(parse_set(ref.set), ref.part).image_shape[0], channels)

    def departures(self) -> tuple[str, ...]:
        """Notes on how the run departs from the suite's protocol; empty if it does not."""
        notes = [f"{QUICK_TRAINING} {self.request.shortened}"] if self.request.shortened else []
        if self.request.limit_test:
            notes.append(f"{QUICK_TEST} at most {self.request.limit_test:,} test images of each set")
        used, stated = self.plan.threads, self.plan.suite.threads
        if used != stated:
            notes.append(f"{OTHER_THREADS}: computed on {counted_threads(used)}, the suite states {stated}")
        if self.plan.store_features != FLOAT32:
            notes.append(f"features are stored as {self.plan.store_features}, rounded")
        return tuple(notes)


def _extended_inputs(jobs: Sequence[ScoreJob], validated: bool) -> ExtendedInputs:
    """Inputs of the extended metrics from the jobs that make them; `validated`: that of ID validation comes first."""
    validation, shifted = (jobs[0].makes[0], jobs[1:]) if validated else (None, jobs)
    return ExtendedInputs(validation, tuple((job.makes[0], job.outputs) for job in shifted))
