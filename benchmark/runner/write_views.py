"""Writes the tables and plots of a run from its records, each alone: one that fails stops no other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from oodbench.benchmark.comparisons.best_set import update_best
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.records.best import NAME, read_best
from oodbench.benchmark.records.paths import MARKER
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.store.safe_read import escapes_root, read_json
from oodbench.benchmark.store.store import digest
from oodbench.benchmark.views.alone import make_alone


def write_views(run: StoredRun, cache: Path, images: ScoredImages) -> list[Path]:
    """Write a run's marks of the best, tables and plots, unless nothing they depend on has changed; returns the files.

    A view that raises is left out with a warning, and its files of an earlier command are removed, as they would show
    other numbers. An `OodbenchError`, such as for a full disk, is raised once the other views are written.
    """
    failures: list[OodbenchError] = []

    def made(what: str, make: Callable[[], list[Path]], again: str) -> list[Path] | None:
        try:
            return make_alone(what, make, run.path, again)
        except OodbenchError as error:
            failures.append(error)
            return None

    made("marks of the best", lambda: _marks(run, cache, images), f"bench compare {run.path}")
    inputs = _view_inputs(run)
    before = _last(run.path)
    if before.get("inputs") == inputs and all((run.path / name).is_file() for name in before["files"]):
        files = [run.path / name for name in before["files"]]
    else:
        tables = made("tables", lambda: _tables(run), f"bench table {run.path}")
        plots = made("plots", lambda: _plots(run, cache), f"bench plot {run.path}")
        files = [*(tables or []), *(plots or [])]
        kept = {file.relative_to(run.path).as_posix() for file in files}
        for name in before.get("files", []):  # also plots of a kind or page that the run no longer has
            if name not in kept:
                (run.path / name).unlink(missing_ok=True)
        if tables is not None and plots is not None:
            names = [file.relative_to(run.path).as_posix() for file in files]
            write_atomically(run.path / MARKER, json.dumps({"inputs": inputs, "files": names}, indent=2) + "\n")
    if failures:
        raise failures[0]
    return files


def _marks(run: StoredRun, cache: Path, images: ScoredImages) -> list[Path]:
    update_best(run, cache, images)
    return [run.path / NAME]


def _tables(run: StoredRun) -> list[Path]:
    from oodbench.benchmark.views.tables import files as tables

    return tables.write_tables(run)


def _plots(run: StoredRun, cache: Path) -> list[Path]:
    from oodbench.benchmark.views.plots import draw as plots

    return plots.draw(run, cache)


def _last(run_dir: Path) -> Mapping[str, Any]:
    """What the marker says: `inputs` and `files`, names inside the run's folder; empty if it cannot be read."""
    try:
        last = read_json(run_dir / MARKER)
        if isinstance(last["inputs"], str) and not any(map(escapes_root, last["files"])):
            return {"inputs": last["inputs"], "files": list(last["files"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


VIEW_PACKAGES = ("metrics", "records", "views")
"""Packages whose source determines the tables and plots."""


def view_sources() -> list[Path]:
    """The source files whose change causes a run's tables and plots to be redrawn."""
    root = Path(str(resources.files("oodbench.benchmark")))
    return [file for package in VIEW_PACKAGES for file in sorted((root / package).rglob("*.py"))]


def _view_inputs(run: StoredRun) -> str:
    """A hash of everything that the views depend on: the records, the displayed run info, and their source code."""
    source = hashlib.sha256(b"".join(file.read_bytes() for file in view_sources()))
    shown = {
        k: run.info.get(k) for k in ("name", "suite", "pairs", "notes", "skipped", "unavailable", "passes", "seeds")
    }
    shown["unfinished"] = run.unfinished
    shown["best"] = [asdict(judged) for judged in read_best(run).values()]
    # Not `asdict` of whole records, which copies everything in them: 0.5 s for 648 cells.
    records = [{**vars(record), "by_class": asdict(record.by_class)} for record in run.records]
    return digest({"records": records, "shown": shown, "source": source.hexdigest()})
