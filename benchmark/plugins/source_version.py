"""The version of a plug-in: the one its author pinned, or a hash of the code and the values that it depends on.

The code is the plug-in's module and what that imports, except for installed distributions, which count by name and
version. Only syntax trees count, without comments and docstrings: editing prose or reformatting recomputes nothing. For
a class defined in a notebook it is the cells that define the class and what its methods use. The values are those of
attributes, closures, default arguments and of globals that methods read (`code_values`).

Code that reads files, imports by computed names or executes text depends on more. Nothing that such a plug-in computes
is used by a later command, unless its author declares the files (`Plugin.depends_on`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import logging
import secrets
import sys
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.code_origin import (
    PLUGIN_FOLDERS,
    Installed,
    compiled_file,
    files_declared_by,
    installed,
    is_outside,
    is_standard,
    module_file,
)
from oodbench.benchmark.plugins.code_values import CodeValues
from oodbench.benchmark.plugins.file_access import names_in, reads_outside
from oodbench.benchmark.plugins.plugin_file import real_name, source_of

logger = logging.getLogger(__name__)


class SourceVersion(NamedTuple):
    """A plug-in's version, and what it does not cover."""

    version: str
    """Pinned, or a hash."""
    uncovered: str = ""
    """Why the results depend on more than the version says, as a phrase; empty if they do not."""
    distributions: tuple[Installed, ...] = ()
    """The installed distributions that the code comes from or imports."""


ONLY_IN = ", only in "
"""In keys: comes between the version of a plug-in that is not covered and what identifies the command."""


class _Command:
    """What is known for the duration of one command."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(8)
        """Part of the version of plug-ins whose results no later command may use."""
        self.versions: dict[type[Plugin], SourceVersion] = {}
        self.declared: dict[type[Plugin], str] = {}
        """A hash of the files that a plug-in declares, as they were when its version was found."""


_command = _Command()


def start_command() -> None:
    """Begin a command: versions are found again, and results of plug-ins that are not covered are made again."""
    global _command
    _command = _Command()


def identity(plugin: Plugin, settings: Iterable[str] | None = None) -> dict[str, Any]:
    """The part of an artifact's key that identifies a plug-in: name, version, and all or some of its settings."""
    relevant = {name: value for name, value in plugin.settings.items() if settings is None or name in settings}
    read = {name: sha for name, sha in plugin.read_from().items() if name in relevant}
    key = {"name": plugin.name, "settings": relevant, "version": _key_version(type(plugin))}
    return {**key, "read": read} if read else key


def _key_version(plugin: type[Plugin]) -> str:
    """The version as it stands in keys; for a plug-in that is not covered, one that only this command has.

    It is found where the plan is made. Workers find it in the keys of their jobs.
    """
    is_new = plugin not in _command.versions
    version, uncovered, _ = known_version(plugin)
    if uncovered and is_new:
        logger.warning(
            f"'{plugin.name}' is computed again by every command, because {uncovered}, which no hash of its code "
            'covers. To reuse its results, declare the files that it reads: depends_on = ("config.json",), or () '
            "for none."
        )
    return f"{version}{ONLY_IN}{_command.token}" if uncovered else version


def known_version(plugin: type[Plugin]) -> SourceVersion:
    """What `examine` has found in this command, once for each plug-in, or first finds now."""
    if plugin not in _command.versions:
        _command.declared[plugin] = _hash_of_declared(plugin)
        _command.versions[plugin] = examine(plugin)
    return _command.versions[plugin]


def declared_files_changed(plugin: type[Plugin]) -> bool:
    """Whether a file that a plug-in declares has another content than when its version was found in this command."""
    known_version(plugin)
    return _command.declared[plugin] != _hash_of_declared(plugin)


def declared_files() -> list[Path]:
    """The files that plug-ins declare whose version was found in this command."""
    return [file for plugin in _command.declared for file in files_declared_by(plugin)]


def _hash_of_declared(plugin: type[Plugin]) -> str:
    try:
        return _hash(file.read_bytes() for file in files_declared_by(plugin))
    except (OSError, PluginError):
        return ""


