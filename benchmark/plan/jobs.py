"""The jobs of a plan as plain data: names, settings and keys. Engines decide where they run.

train    a checkpoint: ID set x backbone x recipe x seed
import   a checkpoint: a user's file of weights x backbone
train    a checkpoint, too: a head on the stored features of another one
extract  logits and features of one set under one checkpoint, in one forward pass for all detectors
reduce   one detector's reductions of a set's feature maps, or its statistics of the training split's; in that pass
fit      what a detector learns from ID data
score    one detector's scores of one set
tune     a detector's settings, chosen by the scores of all candidates (tuning/jobs.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.store.store import Key


@dataclass(frozen=True)
class SetRef:
    """A reference to images: a set's name, a part of it, and the number of images in that part."""

    set: str
    part: str
    images: int
    limit: int = 0
    """Number of images given with --limit-train or --limit-test; 0 for all."""
    checksum: str = ""
    """Checksum of the images that keys were computed from; a worker with other images under the name fails."""
    groups: str = ""
    """Checksum of the groups of images that depend on each other, part of a cell's key; empty without groups."""
    label_outputs: tuple[int, ...] = ()
    """The output that each label stands for, for a given head that keeps more outputs than the set has classes."""

    def __str__(self) -> str:
        return f"{self.set} ({self.part})"


@dataclass(frozen=True)
class Checkpoint:
    """Trained networks: all that is needed to build them and to find their weights."""

    key: Key
    recipe: str
    backbone: str
    num_classes: int
    image_shape: tuple[int, int, int]
    """Channels, height and width of the images that the networks take; others are converted (`data.channels`)."""
    repeats_grey: bool = False
    """Whether the ID images are grey and repeated in several channels for the networks."""
    named: tuple[tuple[str, int], ...] = ()
    """Named outputs of the classifier with their widths, in the order in which they are stored side by side."""
    gives_logits: bool = True
    """Whether the classifier is trained to tell classes apart."""


@dataclass(frozen=True)
class Outputs:
    """Logits and features of one set under one checkpoint."""

    data: SetRef
    logits: Key
    features: Key
    maps: Mapping[str, Key] = field(default_factory=dict, kw_only=True)
    """Reductions of its feature maps, by detector with settings."""
    observed: Mapping[str, Key] = field(default_factory=dict, kw_only=True)
    """Statistics of the training split's feature maps, by detector with settings."""
    absent: frozenset[str] = field(default=frozenset(), kw_only=True)
    """'logits' or 'features' if there are no such arrays: no job makes them, and nothing reads their key."""
    named: Key | None = field(default=None, kw_only=True)
    """The named outputs side by side, if the checkpoint has any."""

    @property
    def arrays(self) -> tuple[Key, ...]:
        """The keys of those arrays that a pass makes."""
        own = {"logits": self.logits, "features": self.features}
        return (*(key for kind, key in own.items() if kind not in self.absent), *([self.named] if self.named else []))


@dataclass(frozen=True, kw_only=True)
class Job:
    """The fields of every job: the keys of its artifacts, and the jobs whose artifacts it reads."""

    title: str
    makes: tuple[Key, ...]
    after: tuple[str, ...] = ()
    """Ids of the jobs it waits for."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Ids of the jobs it cannot do without: it fails if one of them has failed."""
        return self.after

    @property
    def detectors(self) -> tuple[str, ...]:
        """Detectors, with settings, whose code it runs; not those that only reduce maps in a pass."""
        return ()

    @property
    def id(self) -> str:
        """The digest of its first artifact's key."""
        return self.makes[0].digest

    kind: ClassVar[str] = ""
    """train, import, extract, reduce, tune, fit or score."""

    @property
    def size(self) -> int:
        """Number of images it processes, for progress."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    """Train one recipe's networks."""

    kind = "train"

    checkpoint: Checkpoint
    train: SetRef
    outliers: SetRef | None
    given: Checkpoint | None
    """The checkpoint of the recipe that this one builds on."""
    schedule: Schedule
    seed: int
    precision: str = "float32"
    start: Checkpoint | None = None
    """The checkpoint whose weights the classifier starts from."""
    keeps_head: bool = False
    """Whether the classifier starts with the head of `start`, too."""

    @property
    def size(self) -> int:
        """Training images times epochs."""
        return self.schedule.epochs * self.train.images


@dataclass(frozen=True, kw_only=True)
class HeadJob(Job):
    """Fit a new head to a checkpoint's features of the training images."""

    kind = "train"

    checkpoint: Checkpoint
    start: Checkpoint
    train: Outputs
    """Features of the training images under `start`."""
    outliers: Outputs | None
    seed: int

    @property
    def size(self) -> int:
        """Training images."""
        return self.train.data.images


class Head(NamedTuple):
    """What becomes of a given head for one ID set."""

    outputs: int
    """Number of outputs in the file."""
    rows: tuple[int, ...] = ()
    """The output of each of the set's classes, where they are not simply all outputs in their order."""
    keeps_all: bool = False
    """Whether the network keeps all outputs, and labels are numbers of outputs."""
    note: str = ""

    @property
    def classes(self) -> int:
        """Number of outputs of the network that is evaluated."""
        return len(self.rows) if self.rows and not self.keeps_all else self.outputs

    @property
    def taken(self) -> tuple[int, ...]:
        """The rows that the network gets of the head in the file; () for all."""
        return () if self.keeps_all else self.rows

    @property
    def label_outputs(self) -> tuple[int, ...]:
        """The output of each label; () for the label itself."""
        return self.rows if self.keeps_all else ()

    def key(self) -> dict[str, object]:
        """What keys contain of it; nothing where all outputs are the classes in their order."""
        return {"head": [self.outputs, list(self.rows), self.keeps_all]} if self.rows else {}


