"""Reads and writes the record of a cell: its outcome as raw numbers, which the views format.

    results/runs/NAME/run.json     the request, software and data of a run, and the list of its cells
    results/runs/NAME/cells/*.json one `Record` per cell

Tables and plots are built from these files alone, without torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.provenance import check_provenance
from oodbench.benchmark.store.atomic import slug, to_json, write_atomically
from oodbench.benchmark.store.safe_read import escapes_root, read_json
from oodbench.benchmark.store.schema import ByClass, Count, Ends, Number, Origin, convert, versioned

SCHEMA = 1
"""Version of the file format, increased when an older oodbench would misread newer files."""

OK, SKIPPED, FAILED = "ok", "skipped", "failed"

IMPORTED, PRETRAINED, OUTPUTS = "checkpoint", "pretrained", "outputs"
"""Take the place of a recipe's name where no classifier was trained here: its weights are those of a file or of the
backbone's settings, or only its logits and features are given."""

SCORES = "scores"
"""The same for scores that the user gives, of whatever method and network."""

NOT_TRAINED = (IMPORTED, PRETRAINED, OUTPUTS, SCORES)
"""All of them: there are no training seeds."""


@dataclass(frozen=True)
class Record:
    """The outcome of one cell: ID set x OOD set x detector with settings and recipe x seed.

    Fields with a default may be missing in records of older versions.
    """

    id_set: str
    ood_set: str
    group: str
    """'near', 'far' or ''; a property of the pair that the suite declares."""
    outlier_source: bool
    """Whether the OOD set has the distribution of the outliers that the suite provides for this ID set."""
    seen: bool
    """Whether, in addition, this cell's recipe trained on those outliers."""
    detector: str
    """The name, without settings or recipe."""
    settings: Mapping[str, Any]
    """Settings that differ from the detector's defaults."""
    recipe: str
    recipe_settings: Mapping[str, Any]
    """Settings that differ from the recipe's defaults."""
    backbone: str
    seed: int
    label: str
    """The detector as typed on the command line: `name[settings]@recipe`."""
    channels: Count | None = None
    """Channels of the images that its network takes; None in records of older versions, whose images had three."""
    preprocessing: str = ""
    """How pictures became the network's input (`plugins.pictures.Preprocessing`); empty for sets of one size, as they
    are, and for pictures at 32 x 32."""
    converted: Mapping[str, str] = field(default_factory=dict)
    """Set -> how its test images were converted for the network, for sets with other channels."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How the classifier was trained: `images`, `epochs`, `batch_size`, `precision`, `threads`."""
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    """The images that detectors learn from, where these are not all of the training split: of which `split`, its
    `share` or at most how many `per_class`, the share of other classes (`pollution`), and the numbers of fit `images`
    and `validation` images."""
    status: str = OK
    """`OK`, `SKIPPED` or `FAILED`."""
    reason: str = ""
    """Why the cell was skipped or failed."""
    n_id: Count | None = None
    """Number of ID test images that were scored."""
    n_ood: Count | None = None
    id_accuracy: Number | None = None
    tpr: Number | None = None
    """The true positive rate reached at the threshold for 95%: the fraction of ID images that are accepted."""
    metrics: Mapping[str, Number] = field(default_factory=dict)
    ties: Mapping[str, Count] = field(default_factory=dict)
    """The counts named in `TIES`."""
    sanity: bool = False
    """Whether the detector is a sanity baseline, not expected to detect anything (`Detector.is_sanity_baseline`)."""
    intervals: Mapping[str, Ends] = field(default_factory=dict)
    """Metric -> its 95% confidence interval [low, high] over draws of test images (`stats.intervals`)."""
    audit: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    """Metric rules -> metric -> value (`RULE_METRICS`); empty if not requested or not applicable."""
    extended: Mapping[str, Number] = field(default_factory=dict)
    """The applicable ones of `EXTENDED_METRICS`; empty if not requested."""
    by_class: ByClass = field(default_factory=ByClass)
    """AUROC by ID class, by OOD class, and by pairs of both, where labels are known; empty without extended metrics."""
    stability: Mapping[str, Number] = field(default_factory=dict)
    """AUROC of slightly changed ID test images against the same unchanged, by the names of `STABILITY`; the same in all
    cells of a row and seed. Empty if it was not requested or failed."""
    forward_images: Count = 0
    """Images to be passed through a network for this cell if the store were empty, without passes for earlier cells."""
    seconds: Number = 0.0
    """Time to score the ID set and the OOD set."""
    key: str = ""
    """SHA-256 of everything that the numbers depend on."""
    tuned: Mapping[str, Any] = field(default_factory=dict)
    """The chosen settings (`settings`), the images they were chosen on (`on`), the mean AUROC there (`auroc`), and
    whether those images are from the source of the OOD set (`own_source`); with several sources, the AUROC of the cell
    with the settings that each alone would have chosen (`by_source`) and how far these lie apart (`spread`). Empty if
    no settings were chosen."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Paths of the artifacts that the cell was computed from, relative to the cache: id_scores, ood_scores, checkpoint,
    and changed_scores if it has stability."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """The inputs of the cell; see `records.provenance`."""
    peak_memory: Count | None = None
    """Peak memory in bytes of the jobs behind the cell; None if it was not measured."""
    notes: tuple[str, ...] = ()
    """Remarks shown under tables."""
    origin: Origin = field(default_factory=Origin)
    """What made the cell, apart from its seed (`runner.origin`): cells of unlike origins are never in one mean."""

    @property
    def file_name(self) -> str:
        """A readable name for the record's file, with a hash of its full names and of what made the cell."""
        own = self.origin.get("names", {})
        names = [own.get(name, getattr(self, name)) for name in ("label", "id_set", "ood_set")]
        slugs = [slug(name)[:60] for name in names]
        made = [self.backbone, self.origin["file"]] if "file" in self.origin else []
        plain = slugs == names and not made and not any("--" in name for name in names)
        suffix = "" if plain else "-" + hashlib.sha256(json.dumps([*names, *made]).encode()).hexdigest()[:8]
        return f"{'--'.join(slugs)}--s{self.seed}{suffix}.json"


