"""A plan as data: the request, the jobs in dependency order, and the cells whose numbers come from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from oodbench.benchmark.plan.id_sets.parts import IDParts
from oodbench.benchmark.plan.jobs import Checkpoint, Job, Outputs, SetRef
from oodbench.benchmark.plan.precision import FLOAT32
from oodbench.benchmark.plan.suite import Suite
from oodbench.benchmark.plan.threads import DEFAULT_THREADS
from oodbench.benchmark.plan.tuning.jobs import only_tries
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.records.given_sets import PREFIX, with_plain_names
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.store.store import Key

ALL = "all"

J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Request:
    """What the user asks for, before names are resolved."""

    suite: str = ""
    detectors: tuple[str, ...] = (ALL,)
    id_sets: tuple[str, ...] = (ALL,)
    ood_sets: tuple[str, ...] = (ALL,)
    near: tuple[str, ...] = ()
    """Further OOD sets, near in this run whatever the suite says."""
    far: tuple[str, ...] = ()
    """Further OOD sets, far in this run."""
    backbone: str = ""
    seeds: tuple[int, ...] = (0,)
    metrics: tuple[str, ...] = ()
    """What to compute besides the exact metrics: names of `released_scripts.RULES`, and `names.EXTENDED`."""
    protocol: str = ""
    """How settings are chosen, one of `tuning_protocols.PROTOCOLS`; the suite's if empty."""
    precision: str = ""
    """Precision of training, one of `precision.PRECISIONS`; the suite's if empty."""
    limit_train: int = 0
    """Train on at most this many images of each ID set; 0 for all."""
    limit_test: int = 0
    """Score at most this many test images of each set, ID and OOD; 0 for all."""
    epochs: int = 0
    """Train for this many epochs; 0 for the suite's number."""
    checkpoint: tuple[str, ...] = ()
    """A user's files of weights: one for all seeds, or one for each. They are evaluated instead of training, or recipes
    that start from given weights start from them."""
    recipe: str = ""
    """The recipe, with settings, of detectors that name none and have none of their own; the suite's if empty."""
    head: str = ""
    """What becomes of a given head with more outputs than the ID set has classes: "subset" or "all"; the suite's if
    empty."""
    classes: str = ""
    """A file with the names of the ID set's classes, one in each line; the suite's, or those on its card, if empty."""
    resize: str = ""
    """Size to which pictures are resized: 256 for the shorter side, 224x224 for both; the suite's or network's if
    empty."""
    crop: str = ""
    """Size of the centre of a picture that networks get, 224 or 224x192; the suite's or network's if empty."""
    interpolation: str = ""
    """One of `pictures.INTERPOLATIONS`; the suite's or network's if empty."""
    mean: str = ""
    """Mean of red, green and blue in [0, 1] that networks subtract, with commas; the backbone's if empty."""
    std: str = ""
    """Standard deviation that they divide by, likewise."""
    exif: bool = False
    """Whether the rotation that EXIF data state is applied to pictures."""
    block: int = 0
    """Images per forward call; by the size of the images if 0."""
    stability: bool = True
    """Whether to score slightly changed ID test images as well, unless the suite does without."""
    threads: int = 0
    """CPU threads of a job; 0 for the suite's number."""
    fit_from: str = ""
    """What detectors learn from: "train", or the share of the test split to hold out; the suite's if empty."""
    store_features: str = ""
    """What features are stored as, one of `precision.STORED_AS`; the suite's if empty."""
    fit_per_class: int = 0
    """Fit detectors on at most this many images of each class; 0 for the suite's number."""
    pollution: float | None = None
    """Share of the training images of an ID set of one class that are of other classes; None for the suite's."""
    outputs: tuple[str, ...] = ()
    """Folders of logits and features of a network, one for each seed, in place of networks and images."""
    scores: str = ""
    """A folder or CSV file of scores by methods of the user's."""
    higher: str = ""
    """What higher scores of these mean, 'ood' or 'id'; what the files say if empty."""

    @property
    def shortened(self) -> str:
        """How training is cut short of the suite's protocol, for a note in the tables; empty if it is not."""
        images = f"at most {self.limit_train:,} images of each ID set" if self.limit_train else "all images"
        epochs = f", {self.epochs} epoch{'s' * (self.epochs != 1)}" if self.epochs else ""
        return f"{images}{epochs}" if self.limit_train or self.epochs else ""


class Absence(NamedTuple):
    """Something that 'all' includes and that is unavailable, with the reason."""

    what: str
    reason: str


@dataclass(frozen=True)
class Pair:
    """An ID set against an OOD set."""

    id: SetRef
    ood: SetRef
    group: str
    outlier_source: bool
    channels: int
    """Channels of the images that the ID set's networks take; others are converted (`data.channels`)."""


class Row(NamedTuple):
    """A detector with its recipe resolved for one ID set."""

    label: str
    detector: Detector
    recipe: Recipe


