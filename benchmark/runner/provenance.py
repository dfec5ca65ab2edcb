"""Collects the provenance of a run and of its cells: software, machine, commit, settings, data, artifacts."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.data.fit_images import role_of
from oodbench.benchmark.metrics.names import METRICS_VERSION
from oodbench.benchmark.plan.jobs import (
    FitJob,
    HeadJob,
    ImportJob,
    Job,
    ReduceMapsJob,
    ScoreJob,
    SetRef,
    TrainJob,
)
from oodbench.benchmark.plan.outputs.jobs import ImportScoresJob
from oodbench.benchmark.plan.plan import Cell, Plan
from oodbench.benchmark.plan.precision import STORED
from oodbench.benchmark.plan.tuning.jobs import TuneJob, without_tried
from oodbench.benchmark.plan.weights.file import OUTPUTS, SCORES
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.records.environment import PACKAGES, machine, made_now, package_version
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.runner.image_notes import channels_of, how_converted

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


COPIED = (
    *("seconds", "peak_memory", "peak_device_memory", "device", "threads", "block", "torch"),
    *("written", "version", "commit", "chosen", "attempt", "diverged"),
)
"""Fields of an artifact's side file that a record repeats."""


SMALL_BLOCKS = "memory was short, so that last bits may differ from those of other machines: forwarded in blocks"
"""Beginning of the note in records whose logits or features come from smaller blocks than usual."""

STARTED_AGAIN = "training was started again, from another seed, because it had diverged"
"""Beginning of the note in records whose network, or one that it builds on, is not of its training's first attempt."""


