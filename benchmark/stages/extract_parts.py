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
    from oodbench.benchmark.stages.context import Bench


def extract(bench: Bench, job: ExtractJob, tick: Tick) -> None:
    """Do a pass, or put it together from its parts; what a part failed to make, by a pass over the whole set."""
    if not job.parts:
        whole.extract(bench, job, tick)
        return
    about = _about(bench, job)
    arrays = [] if job.stored else [job.outputs.features, job.outputs.logits]
    looks = [look.makes[0] for look in job.looks]
    missing = {key for key in (*arrays, *looks) if not _join(bench, job, key, about)}
    if missing:
        left = tuple(look for look in job.looks if look.makes[0] in missing)
        whole.extract(bench, replace(job, looks=left, stored=missing.isdisjoint(arrays)), tick)
    for part in job.parts:
        for key in (part.outputs.features, part.outputs.logits, *(look.makes[0] for look in part.looks)):
            bench.store.remove(key)


def _about(bench: Bench, job: ExtractJob) -> dict[str, object]:
    told = [bench.store.about(part.makes[0]) for part in job.parts]
    blocks = [one["block"] for one in told if "block" in one]
    seconds = sum(one.get("seconds", 0.0) for one in told)
    return bench.about(job, earlier=seconds, parts=len(job.parts), **({"block": min(blocks)} if blocks else {}))


def _join(bench: Bench, job: ExtractJob, key: Key, about: dict[str, object]) -> bool:
    """Put an array together, if all of its parts are there."""
    keys = [part_key(key, part.rows) for part in job.parts if part.rows is not None]
    bench.store.bring(keys)
    if any(bench.store.find(one) is None for one in keys):
        return False
    with tempfile.TemporaryDirectory(dir=bench.store.root, prefix=PASS) as folder:
        rows = whole.Rows(Path(folder) / f"{key.kind}.npy", job.outputs.data.images)
        for one in keys:
            rows.add(bench.store.load_array(one))
        rows.keep(bench, key, about)
    return True
