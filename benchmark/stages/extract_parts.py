"""A pass over a large set that was divided among workers (engines/tasks.py): how its parts become one.

A part is a pass over some rows of the set. Parts begin at multiples of `extract.BLOCK`, so that every image goes
through the network in the same padded block as in an undivided pass, and the arrays are equal bit for bit.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.plan.jobs import ExtractJob, part_key
from oodbench.benchmark.stages import extract as whole
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.store.locks import PASS
from oodbench.benchmark.store.store import Key

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def extract(context: JobContext, job: ExtractJob, tick: Tick) -> None:
    """Do a pass, or put it together from its parts; what a part failed to make, by a pass over the whole set."""
    if not job.parts:
        whole.extract(context, job, tick)
        return
    about = _about(context, job)
    arrays = [] if job.stored else [job.outputs.features, job.outputs.logits]
    reductions = [reduction.makes[0] for reduction in job.reductions]
    missing = {key for key in (*arrays, *reductions) if not _join(context, job, key, about)}
    if missing:
        left = tuple(reduction for reduction in job.reductions if reduction.makes[0] in missing)
        whole.extract(context, replace(job, reductions=left, stored=missing.isdisjoint(arrays)), tick)
    for part in job.parts:
        for key in (part.outputs.features, part.outputs.logits, *(reduction.makes[0] for reduction in part.reductions)):
            context.store.remove(key)


def _about(context: JobContext, job: ExtractJob) -> dict[str, object]:
    told = [context.store.about(part.makes[0]) for part in job.parts]
    blocks = [one["block"] for one in told if "block" in one]
    seconds = sum(one.get("seconds", 0.0) for one in told)
    return context.about(job, earlier=seconds, parts=len(job.parts), **({"block": min(blocks)} if blocks else {}))


def _join(context: JobContext, job: ExtractJob, key: Key, about: dict[str, object]) -> bool:
    """Put an array together, if all of its parts are there."""
    keys = [part_key(key, part.rows) for part in job.parts if part.rows is not None]
    context.store.bring(keys)
    if any(context.store.find(one) is None for one in keys):
        return False
    with tempfile.TemporaryDirectory(dir=context.store.root, prefix=PASS) as folder:
        rows = whole.GrowingArray(Path(folder) / f"{key.kind}.npy", job.outputs.data.images)
        for one in keys:
            rows.add(context.store.load_array(one))
        rows.keep(context, key, about)
    return True