def collect(context: JobContext) -> dict[str, Any]:
    """Software, machine and data versions, for `run.json`."""
    return {
        **made_now(),
        **machine(context.device),
        "platform": platform.platform(),
        "data": dict(sorted(context.library.sources.items())),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def with_provenance(record: Record, cell: Cell, plan: Plan, context: JobContext, key: Mapping[str, Any]) -> Record:
    """A cell's record with its provenance; unchanged if it has no numbers. `key` is the content of the cell's key."""
    if record.status != OK:
        return record
    if not record.stability:  # not requested, or failed
        cell = replace(cell, changed_scores=None)
    provenance = {**of_cell(cell, plan, context), "key": dict(key)}
    peaks = [artifact["peak_memory"] for artifact in provenance["artifacts"] if "peak_memory" in artifact]
    blocks = [artifact["block"] for artifact in provenance["artifacts"] if "block" in artifact]
    diverged = ["; then ".join(artifact["diverged"]) for artifact in provenance["artifacts"] if "diverged" in artifact]
    notes = (*record.notes, *(f"{STARTED_AGAIN}: {reasons}" for reasons in diverged))
    notes = (*notes, f"{SMALL_BLOCKS} of {min(blocks)} images") if blocks else notes
    return replace(record, provenance=provenance, peak_memory=max(peaks, default=None), notes=notes)


def of_cell(cell: Cell, plan: Plan, context: JobContext) -> dict[str, Any]:
    """The provenance of a finished cell, as plain data.

    made        version, commit, time and machine that computed the numbers
    needs       inputs that the detector gets for each image
    data        every set used in training, fitting, tuning or scoring: use, set, part, images, limit, sha256, channels
                as stored, and how they were converted for the network, if they were
    resolved    detector, recipe, backbone, schedule and stages, each with settings and version
    artifacts   every file that the scores depend on, in order: kind, path, key, sha256, and how it was computed; for a
                fit, the settings that a rule chose (`chosen`); of tried settings, only what was chosen
    """
    jobs = _jobs_behind(cell, plan, context)
    if cell.record.recipe == SCORES:
        return _of_given_scores(cell, jobs, context)
    scoring = next(job for job in jobs if isinstance(job, ScoreJob))
    detector = create("detector", parse_spec(scoring.detector))
    data = dict.fromkeys(use for job in jobs for use in _uses(job))
    return {
        "made": {**made_now(), **machine(context.device)},
        "needs": sorted(detector.needs),
        "data": [{"use": use, **_facts(ref, channels_of(jobs), context)} for use, ref in data],
        "resolved": _resolved(cell, jobs, scoring),
        "artifacts": [artifact for job in jobs for artifact in _artifacts(job, context)],
    }


def _jobs_behind(cell: Cell, plan: Plan, context: JobContext) -> list[Job]:
    """The jobs that a cell's scores depend on; of those that tried settings, only the fit of the chosen ones."""
    jobs = plan.jobs_for([replace(cell, tuned_on_each=())])
    if cell.tuned is None:
        return jobs
    spec = context.store.load_json(cell.tuned)["detector"]
    states = (job.fitted_if[spec] for job in jobs if isinstance(job, ScoreJob) and spec in job.fitted_if)
    return without_tried(jobs, {state.digest for state in states})


def _of_given_scores(cell: Cell, jobs: list[Job], context: JobContext) -> dict[str, Any]:
    """The same for scores that the user gives: where they are from takes the place of what made them."""
    refs = dict.fromkeys(job.data for job in jobs if isinstance(job, ImportScoresJob))
    given = {"method": cell.record.detector, **cell.record.recipe_settings}
    return {
        "made": {**made_now(), **machine(context.device)},
        "needs": [],
        "data": [{"use": "score", **_facts(ref, None, context)} for ref in refs],
        "resolved": {"given": given, "metrics": METRICS_VERSION, "rules": []},
        "artifacts": [artifact for job in jobs for artifact in _artifacts(job, context)],
    }


def _uses(job: Job) -> Iterator[tuple[str, SetRef]]:
    """The sets that a job uses, each with its purpose."""
    if isinstance(job, TrainJob):
        yield "train", job.train
        if job.outliers:
            yield "train on outliers", job.outliers
    elif isinstance(job, HeadJob):
        yield "train", job.train.data
        if job.outliers:
            yield "train on outliers", job.outliers.data
    elif isinstance(job, ReduceMapsJob) and job.learns:
        yield "fit", job.data
    elif isinstance(job, FitJob | TuneJob):
        use = "fit" if isinstance(job, FitJob) else "tune"
        yield from ((use, outputs.data) for outputs in (job.train, job.validation, job.outliers) if outputs)
        if isinstance(job, TuneJob):
            id_set = job.train.data.set
            yield from (("tune" if o.data.set == id_set else "tune on OOD", o.data) for o in job.ood)
    elif isinstance(job, ScoreJob):
        yield "check stability" if role_of(job.outputs.data.part) == "changed" else "score", job.outputs.data


def _facts(ref: SetRef, channels: int | None, context: JobContext) -> dict[str, Any]:
    """What is recorded of some images; `channels` are those of the network that they are converted for."""
    images = context.images(ref)
    facts = {"set": ref.set, "part": ref.part, "images": ref.images, "sha256": images.checksum}
    if images.has_pixels:
        facts["channels"] = images.image_shape[0]
    if channels is not None and (how := how_converted(ref, channels, context)):
        facts["converted"] = how
    return {**facts, **({"limit": ref.limit} if ref.limit else {}), **({"groups": ref.groups} if ref.groups else {})}


def _resolved(cell: Cell, jobs: list[Job], scoring: ScoreJob) -> dict[str, Any]:
    """The content of the keys besides data and other keys."""
    trainings = (job for job in jobs if isinstance(job, TrainJob | HeadJob | ImportJob))
    trained = next(job for job in trainings if job.checkpoint == cell.checkpoint)
    content, scores = trained.makes[0].content, scoring.makes[0].content
    names = ("recipe", "file", "backbone", "schedule", "precision", "training", "import", "head")
    known = scoring.outputs.features.content if "logits" in scoring.outputs.absent else scoring.outputs.logits.content
    stages = {name: known[name] for name in ("extraction", "outputs_import") if name in known}
    stages["scoring"] = scores["scoring"]
    training = {name: content[name] for name in names if name in content}
    if cell.record.recipe == OUTPUTS:
        training["given"] = dict(cell.record.recipe_settings)
    stages["threads"] = known["threads"]
    stages |= {name: value for name, value in scoring.outputs.features.content.items() if name == STORED}
    return {"detector": scores["detector"], **training, **stages, "metrics": METRICS_VERSION, "rules": list(cell.rules)}


def _artifacts(job: Job, context: JobContext) -> Iterator[dict[str, Any]]:
    for key in job.makes:
        side = context.store.side(key)
        about = {name: value for name, value in side.get("about", {}).items() if name in COPIED}
        yield {"kind": key.kind, "path": key.path, "key": key.digest, "sha256": side.get("sha256", ""), **about}
