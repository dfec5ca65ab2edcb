"""The version of a plug-in: the one its author pinned, or a hash of its source code.

The source is the plug-in's file and the modules of its own package that it imports. For a class defined in a notebook
it is the cells that define the class and what its methods use. Only the syntax tree counts, without comments and
docstrings: editing prose or reformatting recomputes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.base import Plugin


def identity(plugin: Plugin, settings: Iterable[str] | None = None) -> dict[str, Any]:
    """The part of an artifact's key that identifies a plug-in: name, version, and all or some of its settings."""
    relevant = {name: value for name, value in plugin.settings.items() if settings is None or name in settings}
    return {"name": plugin.name, "settings": relevant, "version": source_version(type(plugin))}


def source_version(plugin: type[Plugin]) -> str:
    """The version that the author pinned, or a hash of the plug-in's code and of the sibling modules it imports.

    Raises `PluginError` if the source is not available.
    """
    if plugin.version is not None:
        return plugin.version
    files = sorted(_source_files(plugin.__module__, _module_file(plugin.__module__)))
    codes = [code_of(Path(file).read_bytes()) for file in files] or _interactive_sources(plugin)
    return "source:" + hashlib.sha256(b"\0".join(codes)).hexdigest()[:16]


IGNORED_FIELDS = ("kind", "type_comment", "type_ignores")
"""Fields of syntax nodes that describe how code is written, not what it does (`kind` is the u of u'text')."""


def code_of(source: bytes | str) -> bytes:
    """Canonical bytes of Python source: its syntax tree without comments, docstrings and positions.

    A string that stands alone as a statement, such as the documentation of an attribute, counts as a docstring. Source
    that does not parse, such as a notebook cell with magics, is returned unchanged except for its line endings.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        text = source.encode() if isinstance(source, str) else source
        return text.replace(b"\r\n", b"\n")
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
            siblings = [other for other in _imports(Path(file), name) if f"{other}.".startswith(f"{root}.")]
            todo.extend((other, _module_file(other)) for other in siblings if other not in files)
    return frozenset(files.values())


def _module_file(name: str) -> str | None:
    """The source file of a module; None if the name is not a module or has no source file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec else None
    return file if file and file.endswith(".py") else None


def _imports(file: Path, module: str) -> Iterator[str]:
    """Absolute names of everything that a module imports; `from a import b` may mean a module a.b."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (origin, *(f"{origin}.{alias.name}" for alias in node.names))


def _interactive_sources(plugin: type[Plugin]) -> list[bytes]:
    """The source of a class without a file: the notebook cells of its methods and of what those use.

    Cells are taken as a whole, because defaults and helpers may be in them. Plain values of attributes and of global
    names are included.
    """
    texts: set[str] = set()
    visited: set[Any] = set()
    todo: list[Any] = [base for base in plugin.__mro__ if base.__module__ == plugin.__module__]
    while todo:
        value = todo.pop()
        if value in visited:
            continue
        visited.add(value)
        if isinstance(value, type):
            texts.add(f"class {value.__qualname__}({[base.__qualname__ for base in value.__bases__]})")
            attributes = {name: item for name, item in vars(value).items() if not name.startswith("__")}
            texts |= {f"{value.__qualname__}.{name} = {_plain(item)}" for name, item in attributes.items()}
        for function in _functions(value):
            text = "".join(linecache.getlines(function.__code__.co_filename))
            if not text:
                raise PluginError(
                    f"The source of '{plugin.name}' ({plugin.__module__}) is not available: it is in no file and in no "
                    "notebook cell. Pin its `version`, or write the class to a file."
                )
            texts.add(text)
            for name in _names(function.__code__):
                used = function.__globals__.get(name)
                if isinstance(used, type | FunctionType) and used.__module__ == plugin.__module__:
                    todo.append(used)
                texts.add(f"{name} = {_plain(used)}")
    return [code_of(text) for text in sorted(texts)]


def _plain(value: object) -> str:
    """The text of a value whose text is the same in every process; empty for other values."""
    if isinstance(value, tuple | frozenset):
        parts = [_plain(item) for item in value]
        return str(sorted(parts) if isinstance(value, frozenset) else parts)
    return repr(value) if isinstance(value, bool | int | float | str) else ""


def _functions(value: Any) -> Iterator[FunctionType]:
    """A function itself, or the methods in a class's source."""
    for item in vars(value).values() if isinstance(value, type) else [value]:
        inner = getattr(item, "__func__", None) or getattr(item, "fget", None) or getattr(item, "func", None) or item
        function = inspect.unwrap(inner) if callable(inner) else inner
        # Methods that dataclasses generate belong to no cell.
        if isinstance(function, FunctionType) and function.__module__ == value.__module__ and not _generated(function):
            yield function


def _generated(function: FunctionType) -> bool:
    return function.__code__.co_filename == "<string>" and function.__name__ in ("__init__", "__repr__", "__replace__")


def _names(code: CodeType) -> Iterator[str]:
    """Global names that a function and its nested functions use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