def source_version(plugin: type[Plugin]) -> str:
    """The version that the author pinned, or a hash of the code and the values that the plug-in depends on.

    Raises `PluginError` if the source is not available, or a file that the plug-in declares cannot be read.
    """
    return examine(plugin).version


def reads_files(plugin: type[Plugin]) -> bool:
    """Whether a plug-in reads files besides its code, as far as can be seen or as it declares."""
    return plugin.depends_on is not None or bool(examine(plugin).uncovered)


def examine(plugin: type[Plugin]) -> SourceVersion:
    """A plug-in's version, and what it does not cover. Raises `PluginError` as `source_version` does."""
    if plugin.version is not None:
        return SourceVersion(plugin.version)
    name = plugin.__module__
    if name.startswith("oodbench."):
        return SourceVersion(_hash(_trees(_source_files(name, module_file(name)))))
    package = name.partition(".")[0]
    owner = installed(package)
    values = CodeValues(plugin, package if owner else "")
    texts = [text.encode() for text in sorted(values.parts)] + sorted(code_of(cell) for cell in values.cells)
    imported = _Imported(values.modules, values.lazy, package if owner else "")
    texts += sorted(imported.codes) + [
        name.encode() for name in sorted({*map(str, imported.distributions), str(owner)})
    ]
    declared = [*files_declared_by(plugin)]
    texts += [Path(file).read_bytes() for file in declared]
    is_declared = owner is not None or plugin.depends_on is not None
    distributions = sorted(filter(None, {*imported.distributions, owner}))
    return SourceVersion(_hash(texts), "" if is_declared else _uncovered(values, imported), tuple(distributions))


def code_version(modules: Iterable[str]) -> str:
    """A hash of the code of some of this project's modules and of what they import from their own folders."""
    return _hash(_trees({file for name in modules for file in _source_files(name, module_file(name))}))


def _hash(texts: Iterable[bytes]) -> str:
    return "source:" + hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


def _trees(files: Iterable[str]) -> list[bytes]:
    return [code_of(Path(file).read_bytes()) for file in sorted(files)]


def _uncovered(values: CodeValues, imported: _Imported) -> str:
    """What the version of a plug-in does not cover, as a phrase."""
    if values.reads or imported.reads:
        return values.reads or imported.reads
    for module, name in values.opaque.items():
        if module_file(module) is None:
            return f"the content of {name} is unknown"
        if module == "__main__" and (used := _reads_at_import(module, Path(str(module_file(module))))):
            return f"{used}, and the content of {name} is unknown"
    return ""


class _Imported:
    """The code that modules import, directly or indirectly, outside of Python and installed distributions."""

    def __init__(self, modules: Iterable[str], lazy: Iterable[str], package: str) -> None:
        """`lazy`: those of `modules` that functions import; `package`: the plug-in's own, if it is installed."""
        self.codes: set[bytes] = set()
        """Syntax trees, and the content of compiled modules."""
        self.distributions: set[Installed | None] = set()
        """The installed distributions that are imported from outside of them; None for modules that are not found."""
        self.reads: str = ""
        """Which module reads files when it is imported, as a phrase; empty if none does."""
        self._package = package
        self._seen: set[tuple[str, bool]] = set()
        self._todo = [(name, False) for name in modules] + [(name, True) for name in lazy]
        while self._todo:
            name, is_lazy = self._todo.pop()
            if (name, is_lazy) not in self._seen:
                self._seen.add((name, is_lazy))
                self._add(name, is_lazy)

    def _add(self, name: str, is_lazy: bool) -> None:
        top = name.partition(".")[0]
        if top == "oodbench":
            if name.startswith(PLUGIN_FOLDERS) and (file := module_file(name)) and not file.endswith("__init__.py"):
                self.codes.update(_trees(_source_files(name, file)))
        elif top == self._package:
            self.codes.update(_trees(_source_files(name, module_file(name))))
        elif is_outside(name):
            self._add_outside(name, is_lazy)
        elif not is_standard(top) and not self._package:
            self.distributions.add(installed(top))

    def _add_outside(self, name: str, is_lazy: bool) -> None:
        above, _, _ = name.rpartition(".")
        self._todo += [(above, is_lazy)] if above else []
        if (file := module_file(name)) is None:
            if (compiled := compiled_file(name)) is not None:
                self.codes.add(compiled.read_bytes())
            return
        content = source_of(file)
        self.codes.add(code_of(content))
        try:
            imported = list(_imports(content, name, file))
        except (SyntaxError, ValueError):
            return
        self._todo += [(real_name(name, other), is_lazy or in_function) for other, in_function in imported]
        if not self.reads and name not in ("__main__", "__mp_main__"):
            self.reads = _reads_at_import(name, Path(file), is_lazy)


