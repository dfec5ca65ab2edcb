"""Assembles `run.json`: the request, the pairs, the notes, the cost, and what was left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.data import pixel_baseline
from oodbench.benchmark.data.channels import as_seen
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, ScoreJob, SetRef, TuneJob
from oodbench.benchmark.plan.plan import Pair, Plan
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.record import read_record, write_record
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.runner import provenance
from oodbench.benchmark.runner.image_notes import conversion_notes, shared_notes
from oodbench.benchmark.runner.near_duplicates import near_notes
from oodbench.benchmark.stages.context import JobContext


def collect_info(plan: Plan, context: JobContext, asked: dict[str, Any]) -> dict[str, Any]:
    """The content of `run.json`, except the list of cells."""
    baselines = pixel_baseline.CachedBaselines(context.library.files.cache)
    return {
        **asked,
        "suite": {"name": plan.suite.name, "title": plan.suite.title},
        "pairs": [_pair_info(pair, context, baselines) for pair in plan.pairs],
        "notes": [*plan.suite.notes, *context.library.notes, *_image_notes(plan, context)],
        "skipped": [absence._asdict() for absence in plan.skipped],
        "unavailable": [{"name": a.what, "reason": a.reason} for a in plan.unavailable],
        "passes": _passes(plan),
        **provenance.collect(context),
    }


def _image_notes(plan: Plan, context: JobContext) -> list[str]:
    return [*conversion_notes(plan, context), *shared_notes(plan, context), *near_notes(plan, context)]


def _pair_info(pair: Pair, context: JobContext, baselines: pixel_baseline.CachedBaselines) -> dict[str, Any]:
    used = [context.images(data) for data in (SetRef(pair.id.set, "train", 0), pair.id, pair.ood)]
    found = baselines.of(*(as_seen(images, pair.channels) for images in used))
    return {
        "id_set": pair.id.set,
        "ood_set": pair.ood.set,
        "group": pair.group,
        "outlier_source": pair.outlier_source,
        "trivial": found["best"],
        "one_class": found["one_class"],
        "id_groups": _groups(pair.id, context),
        "ood_groups": _groups(pair.ood, context),
        "id_family": _family(pair.id, context),
        "ood_family": _family(pair.ood, context),
    }


def _groups(data: SetRef, context: JobContext) -> int | None:
    """How many independent groups a set's test images form; None where every image counts as its own."""
    groups = context.images(data).groups
    return None if groups is None else len(np.unique(groups))


def _family(data: SetRef, context: JobContext) -> str:
    """The set that this one samples, to match published numbers; empty for selected classes and forms."""
    spec = parse_set(data.set)
    if spec.classes is not None or spec.forms:
        return ""
    return context.library.card(spec).family or spec.name


def _passes(plan: Plan) -> str:
    """The line on forwarded images: their number with an empty store, and the detectors that add passes."""
    extracts = [job for job in plan.jobs.values() if isinstance(job, ExtractJob)]
    distinct = {(job.outputs.data.set, job.outputs.data.part): job.size for job in extracts}
    checkpoints = {job.checkpoint.key.digest for job in extracts}
    added: dict[str, tuple[int, int]] = {}
    for job in plan.jobs.values():
        if isinstance(job, TuneJob | FitJob | ScoreJob):
            name = job.candidates[0] if isinstance(job, TuneJob) else job.detector
            possible = job.passes_if if isinstance(job, FitJob | ScoreJob) and job.passes_if else (job.passes,)
            fewest, most = added.get(name, (0, 0))
            added[name] = fewest + min(possible), most + max(possible)
    more = [(name, *span) for name, span in added.items() if any(span)]
    return (
        f"{sum(distinct.values()):,} distinct images, {len(checkpoints)} classifier{'s' * (len(checkpoints) != 1)}: "
        f"{sum(job.size for job in extracts):,} forwarded, each once a classifier for all detectors"
        f"{''.join(f'; {name} +{_span(fewest, most)}' for name, fewest, most in more)}."
    )


def _span(fewest: int, most: int) -> str:
    """A number of images, or a range if it depends on the settings that tuning chooses."""
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}, by the settings chosen"


def with_backbone_names(run_dir: Path, plan: Plan) -> dict[str, Any]:
    """A run's info, after renaming records so that a backbone other than the suite's is in the file name.

    Records of older versions, or of another suite, may have the file names of cells of this plan.
    """
    info = read_stored_run(run_dir).info
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


def merge_info(earlier: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """For --add: the cells, pairs, seeds and commands of earlier commands and of this one."""
    pairs = {(p["id_set"], p["ood_set"]): p for p in [*earlier.get("pairs", []), *info["pairs"]]}
    return {
        **info,
        "cells": list(dict.fromkeys([*earlier.get("cells", []), *info["cells"]])),
        "pairs": list(pairs.values()),
        "seeds": sorted({*earlier.get("seeds", []), *info["seeds"]}),
        "commands": [
            *(command for command in earlier.get("commands", []) if command not in info["commands"]),
            *info["commands"],
        ],
    }
