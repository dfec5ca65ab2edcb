"""Assembles `run.json`: the request, the pairs, the notes, the cost, and what was left out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from oodbench.benchmark.data import pixel_baseline
from oodbench.benchmark.data.channels import as_seen
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, ReduceMapsJob, ScoreJob, SetRef
from oodbench.benchmark.plan.outputs.jobs import ImportArraysJob
from oodbench.benchmark.plan.plan import Pair, Plan
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.record import SKIPPED, Record
from oodbench.benchmark.records.rows import cell_of
from oodbench.benchmark.records.unfinished import listed_cells
from oodbench.benchmark.runner import provenance
from oodbench.benchmark.runner.cell_origins import scored_images
from oodbench.benchmark.runner.described import described, with_earlier
from oodbench.benchmark.runner.earlier_cells import joined_commands
from oodbench.benchmark.runner.image_notes import conversion_notes, preprocessing_note, shared_notes
from oodbench.benchmark.runner.near_duplicates import near_notes
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.store.store import digest

logger = logging.getLogger(__name__)

T = TypeVar("T")


def collect_info(plan: Plan, context: JobContext, asked: dict[str, Any]) -> dict[str, Any]:
    """The content of `run.json`, except the list of cells."""
    baselines = pixel_baseline.CachedBaselines(context.library.files.cache)
    return {
        **asked,
        "suite": {"name": plan.suite.name, "title": _title(plan)},
        "pairs": [_pair_info(pair, plan.id_parts[pair.id.set].train, context, baselines) for pair in plan.pairs],
        "notes": [
            *plan.suite.notes_on(pair.id.set for pair in plan.pairs),
            *context.library.notes,
            *_image_notes(plan, context),
        ],
        "skipped": [absence._asdict() for absence in plan.skipped],
        "unavailable": [{"name": a.what, "reason": a.reason} for a in plan.unavailable],
        "preprocessing": plan.preprocessing,
        "passes": _passes(plan),
        **described(plan),
        **provenance.collect(context),
    }


def _title(plan: Plan) -> str:
    """What a table is about: the suite's title if it is about sets of its matrix."""
    if plan.suite.has_any(pair.id.set for pair in plan.pairs):
        return plan.suite.title
    return f"other ID sets, under the protocol of the suite '{plan.suite.name}'"


def _image_notes(plan: Plan, context: JobContext) -> list[str]:
    notes = [*preprocessing_note(plan), *conversion_notes(plan, context)]
    return [*notes, *shared_notes(plan, context), *near_notes(plan, context)]


def _pair_info(
    pair: Pair, train: str, context: JobContext, baselines: pixel_baseline.CachedBaselines
) -> dict[str, Any]:
    """What `run.json` says of a pair; `train`: the part of the ID set to fit on, empty if there is none."""
    found = _baselines(pair, train, context, baselines)
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
        "scored": scored_images(pair),
        **_stored_content(pair, context),
    }


def _baselines(
    pair: Pair, train: str, context: JobContext, baselines: pixel_baseline.CachedBaselines
) -> dict[str, Any]:
    """The baselines of a pair without a network; None for each where there are no pixels."""
    if not all(context.images(data).has_pixels for data in (pair.id, pair.ood)):
        return {"best": None, "one_class": None}
    id_images, ood_images = (as_seen(context.images(data), pair.channels) for data in (pair.id, pair.ood))
    training = as_seen(context.images(SetRef(pair.id.set, train, 0)), pair.channels) if train else None
    return baselines.of(training, id_images, ood_images)


def _stored_content(pair: Pair, context: JobContext) -> dict[str, Any]:
    """Hashes of what is stored of pictures of their own size, whatever the networks got of them."""
    found = {}
    for side, data in (("id", pair.id), ("ood", pair.ood)):
        images = context.images(data)
        if images.has_pixels and images.lazy is not None:
            labels = [] if images.labels is None else images.labels.tolist()
            found[side] = digest([images.lazy.content(), labels, list(images.classes)])
    return {"content": found} if found else {}


def _groups(data: SetRef, context: JobContext) -> int | None:
    """How many independent groups a set's test images form; None where every image counts as its own."""
    groups = context.images(data).groups
    return None if groups is None else len(np.unique(groups))


def _family(data: SetRef, context: JobContext) -> str:
    """The set that this one samples, to match published numbers; empty for selected classes and forms."""
    spec = parse_set(data.set)
    if spec.classes is not None or spec.forms or not context.images(data).has_pixels:
        return ""
    return context.library.card(spec).family or spec.name


