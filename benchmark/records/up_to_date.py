"""Remembers that a command had nothing to do, so that the same command, on the same files, need not plan again.

Planning reads suites, plug-ins and data and imports torch, which takes seconds. What it depends on is compared without
it, by a `Situation`: the options, the environment, the interpreter, the machine, installed packages, and the stamps
(inode, size, modification and change time) of the harness's and plug-ins' source files and of the data folder. Beside
it the marker has the stamps of the run's own files and of its artifacts. Whatever differs, or cannot be compared, is
planned in full; nothing is answered on a guess. This module does not import torch.

    results/runs/NAME/up_to_date.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.store.safe_read import read_json

NAME = "up_to_date.json"

VERSION = "1"
"""Increase it when the marker has to say something else."""

PACKAGES = ("oodbench.benchmark", "oodbench.detectors", "oodbench.datasets", "oodbench.figures")
"""The harness and its plug-ins, all of whose files count."""

VOLATILE = frozenset((
    "_", "COLUMNS", "LINES", "OLDPWD", "PS1", "PWD", "PYTEST_CURRENT_TEST", "SHLVL", "SSH_CLIENT", "SSH_CONNECTION",
    "SSH_TTY", "TERM", "TERM_SESSION_ID", "WINDOWID",
))  # fmt: skip
"""Environment variables that say where a command was typed. All others count, whatever reads them."""

MOST = 20_000
"""Files of a folder that are compared; where there are more, every command plans."""

SETTLED = 2_000_000_000
"""Nanoseconds before a command began in which a file must have changed last, so that the command saw its content."""

Stamp = list[int]

logger = logging.getLogger(__name__)


class UnknownError(Exception):
    """Something that planning depends on cannot be compared."""


@dataclass(frozen=True)
class Situation:
    """Everything outside of the results folder that the plan of a command depends on, as far as it was looked at."""

    digest: str
    began: int
    """When it was looked at, in nanoseconds since 1970."""
    newest: int
    """When the last of the harness's files changed."""
    process: Mapping[str, Any]
    """What the process was started with, which it changes as it works: its environment and where it finds modules."""

    @classmethod
    def of(
        cls,
        options: Mapping[str, Any],
        data_dir: Path,
        files: Iterable[Path] = (),
        process: Mapping[str, Any] | None = None,
    ) -> Situation:
        """Look at it now.

        Args:
            options: The options of the command that what it does depends on; paths as text.
            data_dir: The folder of the data sets.
            files: Files that the options name.
            process: What the process was started with, if this is not its beginning.

        Raises:
            UnknownError: A file is missing, or a folder has more than `MOST` files.
        """
        began = time.time_ns()
        sources = {name: _folders(name) for name in PACKAGES}
        newest = max((max(stamp[2:]) for trees in sources.values() for tree in trees for _, stamp in tree), default=0)
        process = process or _process()
        content = {
            "version": VERSION,
            "options": json.loads(json.dumps(options, default=str)),
            "process": process,
            "machine": _machine(),
            "packages": sorted(_installed(process["path"])),
            "sources": sources,
            "data": _tree(data_dir) if data_dir.is_dir() else [],
            "files": {str(path): _stamp(path) for path in files},
        }
        return cls(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), began, newest, process)


@dataclass(frozen=True)
class Remembered:
    """What a marker says of a command that had nothing to do."""

    digest: str
    """Of its `Situation`."""
    text: str
    """What it said, in the words of the command line."""
    files: Mapping[str, Stamp] = field(default_factory=dict)
    """File of the run, artifact, or source of a plug-in outside of the harness -> its stamp."""
    cells: Sequence[str] = ()
    """Names of the run's records."""


def remembered(folders: Iterable[Path], situation: Situation) -> tuple[Path, Remembered] | None:
    """The run that a command left up to date, and its marker; None if none of the runs' folders has one that holds."""
    for folder in folders:
        try:
            marker = Remembered(**read_json(folder / NAME))
            if marker.digest != situation.digest or marker.cells != _cells(folder):
                continue
            if all(_stamp(folder / name) == stamp for name, stamp in marker.files.items()):
                return folder, marker
        except (OSError, ValueError, TypeError, AttributeError, UnknownError):
            continue  # missing, damaged, or of another version
    return None