def _reads_at_import(name: str, file: Path, functions: bool = False) -> str:
    """How a module reads something outside of it when it is imported, as a phrase; empty if it does not.

    With `functions`, also how its functions do.
    """
    if name not in sys.modules:
        try:
            importlib.import_module(name)
        except Exception:  # an import that is only tried; the user's module may raise anything
            return ""
    code = compile(source_of(file), str(file), "exec", dont_inherit=True)
    used = reads_outside(names_in(code, functions), vars(sys.modules[name]))
    return f"'{file.name}' uses {used}" if used else ""


IGNORED_FIELDS = ("kind", "type_comment", "type_ignores")
"""Fields of syntax nodes that describe how code is written, not what it does (`kind` is the u of u'text')."""


UNCOUNTED = ("display_name", "cite")
"""Arguments of the decorators that register plug-ins which say how papers name them, and change no result."""

DECORATORS = ("detector", "recipe", "backbone", "dataset", "form", "figure")


@lru_cache(maxsize=512)
def code_of(source: bytes | str) -> bytes:
    """Canonical bytes of Python source: its syntax tree without comments, docstrings and positions.

    A string that stands alone as a statement, such as the documentation of an attribute, counts as a docstring; how a
    plug-in is named and cited in papers does not count either. Source that does not parse, such as a notebook cell with
    magics, is returned unchanged except for its line endings.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        text = source.encode() if isinstance(source, str) else source
        return text.replace(b"\r\n", b"\n")
    for node in ast.walk(tree):
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in DECORATORS:
                call.keywords = [keyword for keyword in call.keywords if keyword.arg not in UNCOUNTED]
    return _serialize(tree).encode()


def _serialize(node: Any) -> str:
    """A syntax node as text that is the same in every version of Python: names of types, fields that are not empty."""
    if isinstance(node, list):
        return f"[{','.join(_serialize(item) for item in node if not _is_docstring(item))}]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__}:{node!r}"
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in IGNORED_FIELDS]
    present = [f"{name}={_serialize(value)}" for name, value in fields if value is not None and value != []]
    return f"{type(node).__name__}({','.join(present)})"


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _source_files(module: str, file: str | None) -> frozenset[str]:
    """The files of a module and of what it imports, directly or indirectly, from its own package.

    For built-in plug-ins the package is the module's folder, with shared helpers and parent recipes; for other
    distributions it is the top-level package.
    """
    root = module.rpartition(".")[0] if module.startswith("oodbench.") else module.partition(".")[0]
    files: dict[str, str] = {}
    todo = [(module, file)]
    while todo:
        name, file = todo.pop()
        if file is not None and name not in files:
            files[name] = file
            siblings = [
                other
                for other, _ in _imports(Path(file).read_bytes(), name, file)
                if f"{other}.".startswith(f"{root}.")
            ]
            todo.extend((other, module_file(other)) for other in siblings if other not in files)
    return frozenset(files.values())


@lru_cache(maxsize=512)
def _imports(source: bytes, module: str, file: str) -> tuple[tuple[str, bool], ...]:
    """Absolute names of everything that a module's source imports, and whether a function imports it.

    `from a import b` may mean a module a.b.
    """
    return tuple(_found_imports(source, module, file))


def _found_imports(source: bytes, module: str, file: str) -> Iterator[tuple[str, bool]]:
    package = module if Path(file).name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = (origin, *(f"{origin}.{alias.name}" for alias in node.names))
            yield from ((name, id(node) in inner) for name in names)
