"""A run on disk: `run.json`, and one JSON file a cell. Raw numbers only; formatting belongs to the views.

    results/runs/NAME/run.json     what was asked, with what software, on what data; which cells the run shows
    results/runs/NAME/cells/*.json one `Record` each

No torch here: tables and plots are rebuilt from these files alone.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench.benchmark import disk
from oodbench.benchmark.errors import StoreError, UserError, unknown
from oodbench.benchmark.shapes import RunInfo
from oodbench.benchmark.untrusted import is_file, leads_out, misfit, read_json

SCHEMA = 1
"""Raised when a reader of older files would misread newer ones."""

METRICS = (
    "tnr_at_tpr95",
    "auroc",
    "detection_accuracy",
    "aupr_in",
    "aupr_out",
    "aupr_in_counts",
    "aupr_out_counts",
    "fpr_at_tpr95",
    "openood_fpr95",
)
"""Columns of `records.csv` that `oodbench.benchmark.metrics` computes, all in [0, 1]."""

METRICS_VERSION = "1"
"""Part of every cell's key; raise it when a metric's value changes."""

EXACT = "exact"
"""The metrics above; other metric rules (`audit.RULES`) are computed beside them where asked for."""

_AUDITED = ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")
AUDITED = (*_AUDITED, "top_bin_id", "top_bin_ood", *(f"float32_{name}" for name in _AUDITED))
"""What other metric rules give: their values, shares in the grid's last bin, and exact metrics of float32 values."""

FULL_SPECTRUM = _AUDITED
EXTENDED_METRICS = (
    "ece",
    "nll",
    "aurc",
    "auroc_errors",
    "oscr",
    "tpr_validation",
    "tnr_validation",
    "tnr_at_tpr99",
    "precision_1pct",
    "precision_10pct",
    "shifted_accuracy",
    *(f"fs_{name}" for name in FULL_SPECTRUM),
)
"""What `extended.extended` gives, as far as a cell has it."""

TIES = ("distinct_id", "distinct_ood", "at_threshold_id", "at_threshold_ood")
"""How many different scores a cell's ID and OOD images have, and how many of them have exactly the threshold's."""

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
    n_id: int | None = None
    n_ood: int | None = None
    id_accuracy: float | None = None
    tpr: float | None = None
    """The share of ID images actually accepted at the threshold for 95%."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    ties: Mapping[str, int] = field(default_factory=dict)
    """The counts named in `TIES`; empty in records of older versions, which did not keep them."""
    sanity: bool = False
    """Whether the detector is a sanity row, not expected to find anything (`Detector.oriented`)."""
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Name of a metric -> its 95% confidence interval, [low, high], over draws of test images (`intervals`); empty in
    records of older versions."""
    audit: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Name of other metric rules -> their values (`AUDITED`); empty where not asked for or not applicable."""
    extended: Mapping[str, float] = field(default_factory=dict)
    """Values of `EXTENDED_METRICS`, as far as the cell has them; empty where not asked for."""
    forward_images: int = 0
    seconds: float = 0.0
    key: str = ""
    tuned: Mapping[str, Any] = field(default_factory=dict)
    """The settings that were chosen (`settings`), on which images (`on`), with what mean AUROC there (`auroc`), and
    whether those were of the OOD set's own source (`own_source`); empty where nothing was chosen."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Paths of what the cell was computed from, relative to the cache: id_scores, ood_scores, checkpoint."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """From what the cell was made, as `provenance.of_cell` says; older versions do not tell."""
    peak_memory: int | None = None
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


def slug(text: str) -> str:
    """`text` with everything but letters, digits, '.', '-' and '_' turned into single '_', for file names.

    No leading dot: neither a hidden file nor a folder above.
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in ".-_") else " " for c in text)
    return "_".join(kept.split()).lstrip(".")[:100] or "_"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the new one, whenever the power goes."""
    # A reason may quote a file name that is no valid text; in JSON the escape reads back as what it was.
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        disk.write(path, data)
    except OSError as error:
        raise StoreError(
            f"Cannot write '{path}': {error.strerror or error}. Choose a writable folder with --results."
        ) from error


def to_json(value: object) -> str:
    """JSON as the harness writes it: sorted keys, two spaces, a final newline, no NaN."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def write_record(run_dir: Path, record: Record) -> Path:
    """Write one cell's record and return its path."""
    path = run_dir / "cells" / record.file_name
    write_atomically(path, to_json({"schema": SCHEMA, **dataclasses.asdict(record)}))
    return path


