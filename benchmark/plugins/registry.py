"""The registry of plug-ins: finds them by kind and name, and imports them on first use.

Built-ins are found by folder and listed without importing them, from the literal name and title of the decorator. Other
packages register through entry points (`oodbench.detectors`, `oodbench.recipes`, ...), single files through
`load_file`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from oodbench.benchmark.errors import OodbenchError, PluginError, UserError, typed_first_line, unknown
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.base import Plugin, shadowing
from oodbench.benchmark.plugins.citations.declared import declared_in
from oodbench.benchmark.plugins.dataset import Dataset, Form
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.figures import Figures
from oodbench.benchmark.plugins.plugin_file import forget, has_changed, import_file, name_of
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.source_version import reads_files
from oodbench.benchmark.store.safe_read import is_file


class Kind(NamedTuple):
    """A kind of plug-in: its base class, a method a plug-in must define, and the package of the built-in ones."""

    base: type[Plugin]
    method: str
    package: str


KINDS = {
    "detector": Kind(Detector, "score", "oodbench.detectors"),
    "recipe": Kind(Recipe, "step or fit_head", "oodbench.detectors"),
    "dataset": Kind(Dataset, "load", "oodbench.datasets"),
    "form": Kind(Form, "apply", "oodbench.datasets"),
    "backbone": Kind(Backbone, "build", "oodbench.benchmark.backbones"),
    "figure": Kind(Figures, "draw", "oodbench.figures"),
}

SUITES = Path(str(resources.files("oodbench.benchmark"))) / "suites"

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")

RESERVED = ("all",)
"""Names that the command line interprets differently."""


@dataclass(frozen=True)
class PluginEntry:
    """A registered name, whether or not its module has been imported."""

    kind: str
    name: str
    title: str
    origin: str
    load: Callable[[], Any]
    display_name: str = ""
    cite: str = ""

    def reason(self) -> str:
        """Import the plug-in and return why it cannot be used; empty if it can."""
        try:
            self.load()
        except OodbenchError as error:
            return str(error)
        return ""


class Registry:
    """Every plug-in known to this process."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], type[Plugin]] = {}
        self._from_files: dict[tuple[str, str], PluginEntry] = {}
        self._installed: dict[str, dict[str, PluginEntry]] = {}

    def add(self, kind: str, name: str, plugin: type[Plugin]) -> None:
        """Register a class under a name; called by the decorators.

        Raises `PluginError` for an invalid name or class, or a name that another class has.
        """
        _validate(kind, name, plugin)
        builtin = _builtins(kind).get(name)
        taken = self._objects.get((kind, name))
        new_owner = f"{plugin.__module__}.{plugin.__qualname__}"
        if builtin is not None and builtin.origin != plugin.__module__:
            owner = f"the built-in {builtin.origin}"
        elif taken is not None and f"{taken.__module__}.{taken.__qualname__}" != new_owner:
            owner = f"{taken.__module__}.{taken.__qualname__}"
        else:
            self._objects[kind, name] = plugin
            return
        raise PluginError(f"The {kind} name '{name}' is taken by {owner}; choose another for {new_owner}.")

    def entries(self, kind: str) -> dict[str, PluginEntry]:
        """All names of a kind, usable or not; built-ins first."""
        installed = self._installed_entries(kind)
        in_process = {
            name: PluginEntry(kind, name, plugin.title, f"this process, {plugin.__module__}", partial(_same, plugin))
            for (k, name), plugin in self._objects.items()
            if k == kind and name not in installed and not plugin.__module__.startswith("oodbench.")
        }
        return {**installed, **in_process, **{n: entry for (k, n), entry in self._from_files.items() if k == kind}}

    def _installed_entries(self, kind: str) -> dict[str, PluginEntry]:
        if kind not in self._installed:
            self._installed[kind] = self._find_installed(kind)
        return self._installed[kind]

    def refresh(self) -> None:
        """Search for installed plug-ins again, so that packages installed since are found."""
        self._installed.clear()

    def _find_installed(self, kind: str) -> dict[str, PluginEntry]:
        found = dict(_builtins(kind))
        for point in sorted(metadata.entry_points(group=f"oodbench.{kind}s"), key=lambda p: (p.name, p.value)):
            first = found.get(point.name)
            if first is None:
                found[point.name] = self._third_party(kind, point)
            elif first.origin != _origin(point):
                name = f"{point.name} ({_origin(point)})"
                found[name] = PluginEntry(kind, name, "", _origin(point), _refuse(kind, point.name, first.origin))
        return found

    def get(self, kind: str, name: str) -> Any:
        """Return a plug-in: a class, or the path of a suite's file.

        Raises `UserError` for an unknown name, with the nearest known one.
        """
        entry = self._from_files.get((kind, name)) or self._installed_entries(kind).get(name)
        if entry is None and (entry := (entries := self.entries(kind)).get(name)) is None:
            raise unknown(kind.replace("dataset", "data set"), name, entries, f"bench list {kind}s")
        return entry.load()

    def adopt(self, kind: str, name: str, plugin: type[Plugin], origin: str) -> None:
        """Register a class created at run time, under a name that no file or package can have."""
        self._from_files[kind, name] = PluginEntry(kind, name, plugin.title, origin, partial(_same, plugin))

    def disown(self, kind: str, name: str) -> None:
        """Remove a class that `adopt` registered."""
        self._from_files.pop((kind, name), None)

    def load_file(self, path: Path) -> list[tuple[str, str]]:
        """Import a Python file and return the (kind, name) pairs that it registers.

        It is imported again if it or a file beside it has changed, or if it reads other files. Raises `UserError` if it
        cannot be imported, registers nothing, or uses the name of an installed plug-in.
        """
        if not is_file(path):
            raise UserError(f"The plug-in file '{path}' does not exist. Give the path of a Python file.")
        module_name = name_of(path)
        defined = [plugin for plugin in self._objects.values() if plugin.__module__ == module_name]
        if has_changed(path) or any(map(reads_files, defined)):
            self.drop(path)
        if module_name not in sys.modules:
            try:
                _import_file(path)
            except UserError:
                self.drop(path)
                raise
        names = [key for key, plugin in self._objects.items() if plugin.__module__ == module_name]
        if not names:
            self.drop(path)
            raise UserError(
                f"The plug-in file '{path}' registers nothing. Decorate a class, for example with @detector('name')."
            )
        for kind, name in names:
            if (owner := self._installed_entries(kind).get(name)) is not None:
                self.drop(path)
                raise UserError(
                    f"The {kind} name '{name}' is taken by {owner.origin}; choose another in the plug-in file '{path}'."
                )
        for kind, name in names:
            plugin = self._objects[kind, name]
            self._from_files[kind, name] = PluginEntry(kind, name, plugin.title, f"file {path}", partial(_same, plugin))
        return names

    def drop(self, path: Path) -> None:
        """Remove a file that was refused or has changed, so that its names are free again."""
        modules = forget(path)
        self._objects = {k: p for k, p in self._objects.items() if p.__module__ not in modules}
        self._from_files = {k: entry for k, entry in self._from_files.items() if entry.origin != f"file {path}"}

    def _third_party(self, kind: str, point: metadata.EntryPoint) -> PluginEntry:
        def load() -> Any:
            try:
                plugin = point.load()
            except (Exception, SystemExit) as error:  # third-party code may raise anything
                raise PluginError(f"{typed_first_line(error)} (entry point {point.value})") from error
            if self._objects.get((kind, point.name)) is not plugin:
                raise PluginError(f"{point.value} is not registered as the {kind} '{point.name}'; add the decorator.")
            return plugin

        if kind == "suite":
            return PluginEntry(kind, point.name, "", _origin(point), lambda: _suite_file(point))
        return PluginEntry(kind, point.name, "", _origin(point), load)


