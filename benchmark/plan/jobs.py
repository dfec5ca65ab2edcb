"""The units of work, as plain data: names, settings and keys. Where they run is the engine's business.

train    a checkpoint: ID set x backbone x recipe x seed
import   a checkpoint: a user's file of weights x backbone
extract  logits and features of one set under one checkpoint: one forward pass for every detector
reduce   what one detector keeps of a set's feature maps, or learns from those of the training split; made in that pass
tune     a detector's settings, chosen on held-out data
fit      what a detector learns from ID data
score    one detector on one set
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.store.store import Key


@dataclass(frozen=True)
class SetRef:
    """Images by name: a set, the part of it that serves, and how many images that is."""

    set: str
    part: str
    images: int
    limit: int = 0
    """Training images it was cut down to with --limit-train; 0 for all."""
    checksum: str = ""
    """Of its content, where keys were made from it; a machine that has other images under the name does no job."""

    def __str__(self) -> str:
        return f"{self.set} ({self.part})"


@dataclass(frozen=True)
class Checkpoint:
    """Trained networks: what is needed to build them and to find their weights."""

    key: Key
    recipe: str
    backbone: str
    num_classes: int
    image_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Outputs:
    """Logits and features of one set under one checkpoint."""

    data: SetRef
    logits: Key
    features: Key
    maps: Mapping[str, Key] = field(default_factory=dict, kw_only=True)
    """What is kept of its feature maps, by detector with settings."""
    observed: Mapping[str, Key] = field(default_factory=dict, kw_only=True)
    """What detectors learned from the training split's maps, likewise."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every job has: the keys that it makes, and the jobs whose artifacts it reads."""

    title: str
    makes: tuple[Key, ...]
    after: tuple[str, ...] = ()
    """Digests of the first key of each job it waits for."""

    @property
    def id(self) -> str:
        """The digest of the first key it makes."""
        return self.makes[0].digest

    kind: ClassVar[str] = ""
    """train, import, extract, reduce, tune, fit or score."""

    @property
    def size(self) -> int:
        """Images pushed through its loop, for progress."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Train one recipe's networks."""

    kind = "train"

    checkpoint: Checkpoint
    train: SetRef
    outliers: SetRef | None
    given: Checkpoint | None
    schedule: Schedule
    seed: int
    precision: str = "float32"

    @property
    def size(self) -> int:
        """Images seen in all epochs."""
        return self.schedule.epochs * self.train.images


@dataclass(frozen=True, kw_only=True)
class ImportJob(Job):
    """Take a classifier's weights from a user's file."""

    kind = "import"

    checkpoint: Checkpoint
    file: str
    sha256: str

    @property
    def size(self) -> int:
        """One file."""
        return 1


@dataclass(frozen=True, kw_only=True)
class ReduceMapsJob(Job):
    """Have what one detector keeps of a set's maps; the set's pass (`ExtractJob.looks`) makes it."""

    kind = "reduce"

    detector: str
    checkpoint: Checkpoint
    data: SetRef
    pass_id: str
    """The id of the job whose pass it is."""
    learns: bool
    """True for `observe`, False for `reduce`."""
    observed: Key | None = None

    @property
    def size(self) -> int:
        """None of its own."""
        return 0


@dataclass(frozen=True, kw_only=True)
class ExtractJob(Job):
    """Push one set through one classifier, once."""

    kind = "extract"

    checkpoint: Checkpoint
    outputs: Outputs
    reductions: tuple[ReduceMapsJob, ...] = ()
    """What else the pass is to make."""
    stored: bool = False
    """True where logits and features are in the store, and only `looks` are wanted."""
    rows: tuple[int, int] | None = None
    """First image and the one after the last, where it is a part of a larger pass; None for all."""
    parts: tuple[ExtractJob, ...] = ()
    """What its arrays are put together from, where its pass is divided among workers (engines/tasks.py)."""

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.outputs.data.images


@dataclass(frozen=True, kw_only=True)
class TuneJob(Job):
    """Choose one detector's settings: those that best tell ID validation images from OOD images never scored."""

    kind = "tune"

    candidates: tuple[str, ...]
    """Detectors with settings; the first is the one with the defaults."""
    checkpoint: Checkpoint
    train: Outputs
    validation: Outputs
    outliers: Outputs | None
    ood: tuple[Outputs, ...]
    passes: int
    """Images pushed through the network by all candidates together."""
    seed: int

    @property
    def size(self) -> int:
        """Candidates times images scored."""
        images = self.validation.data.images + sum(outputs.data.images for outputs in self.ood)
        return len(self.candidates) * images


@dataclass(frozen=True, kw_only=True)
class FitJob(Job):
    """Fit one detector on one checkpoint's ID outputs."""

    kind = "fit"

    detector: str
    checkpoint: Checkpoint
    train: Outputs
    validation: Outputs
    outliers: Outputs | None
    seed: int
    tuned: Key | None = None
    """Where the choice of settings is stored that replaces `detector`'s."""
    passes: int = 0
    """Images pushed through the network by `fit` itself."""
    passes_if: tuple[int, ...] = ()
    """The same for every candidate, in the order of the `TuneJob`; empty where there is no choice."""

    @property
    def size(self) -> int:
        """Training images."""
        return self.train.data.images


@dataclass(frozen=True, kw_only=True)
class ScoreJob(Job):
    """Score one set with one detector."""

    kind = "score"

    detector: str
    checkpoint: Checkpoint
    outputs: Outputs
    fitted: Key | None = None
    tuned: Key | None = None
    seed: int = 0
    passes: int = 0
    """Images pushed through the network by `score` itself."""
    passes_if: tuple[int, ...] = ()
    """The same for every candidate, in the order of the `TuneJob`; empty where there is no choice."""
    bank: Outputs | None = None
    """The training split, for a detector that compares images with it."""
    others: tuple[ScoreJob, ...] = ()
    """Jobs of other detectors on the same set that it can do with the same product."""

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.outputs.data.images


def part_key(key: Key, rows: tuple[int, int]) -> Key:
    """The key of some rows of an array."""
    return Key("parts", key.extension, f"{key.label}-{key.kind}-{rows[0]}", {"of": key.digest, "rows": list(rows)})


def waits_for(job: Job) -> set[str]:
    """Ids of the jobs whose artifacts it reads; of a pass also those that its looks read."""
    reductions = job.reductions if isinstance(job, ExtractJob) else ()
    return {*job.after, *(id_ for reduction in reductions for id_ in reduction.after)} - {job.id}


def runs_network(job: Job) -> bool:
    """Whether a job trains a network, or pushes images through one, or hands one to a detector."""
    if isinstance(job, TuneJob | FitJob | ScoreJob):
        specs = job.candidates if isinstance(job, TuneJob) else (job.detector,)
        return any("network" in create("detector", parse_spec(spec)).needs for spec in specs)
    if isinstance(job, ExtractJob):
        return not job.parts
    return isinstance(job, TrainJob)
