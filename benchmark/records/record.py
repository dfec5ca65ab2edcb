"""A run on disk: `run.json`, and one JSON file a cell. Raw numbers only; formatting belongs to the views.

    results/runs/NAME/run.json     what was asked, with what software, on what data; which cells the run shows
    results/runs/NAME/cells/*.json one `Record` each

No torch here: tables and plots are rebuilt from these files alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.store.atomic import slug, to_json, write_atomically
from oodbench.benchmark.store.safe_read import escapes_root, read_json
from oodbench.benchmark.store.schema import Count, Number, convert

SCHEMA = 1
"""Raised when a reader of older files would misread newer ones."""

OK, SKIPPED, FAILED = "ok", "skipped", "failed"


@dataclass(frozen=True)
class Record:
    """One cell's outcome: ID set x OOD set x detector with settings and recipe x seed."""

    id_set: str
    ood_set: str
    group: str
    """'near', 'far' or ''; a property of the pair, written in the suite."""
    outlier_source: bool
    """True where the OOD set has the distribution of the outliers that the suite supplies for this ID set."""
    seen: bool
    """True where, moreover, this cell's recipe trained on those outliers."""
    detector: str
    """The name, without settings or recipe."""
    settings: Mapping[str, Any]
    """What differs from the detector's defaults."""
    recipe: str
    recipe_settings: Mapping[str, Any]
    """What differs from the recipe's defaults."""
    backbone: str
    seed: int
    label: str
    """The detector as the user would type it: `name[settings]@recipe`."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How its classifier was trained: `images`, `epochs`, `batch_size`, `precision`; what older versions knew of it."""
    status: str = OK
    reason: str = ""
    n_id: Count | None = None
    n_ood: Count | None = None
    id_accuracy: Number | None = None
    tpr: Number | None = None
    """The share of ID images actually accepted at the threshold for 95%."""
    metrics: Mapping[str, Number] = field(default_factory=dict)
    ties: Mapping[str, Count] = field(default_factory=dict)
    """The counts named in `TIES`; empty in records of older versions, which did not keep them."""
    sanity: bool = False
    """Whether the detector is a sanity row, not expected to find anything (`Detector.is_sanity_baseline`)."""
    intervals: Mapping[str, Sequence[Number]] = field(default_factory=dict)
    """Name of a metric -> its 95% confidence interval, [low, high], over draws of test images (`intervals`); empty in
    records of older versions."""
    audit: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    """Name of other metric rules -> their values (`AUDITED`); empty where not asked for or not applicable."""
    extended: Mapping[str, Number] = field(default_factory=dict)
    """Values of `EXTENDED_METRICS`, as far as the cell has them; empty where not asked for."""
    forward_images: Count = 0
    seconds: Number = 0.0
    key: str = ""
    tuned: Mapping[str, Any] = field(default_factory=dict)
    """The settings that were chosen (`settings`), on which images (`on`), with what mean AUROC there (`auroc`), and
    whether those were of the OOD set's own source (`own_source`); empty where nothing was chosen."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Paths of what the cell was computed from, relative to the cache: id_scores, ood_scores, checkpoint."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """From what the cell was made, as `provenance.of_cell` says; older versions do not tell."""
    peak_memory: Count | None = None
    """The most memory that a job behind it took, in bytes; None where it was not measured."""
    notes: tuple[str, ...] = ()
    other_backbone: bool = False
    """Whether the backbone is not the suite's, so that the file's name tells it; older versions never say so."""

    @property
    def file_name(self) -> str:
        """A readable name for the record's file, with a hash where names alone would not be unique."""
        asked = [self.label, self.id_set, self.ood_set, *([self.backbone] if self.other_backbone else [])]
        shown = [slug(name)[:60] for name in asked]
        mark = "" if shown == asked else "-" + hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
        return f"{'--'.join(shown)}--s{self.seed}{mark}.json"


def write_record(run_dir: Path, record: Record) -> Path:
    """Write one cell's record and return its path."""
    path = run_dir / "cells" / record.file_name
    write_atomically(path, to_json({"schema": SCHEMA, **dataclasses.asdict(record)}))
    return path


def read_record(path: Path) -> Record:
    """Read one cell's record; refuse what a newer oodbench wrote or what is no record."""
    try:
        record = convert(read_versioned(path), Record)
    except ValueError as error:
        raise UserError(f"'{path}' is not a cell record: {error}. Remove it and run again.") from error
    if outside := next(filter(escapes_root, record.artifacts.values()), None):
        raise UserError(f"'{path}' names '{outside}', which is outside the cache. Remove it and run again.")
    return record


def read_versioned(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run. Raises `UserError` if it is unreadable or of a newer schema."""
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as JSON ({error}). Remove it and run again.") from error
    if not isinstance(data, dict) or type(data.get("schema")) is not int:
        raise UserError(f"'{path}' has no schema number, so it was not written by oodbench. Remove it and run again.")
    if data["schema"] > SCHEMA:
        raise UserError(
            f"'{path}' has schema {data['schema']}, newer than {SCHEMA}, the newest this oodbench reads. "
            "Upgrade oodbench, or choose another --name."
        )
    return data


QUICK_LOOK = "quick look, not the suite's protocol"
"""How the note begins in records of a run that --limit-train or --epochs has shortened."""
