"""Where a run and its cache lie on disk."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark.errors import unknown
from oodbench.benchmark.store.atomic import slug
from oodbench.benchmark.store.safe_read import is_file


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
