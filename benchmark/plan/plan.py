"""A plan, as data: what was asked, the jobs in an order that their dependencies allow, and the cells that they fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from oodbench.benchmark.plan.jobs import Checkpoint, Job, Outputs, SetRef
from oodbench.benchmark.plan.precision import FLOAT32
from oodbench.benchmark.plan.suite import Suite
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.specs import Spec
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.store.store import Key

ALL = "all"


@dataclass(frozen=True)
class Request:
    """What the user asks for, names not yet resolved."""

    suite: str = ""
    detectors: tuple[str, ...] = (ALL,)
    id_sets: tuple[str, ...] = (ALL,)
    ood_sets: tuple[str, ...] = (ALL,)
    backbone: str = ""
    seeds: tuple[int, ...] = (0,)
    metrics: tuple[str, ...] = ()
    """What to compute beside the exact metrics: names of `audit.RULES`, and `extended.EXTENDED`."""
    protocol: str = ""
    """How settings are chosen, of `tuning.PROTOCOLS`; the suite's if empty."""
    precision: str = ""
    """Of `precision.PRECISIONS`; the suite's if empty."""
    limit_train: int = 0
    """Train on at most so many images of each ID set; 0 for all."""
    epochs: int = 0
    """Train so many epochs instead of the suite's; 0 for those."""
    checkpoint: str = ""
    """A user's file of weights to evaluate instead of training; none if empty."""

    @property
    def shortened(self) -> str:
        """What makes the run a quick look rather than the suite's protocol, in words; empty if nothing does."""
        images = f"at most {self.limit_train:,} images of each ID set" if self.limit_train else "all images"
        epochs = f", {self.epochs} epoch{'s' * (self.epochs != 1)}" if self.epochs else ""
        return f"{images}{epochs}" if self.limit_train or self.epochs else ""


class Absence(NamedTuple):
    """Something that was met through 'all' and cannot be had."""

    what: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """An ID set against an OOD set."""

    id: SetRef
    ood: SetRef
    group: str
    outlier_source: bool


class Row(NamedTuple):
    """A detector with its recipe resolved for one ID set."""

    label: str
    detector: Detector
    recipe: Recipe


@dataclass(frozen=True)
class ExtendedInputs:
    """What the extended metrics of a cell come from, beside its own scores."""

    validation: Key
    """Scores of the ID validation images."""
    shifted: tuple[tuple[Key, Outputs], ...] = ()
    """Scores and outputs of forms of the ID test set that are ID still."""


@dataclass(frozen=True)
class Cell:
    """One number-to-be of the table: a record without results, and the keys that the results come from."""

    record: Record
    pair: Pair | None = None
    """The images that are scored."""
    id_scores: Key | None = None
    ood_scores: Key | None = None
    id_outputs: Outputs | None = None
    checkpoint: Checkpoint | None = None
    tuned: Key | None = None
    """Where the choice of its detector's settings is, if there was one."""
    forwarded_if: Mapping[str, int] = field(default_factory=dict)
    """`forward_images` by what may be chosen; empty where there is no choice."""
    rules: tuple[str, ...] = ()
    """Metric rules to compute beside the exact ones."""
    extended_inputs: ExtendedInputs | None = None
    """None where the extended metrics are not asked for."""

    @property
    def scores(self) -> tuple[Key, ...]:
        """All scores that the cell's numbers come from; none of a cell that is skipped."""
        more = (
            (self.extended_inputs.validation, *(key for key, _ in self.extended_inputs.shifted))
            if self.extended_inputs
            else ()
        )
        return tuple(key for key in (self.id_scores, self.ood_scores, *more) if key is not None)

    @property
    def reads(self) -> tuple[Key, ...]:
        """All artifacts that its record is made of."""
        logits = (self.id_outputs.logits,) if self.id_outputs else ()
        shifted = tuple(outputs.logits for _, outputs in self.extended_inputs.shifted) if self.extended_inputs else ()
        return (*self.scores, *logits, *shifted, *((self.tuned,) if self.tuned else ()))

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Ids of the jobs that make what its numbers come from."""
        shifted = [outputs for _, outputs in self.extended_inputs.shifted] if self.extended_inputs else []
        outputs = [*([self.id_outputs] if self.id_outputs else []), *shifted]
        return (*(key.digest for key in self.scores), *(one.logits.digest for one in outputs))


@dataclass
class Plan:
    """Jobs in an order that their dependencies allow, and the cells that they fill."""

    suite: Suite
    precision: str = FLOAT32
    """In which networks train."""
    backbone: Spec | None = None
    """The suite's, which not every cell has."""
    jobs: dict[str, Job] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    skipped: list[Absence] = field(default_factory=list)
    unavailable: list[Absence] = field(default_factory=list)
    _place: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def jobs_for(self, cells: Iterable[Cell]) -> list[Job]:
        """The jobs that some cells need, directly or not, in plan order."""
        wanted: set[str] = set()
        todo = [id_ for cell in cells for id_ in cell.waits_for]
        while todo:
            job = todo.pop()
            if job not in wanted:
                wanted.add(job)
                todo.extend(self.jobs[job].after)
        return [self.jobs[id_] for id_ in sorted(wanted, key=self._places().__getitem__)]

    def _places(self) -> dict[str, int]:
        """Where each job stands; kept, since every cell asks for its own few jobs among all."""
        if len(self._place) < len(self.jobs):
            self._place = {id_: place for place, id_ in enumerate(self.jobs)}
        return self._place
