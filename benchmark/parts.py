"""A pass over a large set, divided among workers: its parts, and how they become one.

A part is a pass over some rows of the set. Parts begin at multiples of `extract.BLOCK`, so that every image goes
through the network in the same padded block as in an undivided pass, and the arrays are equal bit for bit.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark import extract as whole
from oodbench.benchmark.jobs import ExtractJob, LookJob
from oodbench.benchmark.locks import PASS
from oodbench.benchmark.loop import Tick
from oodbench.benchmark.store import Key

if TYPE_CHECKING:
    from oodbench.benchmark.work import Bench

PART = 40 * whole.BLOCK
"""Images of a part: few enough to keep many workers busy with a large set, enough to make loading a network cheap."""


def divided(job: ExtractJob, images: int = PART) -> ExtractJob:
    """The pass with its parts, of so many images each, a multiple of `extract.BLOCK`.

    A pass in which a detector learns from maps, in the order of the images, stays whole, and so does a small one.
    """
    count = job.outputs.data.images
    if count <= images or any(look.learns for look in job.looks):
        return job
    parts = tuple(_part(job, (start, min(start + images, count))) for start in range(0, count, images))
    return replace(job, parts=parts, after=(*job.after, *(part.id for part in parts)))


def _part(job: ExtractJob, rows: tuple[int, int]) -> ExtractJob:
    data = replace(job.outputs.data, images=rows[1] - rows[0])
    logits, features = (_key(key, rows) for key in (job.outputs.logits, job.outputs.features))
    looks = tuple(_look(look, rows) for look in job.looks)
    return replace(
        job,
        title=f"{job.title}, images {rows[0]:,} to {rows[1] - 1:,}",
        makes=tuple(look.makes[0] for look in looks) if job.stored else (logits, features),
        outputs=replace(job.outputs, data=data, logits=logits, features=features),
        looks=looks,
        rows=rows,
    )


def _look(look: LookJob, rows: tuple[int, int]) -> LookJob:
    data = replace(look.data, images=rows[1] - rows[0])
    after = tuple(id_ for id_ in look.after if id_ != look.carrier)  # which is put together after its parts
    return replace(look, makes=(_key(look.makes[0], rows),), data=data, after=after)


def _key(key: Key, rows: tuple[int, int]) -> Key:
    """Some rows of an array."""
    return Key("parts", key.extension, f"{key.label}-{key.kind}-{rows[0]}", {"of": key.digest, "rows": list(rows)})


def extract(bench: Bench, job: ExtractJob, tick: Tick) -> None:
    """Do a pass, or put it together from its parts; what a part failed to make, by a pass over the whole set."""
    if not job.parts:
        whole.extract(bench, job, tick)
        return
    about = _about(bench, job)
    arrays = [] if job.stored else [job.outputs.features, job.outputs.logits]
    joined = {key.digest: _join(bench, job, key, about) for key in (*arrays, *(look.makes[0] for look in job.looks))}
    looks = tuple(look for look in job.looks if not joined[look.makes[0].digest])
    stored = all(joined[key.digest] for key in arrays)
    if looks or not stored:
        whole.extract(bench, replace(job, looks=looks, stored=stored), tick)
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
    keys = [_key(key, part.rows) for part in job.parts if part.rows is not None]
    if any(bench.store.find(one) is None for one in keys):
        return False
    with tempfile.TemporaryDirectory(dir=bench.store.root, prefix=PASS) as folder:
        rows = whole.Rows(Path(folder) / f"{key.kind}.npy", job.outputs.data.images)
        for one in keys:
            rows.add(bench.store.load_array(one))
        rows.keep(bench, key, about)
    return True
