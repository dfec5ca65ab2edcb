"""What `run.json` says of a run: what was asked of what, on which pairs, at what cost, and what was left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from oodbench.benchmark.data import pixel_baseline
from oodbench.benchmark.data.duplicates import NEAR, CachedDuplicates
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, ScoreJob, SetRef, TuneJob
from oodbench.benchmark.plan.plan import Pair, Plan
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.record import read_record, write_record
from oodbench.benchmark.records.run import read_run
from oodbench.benchmark.runner import provenance
from oodbench.benchmark.stages.context import JobContext


def near_notes(plan: Plan, context: JobContext) -> list[str]:
    """What to say under the tables of tested OOD images that are near-duplicates of what a cell has seen."""
    measured = CachedDuplicates(context.library.files.cache)
    notes = []
    for pair in plan.pairs:
        tested = context.images(pair.ood)
        for seen, what in _seen(plan, pair).items():
            if count := measured.near(context.images(seen), tested):
                notes.append(
                    f"{count:,} of {len(tested):,} test images of '{pair.ood.set}' are near-duplicates of {what} "
                    f"(RMS difference at most {NEAR:g} of 255 grey levels); they are scored all the same."
                )
    return list(dict.fromkeys(notes))


def _seen(plan: Plan, pair: Pair) -> dict[SetRef, str]:
    """The sets that the pair's OOD images should not be near, and what they are: ID images, outliers, tuning images."""
    from oodbench.benchmark.plan.jobs import FitJob, SetRef, TrainJob, TuneJob

    train = SetRef(pair.id.set, "outliers", 0)  # the whole split, whatever is held out of it
    seen = {train: f"training images of '{pair.id.set}'", pair.id: f"test images of '{pair.id.set}'"}
    for job in plan.jobs.values():
        if isinstance(job, TrainJob) and job.train.set == pair.id.set and job.outliers:
            seen[job.outliers] = f"the outliers '{job.outliers.set}'"
        elif isinstance(job, FitJob) and job.train.data.set == pair.id.set and job.outliers:
            seen[job.outliers.data] = f"the outliers '{job.outliers.data.set}'"
        elif isinstance(job, TuneJob) and job.train.data.set == pair.id.set:
            others = [
                outputs.data for outputs in job.ood if (outputs.data.set, pair.ood.part) != (pair.ood.set, "scored")
            ]
            seen |= {data: f"images of '{data.set}' that settings are chosen on" for data in others}
    return seen


def facts_of(plan: Plan, context: JobContext, asked: dict[str, Any]) -> dict[str, Any]:
    """All of `run.json` but the cells."""
    measured = pixel_baseline.CachedStatistics(context.library.files.cache)
    return {
        **asked,
        "suite": {"name": plan.suite.name, "title": plan.suite.title},
        "pairs": [_pair_info(pair, context, measured) for pair in plan.pairs],
        "notes": [*plan.suite.notes, *context.library.notes, *near_notes(plan, context)],
        "skipped": [absence._asdict() for absence in plan.skipped],
        "unavailable": [{"name": a.what, "reason": a.reason} for a in plan.unavailable],
        "passes": _passes(plan),
        **provenance.collect(context),
    }


def _pair_info(pair: Pair, context: JobContext, measured: pixel_baseline.CachedStatistics) -> dict[str, Any]:
    return {
        "id_set": pair.id.set,
        "ood_set": pair.ood.set,
        "group": pair.group,
        "outlier_source": pair.outlier_source,
        "trivial": measured.best(context.images(pair.id), context.images(pair.ood)),
        "id_family": _family(pair.id, context),
        "ood_family": _family(pair.ood, context),
    }


def _family(data: SetRef, context: JobContext) -> str:
    """The set that this one samples, for comparisons with published numbers; empty for chosen classes and forms."""
    spec = parse_set(data.set)
    whole = spec.classes is None and not spec.forms
    return (context.library.card(spec).family or spec.name) if whole else ""


def _passes(plan: Plan) -> str:
    """The line on images forwarded, from the plan: what an empty store would cost, and which detectors add to it."""
    extracts = [job for job in plan.jobs.values() if isinstance(job, ExtractJob)]
    distinct = {(job.outputs.data.set, job.outputs.data.part): job.size for job in extracts}
    checkpoints = {job.checkpoint.key.digest for job in extracts}
    own: dict[str, tuple[int, int]] = {}
    for job in plan.jobs.values():
        if isinstance(job, TuneJob | FitJob | ScoreJob):
            name = job.candidates[0] if isinstance(job, TuneJob) else job.detector
            possible = job.passes_if if isinstance(job, FitJob | ScoreJob) and job.passes_if else (job.passes,)
            fewest, most = own.get(name, (0, 0))
            own[name] = fewest + min(possible), most + max(possible)
    more = [(name, *span) for name, span in own.items() if any(span)]
    return (
        f"{sum(distinct.values()):,} distinct images, {len(checkpoints)} classifier{'s' * (len(checkpoints) != 1)}: "
        f"{sum(job.size for job in extracts):,} forwarded, each once a classifier for all detectors"
        f"{''.join(f'; {name} +{_span(fewest, most)}' for name, fewest, most in more)}."
    )


def _span(fewest: int, most: int) -> str:
    """A number of images, or two where the settings that are chosen decide."""
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}, by the settings chosen"


def renamed(run_dir: Path, plan: Plan) -> dict[str, Any]:
    """A run's info, its records under the names that tell a backbone which is not the suite's.

    Records of older versions, or made under another suite, may lie where cells of this plan belong.
    """
    info = read_run(run_dir).info
    names = []
    for name in info.get("cells", []):
        path = run_dir / "cells" / Path(name).name
        record = read_record(path) if path.is_file() else None
        if record is not None and record.backbone:
            record = replace(record, other_backbone=record.backbone != str(plan.backbone))
            if record.file_name != path.name:
                name = write_record(run_dir, record).name
        names.append(name)
    return {**info, "cells": names}


def merged(earlier: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """--add: what earlier commands showed, and what this one adds."""
    pairs = {(p["id_set"], p["ood_set"]): p for p in [*earlier.get("pairs", []), *info["pairs"]]}
    return {
        **info,
        "cells": list(dict.fromkeys([*earlier.get("cells", []), *info["cells"]])),
        "pairs": list(pairs.values()),
        "seeds": sorted({*earlier.get("seeds", []), *info["seeds"]}),
        "commands": [*(one for one in earlier.get("commands", []) if one not in info["commands"]), *info["commands"]],
    }