@dataclass(frozen=True)
class ExtendedInputs:
    """Inputs of a cell's extended metrics, besides its scores."""

    validation: Key | None
    """Scores of the ID validation images; None if the set has none."""
    shifted: tuple[tuple[Key, Outputs], ...] = ()
    """Scores and outputs of shifted forms of the ID test set, which count as ID."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """Keys of all these scores."""
        return (*([self.validation] if self.validation else []), *(key for key, _ in self.shifted))


class TunedOnOne(NamedTuple):
    """A cell's scores with the settings chosen on one source alone."""

    source: str
    """The images, as records show them."""
    scores: tuple[Key, Key]
    """Of the ID and the OOD images."""


@dataclass(frozen=True)
class Cell:
    """A cell of the table to compute: a record without results, and the keys of the artifacts that give them."""

    record: Record
    pair: Pair | None = None
    """The images that are scored."""
    id_scores: Key | None = None
    ood_scores: Key | None = None
    id_outputs: Outputs | None = None
    checkpoint: Checkpoint | None = None
    tuned: Key | None = None
    """The key of the settings chosen for its detector, if any were."""
    forwarded_if: Mapping[str, int] = field(default_factory=dict)
    """`forward_images` per candidate of tuning; empty without tuning."""
    rules: tuple[str, ...] = ()
    """Metric rules to compute besides the exact ones."""
    extended_inputs: ExtendedInputs | None = None
    """None if the extended metrics are not requested."""
    tuned_on_each: tuple[TunedOnOne, ...] = ()
    """Scores with the settings that each of the sources alone would have chosen, for the tuning spread; empty with one
    source. The cell does not fail where these do."""
    changed_scores: Key | None = None
    """Scores of slightly changed ID test images; None without stability. The cell does not fail where these do."""

    @property
    def scores(self) -> tuple[Key, ...]:
        """Keys of all scores that the cell cannot be without; empty for a skipped cell."""
        extended: tuple[Key, ...] = ()
        if self.extended_inputs:
            extended = self.extended_inputs.keys
        return tuple(key for key in (self.id_scores, self.ood_scores, *extended) if key is not None)

    @property
    def reads(self) -> tuple[Key, ...]:
        """Keys of all artifacts that its record is computed from."""
        logits = (self.id_outputs.logits,) if self.id_outputs else ()
        shifted = tuple(outputs.logits for _, outputs in self.extended_inputs.shifted) if self.extended_inputs else ()
        more = tuple(key for key in (self.tuned, self.changed_scores) if key)
        more += tuple(key for one in self.tuned_on_each for key in one.scores)
        return (*self.scores, *logits, *shifted, *more)

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Ids of the jobs that compute what its record is made from."""
        more = (key.digest for one in self.tuned_on_each for key in one.scores)
        return (*self.cannot_lack, *((self.changed_scores.digest,) if self.changed_scores else ()), *more)

    @property
    def cannot_lack(self) -> tuple[str, ...]:
        """Ids of the jobs that compute its scores and logits: if one fails, so does the cell."""
        shifted = [outputs for _, outputs in self.extended_inputs.shifted] if self.extended_inputs else []
        outputs = [*([self.id_outputs] if self.id_outputs else []), *shifted]
        return (*(key.digest for key in self.scores), *(output.logits.digest for output in outputs))


@dataclass
class Plan:
    """Jobs in dependency order, and the cells whose numbers come from them."""

    suite: Suite
    precision: str = FLOAT32
    """Precision that networks train in."""
    threads: int = DEFAULT_THREADS
    """CPU threads that every job computes on."""
    block: int = 0
    """Images per forward call; by the size of the images if 0."""
    store_features: str = FLOAT32
    """What features are stored as, one of `precision.STORED_AS`."""
    preprocessing: str = ""
    """How pictures become the networks' input; empty for sets of one size, as they are, and pictures at 32 x 32."""
    jobs: dict[str, Job] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    id_parts: dict[str, IDParts] = field(default_factory=dict)
    """Which parts of each ID set the run uses, by the set's name."""
    skipped: list[Absence] = field(default_factory=list)
    unavailable: list[Absence] = field(default_factory=list)
    arrays_of_seeds: dict[str, list[str]] = field(default_factory=dict)
    """SHA-256 of the arrays that the user gives for several seeds, by what takes the place of the recipe."""
    _position: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def add(self, job: J) -> J:
        """Add a job, unless one with its key is in the plan already; returns the one in the plan.

        One that only tries settings makes room for one that a cell needs.
        """
        if PREFIX in job.title:
            job = replace(job, title=with_plain_names(job.title))
        planned = self.jobs.get(job.id)
        if planned is None or (only_tries(planned) and not only_tries(job)):
            planned = self.jobs[job.id] = job
        assert isinstance(planned, type(job))
        return planned

    def jobs_for(self, cells: Iterable[Cell]) -> list[Job]:
        """The jobs that these cells need, directly or indirectly, in plan order."""
        wanted: set[str] = set()
        todo = [id_ for cell in cells for id_ in cell.waits_for]
        while todo:
            job = todo.pop()
            if job not in wanted:
                wanted.add(job)
                todo.extend(self.jobs[job].after)
        return [self.jobs[id_] for id_ in sorted(wanted, key=self._positions().__getitem__)]

    def _positions(self) -> dict[str, int]:
        """Position of each job by id; cached, since every cell looks up its few jobs among all."""
        if len(self._position) < len(self.jobs):
            self._position = {id_: position for position, id_ in enumerate(self.jobs)}
        return self._position