@dataclass(frozen=True, kw_only=True)
class ImportJob(Job):
    """Import a classifier's weights from a user's file."""

    kind = "import"

    checkpoint: Checkpoint
    file: str
    sha256: str
    without_head: bool = False
    """Whether the file's head, if it has one, is left out: the head is then 0, and only features are of use."""
    head: Head | None = None
    """What becomes of the file's head, if it is not the ID set's classes in their order."""
    names: tuple[str, ...] = ()
    """Class names, as words, that the head is made of, as the file has none; empty otherwise."""

    @property
    def size(self) -> int:
        """One file."""
        return 1


@dataclass(frozen=True, kw_only=True)
class ReduceMapsJob(Job):
    """Reduce a set's feature maps for one detector; computed in the set's pass (`ExtractJob.reductions`)."""

    kind = "reduce"

    detector: str
    checkpoint: Checkpoint
    data: SetRef
    pass_id: str
    """Id of the `ExtractJob` whose pass computes it."""
    learns: bool
    """True for `Detector.observe`, False for `Detector.reduce`."""
    observed: Key | None = None

    @property
    def size(self) -> int:
        """0, because the images are counted by the pass."""
        return 0


@dataclass(frozen=True, kw_only=True)
class ExtractJob(Job):
    """Push one set through one classifier."""

    kind = "extract"

    checkpoint: Checkpoint
    outputs: Outputs
    reductions: tuple[ReduceMapsJob, ...] = ()
    """Map reductions to compute in the same pass."""
    stored: bool = False
    """True if logits and features are in the store and only `reductions` are missing."""
    block: int = BLOCK
    """Images per forward call."""
    rows: tuple[int, int] | None = None
    """Start and end (exclusive) of the images, if this is a part of a divided pass; None for all images."""
    features_stored: bool = False
    """Whether the features are those of another checkpoint, computed before: logits are then the head's of these."""
    parts: tuple[ExtractJob, ...] = ()
    """The parts to concatenate, if the pass is divided among workers (engines/tasks.py)."""

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.outputs.data.images


@dataclass(frozen=True, kw_only=True)
class FitJob(Job):
    """Fit one detector on one checkpoint's ID outputs, or on its classifier alone: then there are no outputs."""

    kind = "fit"

    detector: str
    checkpoint: Checkpoint
    train: Outputs | None = None
    validation: Outputs | None = None
    outliers: Outputs | None = None
    seed: int
    passes: int = 0
    """Images pushed through the network by `fit` itself."""
    tried_for: str = ""
    """The detector for which its settings are tried, if nothing else needs the job."""

    @property
    def size(self) -> int:
        """Training images."""
        return self.train.data.images if self.train else 0

    @property
    def detectors(self) -> tuple[str, ...]:
        """The one that is fitted."""
        return (self.detector,)


@dataclass(frozen=True, kw_only=True)
class ScoreJob(Job):
    """Score one set with one detector."""

    kind = "score"

    detector: str
    checkpoint: Checkpoint
    outputs: Outputs
    fitted: Key | None = None
    tuned: Key | None = None
    """Key of the chosen settings, which replace those of `detector`."""
    fitted_if: Mapping[str, Key] = field(default_factory=dict)
    """What each candidate has learned, by detector with settings; empty without tuning."""
    seed: int = 0
    passes: int = 0
    """Images pushed through the network by `score` itself."""
    passes_if: tuple[int, ...] = ()
    """`passes` of every candidate, in the order of the `TuneJob`; empty without tuning."""
    bank: Outputs | None = None
    """Outputs of the training split, for a detector that compares images with it."""
    others: tuple[ScoreJob, ...] = ()
    """Jobs of other detectors on the same set that can share its similarity products."""
    tried_for: str = ""
    """The detector for which its settings are tried, if nothing else needs the job."""

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.outputs.data.images

    @property
    def requires(self) -> tuple[str, ...]:
        """All but the fits of settings that may be chosen: some do not fit every network, and are not chosen."""
        return tuple(id_ for id_ in self.after if id_ not in {key.digest for key in self.fitted_if.values()})

    @property
    def detectors(self) -> tuple[str, ...]:
        """The one that scores."""
        return (self.detector,)

    def state_of(self, detector: str) -> Key | None:
        """What the detector with its settings, chosen ones included, has learned; None if it has nothing to learn."""
        return self.fitted_if.get(detector) or self.fitted or self.outputs.observed.get(detector)


def waits_for(job: Job) -> set[str]:
    """Ids of the jobs whose artifacts a job reads, including those that a pass needs for its map reductions."""
    reductions = job.reductions if isinstance(job, ExtractJob) else ()
    return {*job.after, *(id_ for reduction in reductions for id_ in reduction.after)} - {job.id}


def runs_network(job: Job) -> bool:
    """Whether a job trains a network, pushes images through one, or passes one to a detector."""
    if job.detectors:
        return any("network" in create("detector", parse_spec(spec)).needs for spec in job.detectors)
    if isinstance(job, ExtractJob):
        return bool(job.reductions) if job.features_stored else not job.parts
    return isinstance(job, TrainJob) or (isinstance(job, ImportJob) and bool(job.names))
