"""Counts near-duplicates between the splits that a run uses, for the notes under its tables. They refuse nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from oodbench.benchmark.data.duplicates import NEAR, CachedDuplicates
from oodbench.benchmark.plan.jobs import FitJob, HeadJob, SetRef, TrainJob
from oodbench.benchmark.plan.plan import Plan
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.stages.context import JobContext

Described = tuple[SetRef, str]
"""Images, and what they are."""


class Comparison(NamedTuple):
    """Images of one part that should not resemble those of another."""

    tested: SetRef
    what: str
    seen: SetRef
    seen_as: str
    spoils_scores: bool = True
    """Whether test images resemble images that something has seen, which makes a number too good or too bad."""


def near_notes(plan: Plan, context: JobContext) -> list[str]:
    """Notes under the tables on images that are near-duplicates of images in another split.

    One note for each pair of test images and images that something has seen, and one for all other pairs of splits.
    """
    duplicates = CachedDuplicates(context.library.files.cache)
    measure = f"(RMS difference at most {NEAR:g} of 255 grey levels)"
    notes, others = [], []
    for comparison in dict.fromkeys(_comparisons(plan)):
        tested, seen = context.images(comparison.tested), context.images(comparison.seen)
        if count := duplicates.near(seen, tested):
            found = f"{count:,} of {len(tested):,} {comparison.what}"
            if comparison.spoils_scores:
                notes.append(
                    f"{found} are near-duplicates of {comparison.seen_as} {measure}; they are scored all the same."
                )
            else:
                others.append(f"{found} and {comparison.seen_as}")
    more = [f"Other near-duplicates {measure}: {'; '.join(dict.fromkeys(others))}."] if others else []
    return list(dict.fromkeys([*notes, *more]))


def _comparisons(plan: Plan) -> Iterator[Comparison]:
    for id_data in dict.fromkeys(pair.id for pair in plan.pairs):
        ood = [pair.ood for pair in plan.pairs if pair.id == id_data]
        yield from _with_id_images(plan, id_data)
        yield from _with_ood_images(plan, id_data, ood)


def _with_id_images(plan: Plan, id_data: SetRef) -> Iterator[Comparison]:
    """What an ID set's own splits, and their shifted forms, should not resemble."""
    name, parts = id_data.set, plan.id_parts[id_data.set]
    learnt = _learnt_from(plan, name)
    if parts.can_fit:
        fitted, held_out = SetRef(name, parts.train, 0), SetRef(name, parts.validation, 0)
        yield Comparison(held_out, f"validation images of '{name}'", fitted, learnt[-1][1], False)
    scored: list[Described] = [(id_data, f"test images of '{name}'")]
    if any(cell.extended_inputs for cell in plan.cells if cell.record.id_set == name):
        absent = {absence.what for absence in plan.skipped}
        shifted = [form for form in map(str, plan.suite.entry(parse_set(name)).shifted) if form not in absent]
        scored += [(SetRef(form, parts.shifted(parse_set(form)), 0), f"test images of '{form}'") for form in shifted]
    for tested, what in scored:
        for seen, seen_as in [*learnt, *_used(plan, name).items()]:
            yield Comparison(tested, what, seen, seen_as)
    for seen, seen_as in _used(plan, name).items():
        for train, training in learnt:
            yield Comparison(seen, seen_as.removeprefix("the "), train, training, False)


def _with_ood_images(plan: Plan, id_data: SetRef, ood: list[SetRef]) -> Iterator[Comparison]:
    """What the OOD test images of an ID set should not resemble: ID, outlier and tuning images, and each other."""
    learnt = _learnt_from(plan, id_data.set)
    for tested in ood:
        what = f"test images of '{tested.set}'"
        for train, training in learnt:
            yield Comparison(tested, what, train, training)
        yield Comparison(tested, what, id_data, f"test images of '{id_data.set}'")
        for seen, seen_as in _used(plan, id_data.set).items():
            if (seen.set, tested.part) != (tested.set, "scored"):  # the other half of the set itself
                yield Comparison(tested, what, seen, seen_as)
    for seen, tested in combinations(ood, 2):
        yield Comparison(tested, f"test images of '{tested.set}'", seen, f"test images of '{seen.set}'", False)


def _learnt_from(plan: Plan, id_set: str) -> list[Described]:
    """The images of an ID set that networks or detectors learn from, including the validation images."""
    return [(SetRef(id_set, part, 0), what) for part, what in plan.id_parts[id_set].seen]


def _used(plan: Plan, id_set: str) -> dict[SetRef, str]:
    """The outliers and the images that settings are chosen on, with their descriptions."""
    used: dict[SetRef, str] = {}
    for job in plan.jobs.values():
        if isinstance(job, TrainJob) and job.train.set == id_set and job.outliers:
            used[job.outliers] = f"the outliers '{job.outliers.set}'"
        elif isinstance(job, FitJob | HeadJob) and job.train and job.train.data.set == id_set and job.outliers:
            used[job.outliers.data] = f"the outliers '{job.outliers.data.set}'"
        elif isinstance(job, TuneJob) and job.train.data.set == id_set:
            sources = [outputs.data for outputs in job.ood if outputs.data.set != id_set]  # not validation images
            used |= {data: f"images of '{data.set}' that settings are chosen on" for data in sources}
    return used
