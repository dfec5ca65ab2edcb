"""What records and the notes under a table say of a run's images: how they were converted, and what all of them share.

Images are converted between grey and colour for networks with other channels (`data.channels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oodbench.benchmark.data.channels import LUMA, REPEATED, conversion
from oodbench.benchmark.data.shared_by_all import shared_by_all
from oodbench.benchmark.plan.jobs import HeadJob, ImportJob, Job, SetRef, TrainJob
from oodbench.benchmark.plan.plan import Plan
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.stages.context import JobContext

SENTENCES = {
    LUMA: "Networks of one channel get images in colour as their luma (ITU-R 601)",
    REPEATED: "Networks of three channels get grey images repeated in three, so that images in colour can be "
    "recognised by their colour alone",
}
"""How images are converted -> the beginning of the note; the sets follow."""


def conversion_notes(plan: Plan, context: JobContext) -> list[str]:
    """One note for each kind of conversion, with the sets that are converted for the networks of each ID set."""
    converted: dict[str, dict[str, dict[str, None]]] = {}
    scored = [(pair, ref) for pair in plan.pairs for ref in (pair.id, pair.ood)]
    trained_on = [(pair, ref) for pair in plan.pairs for ref in _outliers(plan, pair.id.set)]
    for pair, ref in [*scored, *trained_on]:
        if how := how_converted(ref, pair.channels, context):
            converted.setdefault(how, {}).setdefault(pair.id.set, {})[ref.set] = None
    notes = []
    for how, sets in converted.items():
        by_sets: dict[tuple[str, ...], list[str]] = {}
        for id_set, names in sets.items():
            by_sets.setdefault(tuple(names), []).append(id_set)
        texts = [f"{', '.join(names)} for {' and '.join(id_sets)}" for names, id_sets in by_sets.items()]
        notes.append(f"{SENTENCES[how]}: {'; '.join(texts)}.")
    return notes


def preprocessing_note(plan: Plan) -> list[str]:
    """The note on how pictures become the networks' input, if they are resized for them."""
    if not plan.preprocessing:
        return []
    return [f"Networks get every picture so: {plan.preprocessing}."]


def shared_notes(plan: Plan, context: JobContext) -> list[str]:
    """Notes on what all training images of an ID set have in common (`data.shared_by_all`), if it has such images."""
    id_sets = dict.fromkeys(pair.id.set for pair in plan.pairs)
    seen = {name: plan.id_parts[name].seen[0][0] for name in id_sets if plan.id_parts[name].trains}
    training = {name: context.library.part(parse_set(name), part) for name, part in seen.items()}
    seen_images = {name: images.small for name, images in training.items() if images.has_pixels}
    return [note for name, images in seen_images.items() for note in shared_by_all(images, name)]


def how_converted(ref: SetRef, channels: int, context: JobContext) -> str:
    """How the images of a reference are converted for a network with a number of channels; empty if they are not."""
    return conversion(context.images(ref).image_shape[0], channels)


def channels_of(jobs: Iterable[Job]) -> int | None:
    """Channels of the images that the network behind some jobs takes; None without such a job."""
    shapes = [job.checkpoint.image_shape for job in jobs if isinstance(job, TrainJob | HeadJob | ImportJob)]
    return shapes[-1][0] if shapes else None


def _outliers(plan: Plan, id_set: str) -> Iterator[SetRef]:
    """The outliers that networks for an ID set train on."""
    for job in plan.jobs.values():
        if isinstance(job, TrainJob) and job.train.set == id_set and job.outliers:
            yield job.outliers
        elif isinstance(job, HeadJob) and job.train.data.set == id_set and job.outliers:
            yield job.outliers.data