def write_record(run_dir: Path, record: Record) -> Path:
    """Write one cell's record and return its path."""
    path = run_dir / "cells" / record.file_name
    write_atomically(path, to_json({"schema": SCHEMA, **dataclasses.asdict(record)}))
    return path


def read_record(path: Path) -> Record:
    """Read one cell's record. Raises `UserError` if it is invalid or was written by a newer oodbench.

    A file that has not changed since it was read is not read again: a run asks for the same records when it compares
    the plan with them, when it writes `run.json` and when it draws. So do not change what a record holds.
    """
    try:
        found = path.stat()
    except OSError:
        return _read(path)  # which says why
    return _unchanged(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=4096)
def _unchanged(path: Path, stamp: tuple[int, int, int]) -> Record:
    """The record in a file with this inode, size and time of change."""
    return _read(path)


def _read(path: Path) -> Record:
    try:
        record = convert(read_versioned(path), Record)
        check_provenance(record.provenance)
    except ValueError as error:
        raise UserError(f"'{path}' is not a cell record: {error}. Remove it and run again.") from error
    if outside := next(filter(escapes_root, record.artifacts.values()), None):
        raise UserError(f"'{path}' names '{outside}', which is outside the cache. Remove it and run again.")
    return record


def read_versioned(path: Path) -> dict[str, Any]:
    """The object in a record's or run's JSON file. Raises `UserError` if it is unreadable or has a newer schema."""
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as JSON ({error}). Remove it and run again.") from error
    unstated = "has no schema number, so it was not written by oodbench. Remove it and run again."
    return versioned(data, SCHEMA, path, unstated=unstated, instead="choose another --name")


MISFIT = "the given weights do not fit the ID set's labels"
"""Beginning of the note in records of a run with `--checkpoint` whose classifier is wrong on many ID test images."""

NOT_GIVEN = "and --outputs has none, so it is skipped"
"""End of the reason why a detector is skipped because it reads what given outputs do not have."""

NO_CLASSIFIER = "trains no classifier"
"""End of the reason why a detector is skipped because it reads logits that its recipe's network does not have."""

QUICK_LOOK = "quick look, not the suite's protocol"
"""Beginning of the notes in records of a run that was shortened by --limit-train, --epochs or --limit-test."""

QUICK_TRAINING, QUICK_TEST = f"{QUICK_LOOK}: trained on", f"{QUICK_LOOK}: scored on"
"""Beginnings of these notes: on a shortened training, and on test images that were left out."""

OTHER_THREADS = "not the suite's number of threads"
"""Beginning of the note in records of a run with --threads, if the suite states another number."""

WARNING = "Warning: "
"""Beginning of a run's note that tables show first."""
