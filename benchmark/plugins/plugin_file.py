"""Imports a plug-in file together with the files beside it.

`import helper` in a plug-in file, and in a file that it imports, finds `helper.py` or the package `helper` beside the
plug-in file, unless an installed package has that name. Such a module belongs to its folder: it is stored in
`sys.modules` under a name that begins with `PREFIX` and contains a hash of the folder's path, so that plug-in files of
two folders may each have a `helper.py`.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from oodbench.benchmark.plugins.code_origin import is_standard, owners

PREFIX = "oodbench_beside_"
"""Begins the names of modules that lie beside plug-in files."""

FILE_PREFIX = "oodbench_plugin_"
"""Begins the names of plug-in files as modules."""

_read: dict[str, bytes] = {}
"""The source of every module that was imported here, as it was executed: path -> content."""

_used: dict[str, dict[str, bytes]] = {}
"""For each plug-in file, by module name: the sources of its folder after its import."""


def name_of(path: Path) -> str:
    """The module name of a plug-in file."""
    return FILE_PREFIX + _short_hash(path.resolve())


def import_file(path: Path) -> None:
    """Import a plug-in file as the module `name_of(path)`, with no regard to compiled files in `__pycache__`.

    Raises whatever the file raises; `forget` then removes what was imported from `sys.modules`.
    """
    name, folder = name_of(path), path.resolve().parent
    importlib.invalidate_caches()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _package_of(folder)
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path.absolute())))
    if spec is None or spec.loader is None:
        raise ImportError(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    _used[name] = _below(folder)


def forget(path: Path) -> list[str]:
    """Remove a plug-in file and the modules beside it from `sys.modules`, and return their names."""
    own, folder = name_of(path), path.resolve().parent
    _used.pop(own, None)
    package = f"{PREFIX}{_short_hash(folder)}."
    names = [name for name in sys.modules if name == own or name.startswith(package)]
    for name in names:
        del sys.modules[name]
    for file in _below(folder):
        del _read[file]
    return names


def has_changed(path: Path) -> bool:
    """Whether a plug-in file or a file beside it that was imported here has another content than at its import."""
    imported = {**_below(path.resolve().parent), **_used.get(name_of(path), {})}
    return any(_content(file) != content for file, content in imported.items())


def source_of(file: str | Path) -> bytes:
    """The source of a module: as it was executed, if it was imported here, and otherwise the content of its file.

    A file may be edited while a run is going on, and what the run executes remains what it has imported.
    """
    known = _read.get(str(file))
    return Path(file).read_bytes() if known is None else known


def _below(folder: Path) -> dict[str, bytes]:
    """What was imported here from a folder."""
    return {file: content for file, content in _read.items() if folder in Path(file).resolve().parents}


def _content(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes()
    except OSError:
        return None


def real_name(importer: str, name: str) -> str:
    """The name in `sys.modules` of what module `importer` imports as `name`, an absolute name."""
    module = sys.modules.get(importer)
    is_local = importer.startswith((PREFIX, FILE_PREFIX)) and not name.startswith((PREFIX, FILE_PREFIX))
    if module is None or not is_local or not isinstance(module.__loader__, _Loader):
        return name
    return _beside(_folder_of(importer, module.__loader__.path), name)


def plain_name(module: str) -> str:
    """A module's name without the hash of its folder, which says where it lies and not what it is.

    A script has one name in its own process and another in the worker processes that import it.
    """
    if module.startswith(FILE_PREFIX):
        return "a plug-in file"
    if module == "__mp_main__":
        return "__main__"
    return module.partition(".")[2] if module.startswith(PREFIX) else module


def _folder_of(name: str, file: str) -> Path:
    """The folder of the plug-in file that a module belongs to."""
    if name.startswith(PREFIX):
        return Path(sys.modules[name.partition(".")[0]].__path__[0])
    return Path(file).resolve().parent


def _beside(folder: Path, name: str) -> str:
    """`name` as a module of the folder, if it lies there and no installed package has its name."""
    top = name.partition(".")[0]
    if not ((folder / f"{top}.py").is_file() or (folder / top).is_dir()) or is_standard(top):
        return name
    is_installed = owners(top, tuple(sys.path)) and importlib.util.find_spec(top) is not None
    return name if is_installed else f"{PREFIX}{_short_hash(folder)}.{name}"


def _package_of(folder: Path) -> None:
    """Create the package whose modules are those of a folder."""
    name = PREFIX + _short_hash(folder)
    if name not in sys.modules:
        package = ModuleType(name, f"What lies in '{folder}'.")
        package.__path__ = [str(folder)]
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        sys.modules[name] = package


def _short_hash(path: Path) -> str:
    return hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:12]


class _Finder:
    """Finds modules beside plug-in files."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module whose name begins with `PREFIX`."""
        spec = PathFinder.find_spec(name, path, target) if name.startswith(PREFIX) else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Executes a module's source, in which imports find what lies beside the plug-in file.

    Compiled files are neither read nor written: they are recognised by size and seconds, so that one of two quick edits
    of the same length would go unnoticed.
    """

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source."""
        content = _read[self.path] = self.get_data(self.path)
        code: CodeType = self.source_to_code(content, self.path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Execute the source with an `__import__` of its own."""
        folder = _folder_of(module.__name__, self.path)

        def import_(
            name: str,
            globals: Mapping[str, Any] | None = None,
            locals: Mapping[str, Any] | None = None,
            fromlist: Sequence[str] = (),
            level: int = 0,
        ) -> ModuleType:
            real = name if level else _beside(folder, name)
            module = builtins.__import__(real, globals, locals, fromlist, level)
            if real == name or fromlist:
                return module
            return sys.modules[real[: len(real) - len(name)] + name.partition(".")[0]]

        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
        super().exec_module(module)
