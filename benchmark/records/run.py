"""Reads and writes a run's folder: `run.json` and the records of its cells."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.record import SCHEMA, Record, read_record, read_versioned
from oodbench.benchmark.records.rows import tell_apart
from oodbench.benchmark.records.unfinished import listed_cells, missing_cells, unfinished_sentences
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
    missing: Mapping[str, int] = field(default_factory=dict)
    """The command that continues the run -> how many of its cells have no record yet; empty if the run is complete."""
    parts: tuple[StoredRun, ...] = ()
    """The runs, if these are several side by side (`records.beside`), each with a name of its own."""

    @property
    def name(self) -> str:
        """The run's name as it was given."""
        return str(self.info.get("name") or self.path.name)

    @property
    def typed(self) -> str:
        """What stands for RUN in a command: the run's name or folder, or those of several side by side."""
        if self.parts:
            return " ".join(part.typed for part in self.parts)
        return shlex.quote(self.path.name if self.path.parent.name == "runs" else str(self.path))

    @property
    def unfinished(self) -> list[str]:
        """Sentences on missing cells and the commands that compute them; none if the run is complete."""
        if self.parts:
            return [sentence for part in self.parts for sentence in part._unfinished(part.name)]
        return self._unfinished("")

    def _unfinished(self, name: str) -> list[str]:
        return unfinished_sentences(self.missing, len(self.records) + sum(self.missing.values()), name)


def write_run_info(run_dir: Path, info: Mapping[str, Any]) -> None:
    """Write `run.json`. `info["cells"]` lists the record files the run shows, in order."""
    write_atomically(run_dir / "run.json", to_json({"schema": SCHEMA, **info}))


def read_stored_run(run_dir: Path) -> StoredRun:
    """Read a run folder for display: its `run.json` and those of the listed records that exist already.

    Raises `UserError` if `run.json` is missing, or if it or a record is invalid.
    """
    info, records = read_as_written(run_dir)
    labelled, pairs = tell_apart(list(records.values()), info.get("pairs", ()))
    shown = {**info, "pairs": pairs} if "pairs" in info else info
    return StoredRun(run_dir, shown, labelled, missing_cells(info, records))


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
    paths = [run_dir / "cells" / name for name in listed_cells(info)]
    return info, {path.name: read_record(path) for path in paths if path.is_file()}
