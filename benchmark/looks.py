"""Detectors that look at feature maps: the jobs behind what they keep, and the one pass that makes it for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from oodbench.benchmark.contract import Detector
from oodbench.benchmark.extract import EXTRACTION_VERSION, observes, reduces
from oodbench.benchmark.jobs import ExtractJob, Job, LookJob, Outputs, SetRef
from oodbench.benchmark.specs import canonical
from oodbench.benchmark.store import Key
from oodbench.benchmark.versions import identity

if TYPE_CHECKING:
    from oodbench.benchmark.chain import Chain, Trained


class Seen(NamedTuple):
    """A set under a checkpoint, as some detectors see it."""

    outputs: Outputs
    after: tuple[str, ...]
    """The jobs that make it."""

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.outputs.data.images


def see(chain: Chain, data: SetRef, trained: Trained, detectors: Sequence[Detector]) -> Seen:
    """Add to the plan the pass of a set, and what the detectors among these that look at maps keep of it."""
    extract = chain.extract(data, trained)
    after = [extract.id]
    maps: dict[str, Key] = {}
    observed: dict[str, Key] = {}
    for detector in detectors:
        spec, learned = str(canonical(detector)), None
        if observes(detector):
            learned = _look(chain, detector, chain.extract(chain.ref(trained.entry.set, "train"), trained), True, None)
            observed[spec] = learned.makes[0]
            after.append(learned.id)
        if reduces(detector) and (learned is None or learned.carrier != extract.id):
            kept = _look(chain, detector, extract, False, learned)
            maps[spec] = kept.makes[0]
            after.append(kept.id)
    outputs = replace(extract.outputs, maps=maps, observed=observed)
    return Seen(outputs, tuple(dict.fromkeys(after)))


def _look(chain: Chain, detector: Detector, extract: ExtractJob, learns: bool, learned: LookJob | None) -> LookJob:
    data, checkpoint = extract.outputs.data, extract.checkpoint
    kind, extension = ("observed", ".safetensors") if learns else ("maps", ".npy")
    key = Key(kind, extension, f"{detector.name}--{checkpoint.key.label}--{data.set}-{data.part}", {
        "detector": identity(detector, detector.map_settings),
        "checkpoint": checkpoint.key.digest,
        "data": chain.checksum(data),
        "observed": learned.id if learned else None,
        "extraction": EXTRACTION_VERSION,
    })  # fmt: skip
    job = LookJob(
        title=f"look at the maps of {data} for {canonical(detector)}",
        makes=(key,),
        after=(extract.id, *extract.after, *((learned.id,) if learned else ())),
        detector=str(canonical(detector)),
        checkpoint=checkpoint,
        data=data,
        carrier=extract.id,
        learns=learns,
        observed=learned.makes[0] if learned else None,
    )
    made = chain.plan.jobs.setdefault(job.id, job)
    return made if isinstance(made, LookJob) else job


def in_passes(jobs: Iterable[Job], plan: Mapping[str, Job]) -> list[Job]:
    """The jobs in an order that allows one pass a set: each pass makes every look that is wanted of its set.

    A pass waits for what the looks need, such as what a detector learns from the training split's maps. Where only
    looks are wanted, the pass is run for them, and leaves logits and features alone.
    """
    left = {job.id: job for job in jobs}
    looks: dict[str, list[LookJob]] = {}
    for job in left.values():
        if isinstance(job, LookJob):
            looks.setdefault(job.carrier, []).append(job)
    for carrier, wanted in looks.items():
        extract = plan[carrier]
        assert isinstance(extract, ExtractJob)
        left[carrier] = replace(extract, looks=tuple(wanted), stored=carrier not in left)
    ordered: dict[str, Job] = {}
    begun: set[str] = set()

    def visit(id_: str) -> None:
        if id_ in begun or id_ not in left:
            return
        begun.add(id_)
        job = left[id_]
        for other in (*job.after, *(id_ for look in getattr(job, "looks", ()) for id_ in look.after)):
            visit(other)
        ordered[id_] = job

    for id_ in left:
        visit(id_)
    return list(ordered.values())
