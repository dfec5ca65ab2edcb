"""Where a module comes from: Python itself, an installed distribution, oodbench, or a file outside all of them.

And which files its plug-ins declare that their code reads.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.base import Plugin

PLUGIN_FOLDERS = ("oodbench.detectors", "oodbench.datasets", "oodbench.benchmark.backbones")
"""The parts of oodbench whose code belongs to a plug-in that imports it; stage versions stand for the harness."""


class Installed(NamedTuple):
    """An installed distribution."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def module_file(name: str) -> str | None:
    """The source file of a module; None if the name is not a module or has no source file."""
    file = _any_file(name)
    return file if file and file.endswith(".py") else None


def _any_file(name: str) -> str | None:
    """The file of a module, which may be compiled code; None if there is none."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None and name not in ("__main__", "__mp_main__"):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        file = spec.origin if spec and spec.has_location else None
    return str(file) if file else None


def compiled_file(name: str) -> Path | None:
    """The file of a module that is compiled code, such as a C extension; None for other modules."""
    file = _any_file(name)
    return Path(file) if file and not file.endswith(".py") and Path(file).is_file() else None


def is_outside(name: str) -> bool:
    """Whether a module is code of the user: not of Python, of oodbench, or of an installed distribution.

    A distribution installed in editable mode is outside: its code changes without its version.
    """
    top = name.partition(".")[0]
    return bool(top) and top != "oodbench" and not is_standard(top) and installed(top) is None


def is_standard(top: str) -> bool:
    """Whether a top-level module is part of Python; a user's file that hides one is not."""
    if top in sys.builtin_module_names:
        return True
    if top not in sys.stdlib_module_names:
        return False
    file = _any_file(top)
    return file is None or any(_is_below(file, folder) for folder in _standard_folders())


@cache
def _standard_folders() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))


def _is_below(file: str | Path, folder: Path) -> bool:
    return folder in Path(file).resolve().parents


def installed(top: str) -> Installed | None:
    """The distribution that holds the files of a top-level module; None if no distribution does."""
    return _installed(top, tuple(sys.path), _any_file(top) or _folder(top))


def _folder(top: str) -> str | None:
    """The folder of a namespace package."""
    paths = list(getattr(sys.modules.get(top), "__path__", ()))
    return str(paths[0]) if paths else None


@cache
def _installed(top: str, path: tuple[str, ...], file: str | None) -> Installed | None:
    if file is None or not any(map(_is_installation, Path(file).resolve().parents)):
        return None
    for owner in owners(top, path):
        folder = Path(str(owner.locate_file(""))).resolve()
        if _is_installation(folder) and _is_below(file, folder):
            return Installed(owner.metadata["Name"], owner.version)
    return None


@cache
def _is_installation(folder: Path) -> bool:
    """Whether distributions are installed in a folder; an `.egg-info` elsewhere belongs to a project being edited."""
    kinds = (".dist-info", ".egg-info") if folder.name in ("site-packages", "dist-packages") else (".dist-info",)
    try:
        return any(entry.suffix in kinds for entry in folder.iterdir())
    except OSError:
        return False


@cache
def owners(top: str, path: tuple[str, ...]) -> tuple[metadata.Distribution, ...]:
    """The distributions that provide a top-level module, also in editable mode; `path` is `sys.path`.

    The one of the same name is tried first: to find others, the file lists of all distributions are read.
    """
    try:
        return (metadata.distribution(top),)
    except (metadata.PackageNotFoundError, ValueError):
        line = re.compile(rf'^"?{re.escape(top)}(/|\.|$)', re.MULTILINE)
        files = ("top_level.txt", "RECORD")
        return tuple(d for d in metadata.distributions() if any(line.search(d.read_text(f) or "") for f in files))


def files_declared_by(plugin: type[Plugin]) -> Iterator[Path]:
    """The files that a plug-in and its bases declare. Raises `PluginError` for one that is not there, or no path."""
    for cls in plugin.__mro__:
        declared = vars(cls).get("depends_on")
        if declared is None:
            continue
        if not isinstance(declared, tuple | list) or not all(isinstance(name, str | Path) for name in declared):
            raise PluginError(
                f"'{plugin.name}' declares depends_on = {declared!r}; write a tuple of paths, such as ('config.json',)."
            )
        source = module_file(cls.__module__)
        for name in declared:
            path = (Path(source).resolve().parent if source else Path.cwd()) / name
            if not path.is_file():
                raise PluginError(
                    f"'{plugin.name}' declares in depends_on the file '{name}', and '{path}' is not a file. Give paths "
                    "of files relative to the plug-in's file."
                )
            yield path
