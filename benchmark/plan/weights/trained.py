"""The classifiers of a plan and where their training starts; what records say about it; options that it cannot use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import Checkpoint, HeadJob, ImportJob, TrainJob
from oodbench.benchmark.plan.plan import Request
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.weights.file import Imported
from oodbench.benchmark.plugins.recipe import Recipe, fits_head, needs_start


class TrainedClassifier(NamedTuple):
    """A classifier: the job that trains or imports it, its ID set, and the seed of everything random after it."""

    job: TrainJob | HeadJob | ImportJob
    entry: IDEntry
    seed: int
    start: StartingNetwork | None = None
    """Where its training starts; None for one that starts from random weights, or is not trained here."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The stored networks."""
        return self.job.checkpoint

    @property
    def label_outputs(self) -> tuple[int, ...]:
        """The output that each label stands for, for a given head that keeps all of its outputs; () otherwise."""
        return self.job.head.label_outputs if isinstance(self.job, ImportJob) and self.job.head else ()


class StartingNetwork(NamedTuple):
    """Given weights that a training starts from."""

    job: ImportJob
    entry: IDEntry
    seed: int

    def gives_head_of(self, classes: int) -> bool:
        """Whether the given head has as many outputs, so that a training can start with it, too."""
        return not self.job.without_head and self.job.checkpoint.num_classes == classes

    @property
    def as_classifier(self) -> TrainedClassifier:
        """The network with the given head, or one of zeros, for its features."""
        return TrainedClassifier(self.job, self.entry, self.seed)


def training_facts(trained: TrainedClassifier, threads: int) -> dict[str, Any]:
    """How a classifier was trained, for its records."""
    job = trained.job
    if isinstance(job, ImportJob):
        return {**_file(job), **(job.head.key() if job.head else {})}
    start = {f"start_{name}": value for name, value in _file(trained.start.job).items()} if trained.start else {}
    if isinstance(job, HeadJob):
        return {"images": job.train.data.images, **start, "threads": threads}
    schedule = job.schedule
    facts = {"images": job.train.images, "epochs": schedule.epochs, "batch_size": schedule.batch_size}
    return {**facts, **start, "precision": job.precision, "threads": threads}


def _file(job: ImportJob) -> dict[str, str]:
    return {"file": Path(job.file).name, "sha256": job.sha256}


def refuse_unused_options(request: Request, recipes: Sequence[Recipe]) -> None:
    """Raise `UserError` for options about training that none of the rows on an ID set would use."""
    imported = any(isinstance(recipe, Imported) for recipe in recipes)
    started = [recipe for recipe in recipes if needs_start(recipe)]
    what = "--checkpoint" if request.checkpoint else "a backbone with pretrained weights"
    if imported and len(request.checkpoint) <= 1 and len(request.seeds) > 1:
        raise UserError(f"{what} gives one classifier, so give one seed in place of {len(request.seeds)}.")
    asked = {"limit-train": request.limit_train, "epochs": request.epochs}
    options = [f"--{name}" for name, value in asked.items() if value]
    if imported and options and not started:
        raise UserError(f"{what} trains nothing, so leave out {' and '.join(options)}.")
    if request.epochs and started and all(map(fits_head, started)):
        raise UserError(
            f"--epochs is of no use to recipe '{started[0].name}', which fits a head to stored features. Leave it out."
        )


def refuse_unused_names(request: Request, given: object) -> None:
    """Raise `UserError` for class names where no head is given, which they would describe."""
    if request.classes and given is None:
        raise UserError(
            "--classes names the outputs of a head that is made of names, or given with --checkpoint or a pretrained "
            "--backbone, and this run trains its own. Leave it out."
        )


def same_for_all_seeds(request: Request, recipes: Sequence[Recipe]) -> list[str]:
    """Notes on recipes whose classifiers do not depend on the seed, where several seeds start from one file."""
    names = sorted({recipe.name for recipe in recipes if not recipe.uses_seed})
    if len(request.seeds) < 2 or len(request.checkpoint) > 1:
        return []
    return [
        f"Recipe '{name}' gives the same classifier for every seed: the spread over seeds is not that of training."
        for name in names
    ]