def _same(value: Any) -> Any:
    return value


def _origin(point: metadata.EntryPoint) -> str:
    return f"package {point.dist.name} {point.dist.version}" if point.dist else point.value


def _refuse(kind: str, name: str, owner: str) -> Callable[[], Any]:
    def load() -> Any:
        raise PluginError(f"The {kind} name '{name}' is taken by {owner}.")

    return load


def _suite_file(point: metadata.EntryPoint) -> Path:
    module, _, file = point.value.partition(":")
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise PluginError(f"The suite file of entry point '{point.name} = {point.value}' does not exist.")


def _validate(kind: str, name: str, plugin: type[Plugin]) -> None:
    base, method, _ = KINDS[kind]
    if not NAME.fullmatch(name) or name in RESERVED:
        raise PluginError(
            f"'{name}' cannot name a {kind}: use lower-case letters, digits, '_', '.' and '-', not 'all'."
        )
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise PluginError(f"The {kind} '{name}' must be a class derived from oodbench.benchmark.{base.__name__}.")
    if all(getattr(plugin, one) is getattr(base, one) for one in method.split(" or ")):
        raise PluginError(f"The {kind} '{name}' has no {method}(); it must define one.")
    if reason := shadowing(plugin, base):
        raise PluginError(f"The {kind} '{name}' has a setting {reason}.")
    needs: object = getattr(plugin, "needs", frozenset())
    if not isinstance(needs, frozenset | set):
        raise PluginError(f"The {kind} '{name}' declares needs = {needs!r}; write a set, such as {{'logits'}}.")