def read_record(path: Path) -> Record:
    """Read one cell's record; refuse what a newer oodbench wrote or what is no record."""
    data = _read_json(path)
    data.pop("schema")
    if wrong := misfit(data, Record, "the record"):
        raise UserError(f"'{path}' is no cell record: {wrong}. Remove it and run again.")
    if away := next(filter(leads_out, data.get("artifacts", {}).values()), None):
        raise UserError(f"'{path}' names '{away}', which lies outside the cache. Remove it and run again.")
    known = {f.name for f in dataclasses.fields(Record)}
    try:
        return Record(**{**{k: v for k, v in data.items() if k in known}, "notes": tuple(data.get("notes", ()))})
    except TypeError as error:
        raise UserError(f"'{path}' is no cell record: {error}. Remove it and run again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as JSON ({error}). Remove it and run again.") from error
    if not isinstance(data, dict) or misfit(data.get("schema"), int):
        raise UserError(f"'{path}' has no schema number, so it was not written by oodbench. Remove it and run again.")
    if data["schema"] > SCHEMA:
        raise UserError(
            f"'{path}' has schema {data['schema']}, newer than {SCHEMA}, the newest this oodbench reads. "
            "Upgrade oodbench, or choose another --name."
        )
    return data


@dataclass(frozen=True)
class Run:
    """A finished or interrupted run as read from its folder."""

    path: Path
    info: dict[str, Any]
    """`run.json`: arguments as given and as resolved, versions, device, suite, notes, pairs."""
    records: list[Record]
    """The cells that the run shows, in plan order; labels tell the backbone where a run has several."""


def write_run_info(run_dir: Path, info: Mapping[str, Any]) -> None:
    """Write `run.json`. `info["cells"]` lists the record files the run shows, in order."""
    write_atomically(run_dir / "run.json", to_json({"schema": SCHEMA, **info}))


def read_run(run_dir: Path) -> Run:
    """Read a run folder: its `run.json` and the records that it lists and that exist by now."""
    if not (run_dir / "run.json").is_file():
        raise UserError(f"'{run_dir}' is no run: it has no run.json. 'bench list runs' shows the runs that exist.")
    info = _read_json(run_dir / "run.json")
    if wrong := misfit(info, RunInfo, "the run"):
        raise UserError(f"'{run_dir / 'run.json'}' does not describe a run: {wrong}. Remove it and run again.")
    paths = [run_dir / "cells" / name for name in dict.fromkeys(Path(name).name for name in info.get("cells", []))]
    return Run(run_dir, info, _told_apart([read_record(path) for path in paths if path.is_file()]))


def _told_apart(records: list[Record]) -> list[Record]:
    """Views take equal labels for one row, which a detector on two backbones is not."""
    if len({record.backbone for record in records if record.backbone}) < 2:
        return records
    return [dataclasses.replace(r, label=f"{r.label} ({r.backbone})") if r.backbone else r for r in records]


QUICK_LOOK = "quick look, not the suite's protocol"
"""How the note begins in records of a run that --limit-train or --epochs has shortened."""


def run_dir(results: Path, name: str) -> Path:
    """The folder of a run, given by name or as a folder."""
    given = Path(name)
    if is_file(given / "run.json"):
        return given
    path = results / "runs" / slug(name)
    if not path.is_dir():
        known = sorted(p.parent.name for p in (results / "runs").glob("*/run.json"))
        raise unknown("run", name, known, "bench list runs")
    return path


def cache_of(run_dir: Path, results: Path) -> Path:
    """The store that a run's artifacts lie in: its own, or beside the folder of runs, or else that of `results`."""
    if (run_dir / "cache").is_dir():
        return run_dir / "cache"
    return run_dir.parent.parent / "cache" if run_dir.parent.name == "runs" else results / "cache"


ENDS = ("low", "high")
"""The ends of an interval, as columns name them."""

CSV_COLUMNS = (
    "id_set", "ood_set", "group", "seen", "detector", "settings", "recipe", "backbone", "seed", "status", "reason",
    "n_id", "n_ood", "id_accuracy", *METRICS, "forward_images", "seconds", "key", "notes",
    *(f"{metric}_{end}" for metric in METRICS for end in ENDS),
)  # fmt: skip


def records_csv(records: Iterable[Record]) -> str:
    """The tidy table, one row a cell and seed: raw floats, `settings` as JSON, empty where not available.

    Values by other metric rules, where a record has them, are columns after all others: `RULES_NAME`, and then those
    of the extended metrics: `extended_NAME`.
    """
    records = list(records)
    rules = sorted({name for record in records for name in record.audit})
    more = EXTENDED_METRICS if any(record.extended for record in records) else ()
    columns = (
        *CSV_COLUMNS,
        *(f"{name}_{metric}" for name in rules for metric in AUDITED),
        *(f"extended_{name}" for name in more),
    )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        audit = {f"{name}_{metric}": value for name, own in record.audit.items() for metric, value in own.items()}
        ends = {
            f"{m}_{end}": value for m, own in record.intervals.items() for end, value in zip(ENDS, own, strict=True)
        }
        extended = {f"extended_{name}": value for name, value in record.extended.items()}
        row = {**dataclasses.asdict(record), **record.metrics, **ends, **audit, **extended}
        row["settings"] = json.dumps(record.settings, sort_keys=True)
        row["seen"] = str(record.seen).lower()
        row["notes"] = "; ".join(record.notes)
        row["seconds"] = f"{record.seconds:.3f}"
        writer.writerow(["" if row.get(column) is None else row[column] for column in columns])
    return out.getvalue()
