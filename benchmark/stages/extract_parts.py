"""Joins the parts of a forward pass that was divided among workers (engines/tasks.py).

A part is a pass over some rows of a set. Parts begin at multiples of the job's block, so that every image is forwarded
in the same block as in an undivided pass, and the joined arrays are identical to its arrays bit for bit.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.plan.jobs import ExtractJob
from oodbench.benchmark.stages import extract as undivided
from oodbench.benchmark.stages.classify_features import classify_features
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.pass_arrays import GrowingArray
from oodbench.benchmark.store.locks import PASS
from oodbench.benchmark.store.store import Key

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def extract(context: JobContext, job: ExtractJob, tick: Tick) -> None:
    """Run a pass, or join its parts; arrays of which a part is missing are computed by a pass over the whole set."""
    if job.features_stored and not job.stored:
        classify_features(context, job, tick)
        job = replace(job, stored=True)
        if not job.reductions:
            return
    if not job.parts:
        undivided.extract(context, job, tick)
        return
    about = _about(context, job)
    arrays = [] if job.stored else [*reversed(job.outputs.arrays)]
    reductions = [reduction.makes[0] for reduction in job.reductions]
    missing = {key for key in (*arrays, *reductions) if not _join(context, job, key, about)}
    if missing:
        remaining = tuple(reduction for reduction in job.reductions if reduction.makes[0] in missing)
        undivided.extract(context, replace(job, reductions=remaining, stored=missing.isdisjoint(arrays)), tick)
    for part in job.parts:
        for key in (*part.outputs.arrays, *(reduction.makes[0] for reduction in part.reductions)):
            context.store.remove(key)


def _about(context: JobContext, job: ExtractJob) -> dict[str, object]:
    """The side file of the joined arrays: the seconds of all parts, and their smallest block if one was reduced."""
    parts = [context.store.about(part.makes[0]) for part in job.parts]
    blocks = [part["block"] for part in parts if "block" in part]
    seconds = sum(part.get("seconds", 0.0) for part in parts)
    return context.about(job, earlier=seconds, parts=len(job.parts), **({"block": min(blocks)} if blocks else {}))


def _join(context: JobContext, job: ExtractJob, key: Key, about: dict[str, object]) -> bool:
    """Join an array from its parts; returns False if one of them is missing."""
    keys = [key.of_rows(part.rows) for part in job.parts if part.rows is not None]
    context.store.bring(keys)
    if any(context.store.find(part) is None for part in keys):
        return False
    with tempfile.TemporaryDirectory(dir=context.store.root, prefix=PASS) as folder:
        rows = GrowingArray(Path(folder) / f"{key.kind}.npy", job.outputs.data.images, key)
        for part in keys:
            rows.add(context.store.load_array(part))
        rows.save(context, key, about)
    return True
