"""Suites: an ID x OOD matrix and its protocol. `suite_file.py` reads them from TOML files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from oodbench.benchmark.data.fit_images import ALL_TRAINING, FitImages
from oodbench.benchmark.plan.precision import AUTO, FLOAT32
from oodbench.benchmark.plan.threads import DEFAULT_THREADS
from oodbench.benchmark.plugins.specs import SetSpec, parse_set

SHARES = "a share of one GPU, such as 0.25, or a whole number of them"


def is_share(gpus: float) -> bool:
    """Whether a job can get this many GPUs: none, a fraction of one, or a whole number."""
    return 0 <= gpus <= 1 or (gpus > 1 and float(gpus).is_integer())


SUBSET, ALL_OUTPUTS = "subset", "all"
HEADS = (SUBSET, ALL_OUTPUTS)
"""A given head gets the rows of the ID set's classes, or keeps all of its outputs."""


class Schedule(NamedTuple):
    """How long a recipe trains, and how its learning rates decay."""

    epochs: int = 10
    batch_size: int = 64
    milestones: tuple[float, ...] = ()
    """Fractions of the epochs after which every learning rate is multiplied by `decay`."""
    decay: float = 0.1


class OODEntry(NamedTuple):
    """One OOD set of an ID set; `group` is 'near', 'far', or '' if the suite does not say."""

    set: SetSpec
    group: str = ""


@dataclass(frozen=True)
class IDEntry:
    """One ID set with its OOD sets and the outliers that recipes may train on."""

    set: SetSpec
    ood: tuple[OODEntry, ...]
    outliers: SetSpec | None = None
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Recipe settings for this ID set, which override the suite's."""
    tuning: SetSpec | None = None
    """The OOD set on whose training split settings are chosen under the protocol `val_ood`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Schedule of every recipe on this ID set, which overrides the suite's."""
    shifted: tuple[SetSpec, ...] = ()
    """Forms of the ID set, and other sets of its classes, that still count as ID, for the full-spectrum metrics."""
    replaces: SetSpec | None = None
    """The ID set in whose place 'all' takes this one, where this one's images are available."""
    notes: tuple[str, ...] = ()
    """Notes under the tables of runs on this ID set."""
    fit: FitImages = ALL_TRAINING
    """Which of its images detectors learn from."""
    classes: str = ""
    """The path of a file with the names of its classes, one in each line; empty for those on its card."""


@dataclass(frozen=True)
class Suite:
    """A named matrix and its protocol."""

    name: str
    title: str
    backbone: str
    recipe: str
    """The recipe of detectors that name none."""
    entries: tuple[IDEntry, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    default: bool = False
    protocol: str = "defaults"
    """How settings are chosen, one of `PROTOCOLS`."""
    precision: str = AUTO
    """Precision of training, one of `precision.PRECISIONS`."""
    stability: bool = True
    """Whether slightly changed ID test images are scored as well, to see whether a detector notices them."""
    head: str = SUBSET
    """What becomes of a given head with more outputs than an ID set has classes, one of `HEADS`."""
    resize: str = ""
    """Size to which pictures are resized before networks get them: 256 for the shorter side, 224x224 for both; empty
    for what the backbone says."""
    crop: str = ""
    """Size of the centre of a picture that networks get, 224 or 224x192; empty for what the backbone says."""
    interpolation: str = ""
    """One of `pictures.INTERPOLATIONS`; empty for what the backbone says."""
    store_features: str = FLOAT32
    """What features are stored as, one of `precision.STORED_AS`."""
    block: int = 0
    """Images per forward call; by the size of the images if 0."""
    channels: int | None = None
    """Channels of the images that every network takes, 1 or 3; None for those of its ID set."""
    gpus: float = 1.0
    """GPUs of a job that runs a network, on engines that assign them: a fraction of one, or a number of them."""
    threads: int = DEFAULT_THREADS
    """CPU threads of a job, on every engine and every machine."""
    every_detector: bool = False
    """Whether 'all' includes the detectors that it leaves out elsewhere (`Detector.in_all`)."""
    pollution: float = 0.0
    """Share of the training images of every ID set, of one class, that are of its data set's other classes."""
    extends: str = ""
    """The suite whose tables this one takes over where it does not say otherwise."""

    def entry(self, id_set: SetSpec) -> IDEntry:
        """The matrix row of an ID set; one without OOD sets and outliers if the suite does not list the set."""
        return next((entry for entry in self.entries if entry.set == id_set), IDEntry(id_set, ()))

    def notes_on(self, id_sets: Iterable[str]) -> list[str]:
        """The suite's notes, if one of some ID sets is of a data set of its matrix, and its notes on these ID sets."""
        names = set(id_sets)
        own = self.has_any(names)
        of_sets = [note for entry in self.entries if str(entry.set) in names for note in entry.notes]
        return [*(self.notes if own else ()), *of_sets]

    def has_any(self, id_sets: Iterable[str]) -> bool:
        """Whether one of some ID sets is of a data set of the matrix; of others, only the protocol is the suite's."""
        return bool({parse_set(name).name for name in id_sets} & {entry.set.name for entry in self.entries})

    def recipe_settings(self, recipe: str, id_set: SetSpec) -> dict[str, Any]:
        """The settings that the suite gives a recipe on an ID set."""
        merged = {**self.recipes.get(recipe, {}), **self.entry(id_set).recipes.get(recipe, {})}
        merged.pop("training", None)
        return merged

    def schedule(self, recipe: str, id_set: SetSpec) -> Schedule:
        """The schedule of a recipe on an ID set."""
        entry = self.entry(id_set)
        values = {**self.training, **self.recipes.get(recipe, {}).get("training", {})}
        values.update({**entry.training, **entry.recipes.get(recipe, {}).get("training", {})})
        return Schedule(**values)