def _passes(plan: Plan) -> str:
    """The line on forwarded images: their number with an empty store, and the detectors that add passes."""
    for_maps = {job.pass_id for job in plan.jobs.values() if isinstance(job, ReduceMapsJob)}
    extracts = [
        job
        for job in plan.jobs.values()
        if isinstance(job, ExtractJob) and (not job.features_stored or job.id in for_maps)
    ]
    distinct = {(job.outputs.data.set, job.outputs.data.part): job.size for job in extracts}
    checkpoints = {job.checkpoint.key.digest for job in extracts}
    added: dict[str, tuple[int, int]] = {}
    for job in plan.jobs.values():
        if isinstance(job, FitJob | ScoreJob):
            name = job.tried_for or job.detector
            possible = job.passes_if if isinstance(job, ScoreJob) and job.passes_if else (job.passes,)
            if job.tried_for and isinstance(job, ScoreJob) and job.tuned:  # for the tuning spread, if not known already
                possible = (0, max(possible))
            fewest, most = added.get(name, (0, 0))
            added[name] = fewest + min(possible), most + max(possible)
    if not extracts and not added:
        return "No image is forwarded: scores are given."
    if any(isinstance(job, ImportArraysJob) for job in plan.jobs.values()):
        return "No image is forwarded: logits and features are given."
    more = [(name, *span) for name, span in added.items() if any(span)]
    return (
        f"{sum(distinct.values()):,} distinct images, {len(checkpoints)} classifier{'s' * (len(checkpoints) != 1)}: "
        f"{sum(job.size for job in extracts):,} forwarded, each once a classifier for all detectors"
        f"{''.join(f'; {name} +{_span(fewest, most)}' for name, fewest, most in more)}."
    )


def _span(fewest: int, most: int) -> str:
    """A number of images, or a range if it depends on the settings that tuning chooses."""
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}, by the settings chosen"


def merge_info(
    earlier: Mapping[str, Any], records: Mapping[str, Record], plan: Plan, info: Mapping[str, Any]
) -> dict[str, Any]:
    """`run.json` of earlier commands whose cells stay, with their records by file name, and of this one."""
    replaced = _replaced(records, plan)
    before = [name for name in listed_cells(earlier) if name not in replaced]
    added = _names_of(plan)
    suite = earlier.get("suite") or {}
    passes = info["passes"] if earlier.get("passes") == info["passes"] else f"The last command: {info['passes']}"
    return {
        **info,
        "suite": {name: _joined(suite.get(name, ""), text) for name, text in info["suite"].items()},
        "cells": _union(before, info["cells"]),
        "detectors": _union(earlier.get("detectors", []), info["detectors"]),
        "pairs": _pairs([*earlier.get("pairs", []), *info["pairs"]]),
        "notes": _union(earlier.get("notes", []), info["notes"]),
        "skipped": _union([one for one in earlier.get("skipped", []) if one["what"] not in added], info["skipped"]),
        "unavailable": _union(
            [one for one in earlier.get("unavailable", []) if one["name"] not in added], info["unavailable"]
        ),
        "data": _sources(earlier.get("data"), info["data"]),
        "passes": passes,
        "seeds": sorted({*earlier.get("seeds", []), *info["seeds"]}),
        **with_earlier(earlier, info),
        **joined_commands(earlier, [name for name in before if name not in info["cells"]], info, plan.suite),
    }


def _replaced(records: Mapping[str, Record], plan: Plan) -> set[str]:
    """File names of earlier records in whose place the plan's have come.

    Where the same cell has the same origin, the file is the same. A cell that was skipped, and one of an older version,
    whose origin is unknown, give way to one that is not skipped.
    """
    planned = {cell_of(cell.record): cell.record.status for cell in plan.cells}
    found = set()
    for name, record in records.items():
        status = planned.get(cell_of(record))
        if status not in (None, SKIPPED) and (not record.origin or record.status == SKIPPED):
            found.add(name)
    if count := sum(not records[name].origin for name in found):
        logger.info(f"{count} cell{'s' * (count != 1)} of an older version {'are' if count > 1 else 'is'} replaced.")
    return found


def _names_of(plan: Plan) -> set[str]:
    """Sets and detectors that a plan has cells of; what an earlier command could not use of them, it could."""
    records = [cell.record for cell in plan.cells if cell.record.status != SKIPPED]
    return {name for r in records for name in (r.id_set, r.ood_set, r.label, r.detector)}


def _joined(earlier: str, added: str) -> str:
    """The names or titles of the suites of all commands."""
    known = f"; {added}; " in f"; {earlier}; "
    return earlier if known else "; ".join(filter(None, (earlier, added)))


def _union(earlier: Sequence[T], added: Sequence[T]) -> list[T]:
    return [*earlier, *(one for one in added if one not in earlier)]


def _pairs(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of unlike images stay apart; of like ones, the last command says the group.

    A set that samples the outliers of any of the commands stays an outlier source, which means leave out.
    """
    found: dict[str, dict[str, Any]] = {}
    known = {(pair["id_set"], pair["ood_set"]) for pair in pairs if pair.get("scored")}
    for pair in pairs:
        place = (pair["id_set"], pair["ood_set"])
        if pair.get("scored") or place not in known:  # an older version did not record which images
            key = digest([place, pair.get("scored")])
            source = bool(pair.get("outlier_source")) or bool(found.get(key, {}).get("outlier_source"))
            found[key] = {**pair, "outlier_source": source}
    return list(found.values())


def _sources(earlier: Any, added: Mapping[str, Any]) -> dict[str, Any]:
    """The files of data sets, by set: of a set that was read from several places, those of all."""
    found = dict(earlier) if isinstance(earlier, dict) else {}
    for name, files in added.items():
        known = found.get(name)
        found[name] = {**known, **files} if isinstance(known, dict) and isinstance(files, dict) else files
    return found
