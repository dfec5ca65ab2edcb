"""Finds the folders of a run and its cache."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark.errors import unknown
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.safe_read import is_file
from oodbench.benchmark.store.user_path import user_path

MARKER = "views.json"
"""The file in a run's folder that says what its views were made from, and which they are (`runner.write_views`)."""


def run_dir(results: Path, name: str) -> Path:
    """The folder of a run, given by its name or its path. Raises `UserError` if it does not exist."""
    given = user_path(name)
    if is_file(given / "run.json"):
        return given
    path = results / "runs" / unique_slug(name)
    if not path.is_dir():
        known = sorted(p.parent.name for p in (results / "runs").glob("*/run.json"))
        raise unknown("run", name, known, "bench list runs")
    return path


def cache_of(run_dir: Path, results: Path) -> Path:
    """The store with a run's artifacts: in its own folder, beside the folder of runs, or else in `results`."""
    if (run_dir / "cache").is_dir():
        return run_dir / "cache"
    return run_dir.parent.parent / "cache" if run_dir.parent.name == "runs" else results / "cache"