def _import_file(path: Path) -> None:
    if path.suffix != ".py":
        raise UserError(f"The plug-in file '{path}' is not a Python file. Its name must end in .py.")
    try:
        import_file(path)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise UserError(f"The plug-in file '{path}' cannot be imported: {typed_first_line(error)}") from error


@cache
def _builtins(kind: str) -> dict[str, PluginEntry]:
    if kind == "suite":
        files = sorted(SUITES.glob("*.toml"))
        return {f.stem: PluginEntry(kind, f.stem, _suite_title(f), "built-in", partial(_same, f)) for f in files}
    package = importlib.import_module(KINDS[kind].package)
    found = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if not module.name.startswith("_"):
            for one in declared_in(Path(module.module_finder.path) / f"{module.name}.py", kind):  # type: ignore[union-attr]
                origin = f"{KINDS[kind].package}.{module.name}"
                load = _builtin_loader(kind, one.name, origin)
                found[one.name] = PluginEntry(kind, one.name, one.title, origin, load, one.display_name, one.cite)
    return found


def _builtin_loader(kind: str, name: str, module: str) -> Callable[[], Any]:
    def load() -> Any:
        importlib.import_module(module)
        return registry._objects[kind, name]

    return load


def _suite_title(file: Path) -> str:
    return "".join(re.findall(r'^title\s*=\s*"(.*)"', file.read_text(encoding="utf-8"), re.MULTILINE)[:1])


registry = Registry()
"""The registry of this process."""

P = TypeVar("P", bound=Plugin)


class Register(Protocol):
    """A class decorator that registers a plug-in."""

    def __call__(self, cls: type[P], /) -> type[P]:
        """Register a class, and return it."""


def _decorator(kind: str, name: str, title: str, paper: str, display_name: str, cite: str) -> Register:
    def register(cls: type[P], /) -> type[P]:
        registry.add(kind, name, cls)
        cls.name, cls.title, cls.paper, cls.display_name, cls.cite = name, title, paper, display_name, cite
        return cls

    return register


def detector(name: str, *, title: str = "", paper: str = "", display_name: str = "", cite: str = "") -> Register:
    """Class decorator that registers a `Detector`.

    Args:
        name: The name on the command line: lower-case letters, digits, '_', '.' and '-'. Write it as a literal, because
            built-in plug-ins are listed without importing them. So for all arguments but `paper`.
        title: One line for lists and tables.
        paper: The publication.
        display_name: The name in tables for papers, such as "ViM"; `name` if empty.
        cite: The publication in BibTeX: an entry, or the key of one in the file `references.bib` beside the plug-in's.

    Raises:
        PluginError: The name is invalid or taken, the class is not a `Detector`, or it does not define `score`.
    """
    return _decorator("detector", name, title, paper, display_name, cite)


def recipe(name: str, *, title: str = "", paper: str = "", display_name: str = "", cite: str = "") -> Register:
    """Class decorator that registers a `Recipe`; the arguments are those of `detector`."""
    return _decorator("recipe", name, title, paper, display_name, cite)


def backbone(name: str, *, title: str = "", paper: str = "", display_name: str = "", cite: str = "") -> Register:
    """Class decorator that registers a `Backbone`; the arguments are those of `detector`."""
    return _decorator("backbone", name, title, paper, display_name, cite)


def dataset(name: str, *, title: str = "", paper: str = "", display_name: str = "", cite: str = "") -> Register:
    """Class decorator that registers a `Dataset`; the arguments are those of `detector`."""
    return _decorator("dataset", name, title, paper, display_name, cite)


def form(name: str, *, title: str = "", paper: str = "", display_name: str = "", cite: str = "") -> Register:
    """Class decorator that registers a `Form`; the arguments are those of `detector`."""
    return _decorator("form", name, title, paper, display_name, cite)


def figure(name: str, *, title: str = "", paper: str = "", display_name: str = "", cite: str = "") -> Register:
    """Class decorator that registers the `Figures` of a paper; the arguments are those of `detector`."""
    return _decorator("figure", name, title, paper, display_name, cite)
