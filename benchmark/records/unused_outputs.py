"""Folders of outputs that `run(model=...)` wrote into a results folder, and that no run there uses."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = "outputs"
"""Folder in the results in which outputs of networks in memory are kept."""

OURS = re.compile(r".+-[0-9a-f]{12}")
"""Names of folders that `run` makes: the run or network, and a hash of the outputs. Others are the user's own."""

KEPT_SECONDS = 3600.0
"""How long after its last change a folder is kept: the run that has just made it may not be recorded yet."""


def unused_outputs(results: Path) -> list[Path]:
    """The folders that no run names, sorted. A run is one whose folder has a `run.json`, finished or not."""
    found = sorted(path for path in (results / FOLDER).glob("*") if path.is_dir() and not path.is_symlink())
    ours = [path for path in found if OURS.fullmatch(path.name)]
    texts = [_text(path) for path in sorted((results / "runs").glob("*/run.json"))] if ours else []
    return [path for path in ours if not any(path.name in text for text in texts) and _is_old(path)]


def files_of(folders: list[Path]) -> Iterator[Path]:
    """All files in some folders."""
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def _text(run_json: Path) -> str:
    """A run's JSON as it is: names are sought in the text, so that a file of any version keeps what it names."""
    return run_json.read_text(encoding="utf-8", errors="replace")


def _is_old(folder: Path) -> bool:
    times = [path.stat().st_mtime for path in (folder, *folder.rglob("*"))]
    return time.time() - max(times) > KEPT_SECONDS