def remember(
    folder: Path, situation: Situation, again: Situation, text: str, artifacts: Iterable[Path], declared: Iterable[Path]
) -> bool:
    """Write the marker of a command that had nothing to do; whether it was written.

    Args:
        folder: The run's folder.
        situation: What was there before the command planned.
        again: What is there now; where it differs, nothing is remembered.
        text: What it said.
        artifacts: The artifacts that the plan names, with their side files.
        declared: Further files that versions of plug-ins depend on.
    """
    if situation.digest != again.digest:
        return False
    try:
        seen = [*dict.fromkeys((*artifacts, *declared, *_outside()))]
        stamps = {str(path.absolute()): _stamp(path) for path in seen}
        if max(situation.newest, *(max(stamp[2:]) for stamp in stamps.values())) > situation.began - SETTLED:
            return False  # something may have been changed while the plan was made
        own = [path for path in _files(folder) if path.name != NAME and path.parent.name != "logs"]
        stamps |= {path.relative_to(folder).as_posix(): _stamp(path) for path in own}
        marker = {"digest": situation.digest, "text": text, "files": stamps, "cells": _cells(folder)}
        write_atomically(folder / NAME, json.dumps(marker) + "\n")
    except (OSError, UnknownError):
        return False
    return True


def _process() -> dict[str, Any]:
    return {
        "folder": str(Path.cwd()),
        "environment": {name: text for name, text in os.environ.items() if name not in VOLATILE},
        "python": [sys.version, sys.executable, sys.flags[:]],
        "path": [str(Path(place).absolute()) for place in sys.path],  # "" is the current folder
    }


def _machine() -> list[str]:
    """The processor, with what it can do, and the accelerators that the system shows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    devices = [path.name for path in Path("/dev").glob("*")]
    shown = sorted(name for name in devices if name.startswith(("nvidia", "kfd", "dri", "accel")))
    return [platform.platform(), platform.node(), *processor, *shown]


def _installed(path: Iterable[str]) -> Iterator[list[Any]]:
    """Every distribution that Python can see, by the folder with its name and version."""
    for place in dict.fromkeys(path):
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue  # not a folder
        for entry in entries:
            if entry.name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth")):
                yield [entry.path, entry.stat().st_mtime_ns]


def _folders(package: str) -> list[Any]:
    """The stamps of all files of a package of the harness."""
    try:
        places = sorted({str(Path(place).resolve()) for place in import_module(package).__path__})
    except ImportError:
        return []
    return [_tree(Path(place)) for place in places]


def _tree(folder: Path) -> list[Any]:
    return [[str(path), _stamp(path)] for path in _files(folder)]


def _files(folder: Path) -> list[Path]:
    """All files below a folder, without compiled code. Raises `UnknownError` for more than `MOST`."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        found += (Path(place, name) for name in sorted(names))
        if len(found) > MOST or len(Path(place).parts) > 100:
            raise UnknownError(f"'{folder}' has more than {MOST} files")
    return found


def _cells(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cells").iterdir())


def _outside() -> Iterator[Path]:
    """The files of loaded modules that are neither Python's, nor installed, nor the harness's: plug-ins of the user."""
    inside = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib")]
    inside += [Path(place).resolve() for name in PACKAGES for place in getattr(sys.modules.get(name), "__path__", ())]
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith((".py", ".pyc", *EXTENSION_SUFFIXES)):
            continue
        path = Path(file).resolve()
        installed = {"site-packages", "dist-packages"} & {*path.parts}
        if path.is_file() and not installed and not any(place in path.parents for place in inside):
            yield path


def _stamp(path: Path) -> Stamp:
    """Inode, size, modification and change time. Raises `UnknownError` for what is not there."""
    try:
        found = path.stat()
    except OSError as error:
        raise UnknownError(f"'{path}' cannot be looked at: {error}") from error
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
