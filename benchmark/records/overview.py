"""What a list of runs says of each: suite, sets, detectors, cells, date, size and state. Fast for hundreds of runs.

The statuses of cells are read from `records.csv`, and from the records where that is older than one of them.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.records.paths import cache_of
from oodbench.benchmark.records.record import FAILED, OK, SKIPPED, read_versioned
from oodbench.benchmark.records.running import running
from oodbench.benchmark.records.unfinished import listed_cells
from oodbench.benchmark.store.safe_read import MAX_JSON, read_bounded
from oodbench.benchmark.store.schema import RunInfo, convert
from oodbench.benchmark.store.sizes import bytes_in

COMPLETE, UNFINISHED, RUNNING, BROKEN = "complete", "unfinished", "running", "broken"
"""States of a run."""


@dataclass(frozen=True)
class RunOverview:
    """One run of a results folder."""

    folder: str
    """The name of its folder."""
    name: str
    """As it was given."""
    state: str
    """`COMPLETE`; `UNFINISHED`, if cells have no record; `RUNNING`, if a process works on it; `BROKEN`."""
    started: float
    """When its last command was started, in seconds since 1970; of a broken run, when its folder changed."""
    bytes: int
    """Size of its folder, without a store of its own."""
    suite: str = ""
    id_sets: tuple[str, ...] = ()
    detectors: int = 0
    """Number of detectors, counted by their settings and recipes."""
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    missing: int = 0
    problem: str = ""
    """Why it is broken, as a sentence."""


class _Status(msgspec.Struct):
    """The field of a record that is read."""

    status: str = OK


def overviews(results: Path) -> list[RunOverview]:
    """The runs of a results folder, the last one first; one that cannot be read is broken, and stops nothing."""
    runs = results / "runs"
    try:
        folders = sorted(entry.name for entry in os.scandir(runs) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    active = running(results / "cache")
    found = [_overview(runs / name, active, results) for name in folders]
    return sorted(found, key=lambda run: (-run.started, run.folder))


def _overview(folder: Path, active: set[str], results: Path) -> RunOverview:
    size = bytes_in(folder, without=("cache",))
    try:
        return _of_run(folder, active, results, size)
    except (OodbenchError, OSError, ValueError) as error:
        started = folder.stat().st_mtime if folder.exists() else 0.0
        return RunOverview(folder.name, folder.name, BROKEN, started, size, problem=str(error))


def _of_run(folder: Path, active: set[str], results: Path, size: int) -> RunOverview:
    path = folder / "run.json"
    if not path.is_file():
        raise UserError(f"'{folder}' has no run.json. If nothing is writing it now, remove the folder.")
    info = read_versioned(path)
    convert(info, RunInfo)
    listed = listed_cells(info)
    statuses = _statuses(folder, listed)
    missing = len(listed) - sum(statuses.values())
    own = cache_of(folder, results)
    is_running = folder.name in (active if own == results / "cache" else running(own))
    state = RUNNING if is_running else UNFINISHED if missing else COMPLETE
    pairs = [pair for pair in info.get("pairs", ()) if isinstance(pair, Mapping)]
    return RunOverview(
        folder.name,
        str(info.get("name") or folder.name),
        state,
        _written(info, path),
        size,
        str((info.get("suite") or {}).get("name", "")),
        tuple(dict.fromkeys(plain_name(str(pair["id_set"])) for pair in pairs)),
        len(info.get("detectors", ())),
        statuses[OK],
        statuses[FAILED],
        statuses[SKIPPED],
        missing,
    )


def _written(info: Mapping[str, Any], path: Path) -> float:
    """When a run was last started."""
    try:
        return datetime.fromisoformat(str(info["written"])).timestamp()
    except (KeyError, ValueError):
        return path.stat().st_mtime


def _statuses(folder: Path, listed: list[str]) -> Counter[str]:
    """Status -> the number of listed cells that have it. Raises `UserError` for a record that is not one."""
    cells = folder / "cells"
    changed: dict[str, float] = {}
    if cells.is_dir():
        with os.scandir(cells) as entries:
            changed = {entry.name: entry.stat().st_mtime for entry in entries}
    present = [name for name in listed if name in changed]
    table = folder / "records.csv"
    if present and table.is_file() and table.stat().st_mtime >= max(changed[name] for name in present):
        with table.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if "status" in header and len(rows) == len(present):
            return Counter(row[header.index("status")] for row in rows)
    return Counter(_status(cells / name) for name in present)


def _status(path: Path) -> str:
    try:
        return msgspec.json.decode(read_bounded(path, MAX_JSON), type=_Status).status
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise UserError(f"'{path}' cannot be read as a cell record ({error}). Remove it and run again.") from error
