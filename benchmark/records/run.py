"""Reads and writes a run's folder: `run.json` and the records of its cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.record import SCHEMA, Record, read_record, read_versioned
from oodbench.benchmark.store.atomic import to_json, write_atomically
from oodbench.benchmark.store.schema import RunInfo, convert


@dataclass(frozen=True)
class StoredRun:
    """A finished or interrupted run as read from its folder."""

    path: Path
    info: dict[str, Any]
    """`run.json`: options as given and as resolved, versions, device, suite, notes, pairs."""
    records: list[Record]
    """The cells that the run shows, in plan order; labels include the backbone if a run has several."""


def write_run_info(run_dir: Path, info: Mapping[str, Any]) -> None:
    """Write `run.json`. `info["cells"]` lists the record files the run shows, in order."""
    write_atomically(run_dir / "run.json", to_json({"schema": SCHEMA, **info}))


def read_stored_run(run_dir: Path) -> StoredRun:
    """Read a run folder: its `run.json` and those of the listed records that exist already.

    Raises `UserError` if `run.json` is missing, or if it or a record is invalid.
    """
    if not (run_dir / "run.json").is_file():
        raise UserError(f"'{run_dir}' is not a run: it has no run.json. 'bench list runs' shows the runs that exist.")
    info = read_versioned(run_dir / "run.json")
    try:
        convert(info, RunInfo)
    except ValueError as error:
        raise UserError(
            f"'{run_dir / 'run.json'}' does not describe a run: {error}. Remove it and run again."
        ) from error
    paths = [run_dir / "cells" / name for name in dict.fromkeys(Path(name).name for name in info.get("cells", []))]
    return StoredRun(run_dir, info, _with_backbone_labels([read_record(path) for path in paths if path.is_file()]))


def _with_backbone_labels(records: list[Record]) -> list[Record]:
    """Distinguish the same detector on several backbones, because views show equal labels as one row."""
    if len({record.backbone for record in records if record.backbone}) < 2:
        return records
    return [dataclasses.replace(r, label=f"{r.label} ({r.backbone})") if r.backbone else r for r in records]
