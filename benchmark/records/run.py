"""Reads and writes a run's folder: `run.json` and the records of its cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.record import SCHEMA, Record, read_record, read_versioned
from oodbench.benchmark.records.rows import tell_apart
from oodbench.benchmark.store.atomic import to_json, write_atomically
from oodbench.benchmark.store.schema import RunInfo, convert


@dataclass(frozen=True)
class StoredRun:
    """A finished or interrupted run as read from its folder."""

    path: Path
    info: dict[str, Any]
    """`run.json`: options as given and as resolved, versions, device, suite, notes, pairs."""
    records: list[Record]
    """The cells that the run shows, in plan order. Labels and names of sets tell apart what was not made alike: cells
    with equal ones differ in the seed alone (`records.rows`).
    """


def write_run_info(run_dir: Path, info: Mapping[str, Any]) -> None:
    """Write `run.json`. `info["cells"]` lists the record files the run shows, in order."""
    write_atomically(run_dir / "run.json", to_json({"schema": SCHEMA, **info}))


def read_stored_run(run_dir: Path) -> StoredRun:
    """Read a run folder for display: its `run.json` and those of the listed records that exist already.

    Raises `UserError` if `run.json` is missing, or if it or a record is invalid.
    """
    info, records = read_as_written(run_dir)
    labelled, pairs = tell_apart(list(records.values()), info.get("pairs", ()))
    return StoredRun(run_dir, {**info, "pairs": pairs} if "pairs" in info else info, labelled)


def read_as_written(run_dir: Path) -> tuple[dict[str, Any], dict[str, Record]]:
    """`run.json` and the listed records by file name, with their own labels and names of sets, to change the files.

    Raises as `read_stored_run`.
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
    return info, {path.name: read_record(path) for path in paths if path.is_file()}
