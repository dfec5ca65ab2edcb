"""The version of a plug-in: what its author pinned, else a hash of the source code that it consists of.

The source is the plug-in's file and the modules of its own package that it imports; for a class defined in a notebook,
the cells that define it and what its methods use. Only the syntax tree counts, without comments and docstrings: editing
prose or reformatting recomputes nothing.
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
    """What of a plug-in goes into a key: name, version, and its settings, or those of them that matter there."""
    kept = {name: value for name, value in plugin.settings.items() if settings is None or name in settings}
    return {"name": plugin.name, "settings": kept, "version": source_version(type(plugin))}


def source_version(plugin: type[Plugin]) -> str:
    """The version an author pinned, or else a hash of the plug-in's code and of the modules of its package it imports.

    Raises `PluginError` if the source is not available.
    """
    if plugin.version is not None:
        return plugin.version
    files = sorted(_source_files(plugin.__module__, _module_file(plugin.__module__)))
    codes = [code_of(Path(file).read_bytes()) for file in files] or _typed(plugin)
    return "source:" + hashlib.sha256(b"\0".join(codes)).hexdigest()[:16]


IGNORED_FIELDS = ("kind", "type_comment", "type_ignores")
"""Fields of syntax nodes that say how code is written and not what it does (`kind` is the u of u'text')."""


def code_of(source: bytes | str) -> bytes:
    """What Python source does, as canonical bytes: its syntax tree without comments, docstrings and positions.

    A string that stands alone as a statement, such as the documentation of an attribute, counts as a docstring. Source
    that does not parse, such as a notebook cell with magics, is returned as it is, with line endings normalised.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        text = source.encode() if isinstance(source, str) else source
        return text.replace(b"\r\n", b"\n")
    return _written(tree).encode()


def _written(node: Any) -> str:
    """A syntax node as text that is the same in every version of Python: names of types, fields that are not empty."""
    if isinstance(node, list):
        kept = [item for item in node if not _is_docstring(item)]
        return f"[{','.join(map(_written, kept))}]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__}:{node!r}"
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in IGNORED_FIELDS]
    kept_fields = [f"{name}={_written(value)}" for name, value in fields if value is not None and value != []]
    return f"{type(node).__name__}({','.join(kept_fields)})"


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _source_files(module: str, file: str | None) -> frozenset[str]:
    """The files of a module and of what it imports, directly or not, from its own package.

    Of ours, that is the folder beside it (shared helpers, parent recipes); of another distribution, all of it.
    """
    root = module.rpartition(".")[0] if module.startswith("oodbench.") else module.partition(".")[0]
    files: dict[str, str] = {}
    todo = [(module, file)]
    while todo:
        name, file = todo.pop()
        if file is not None and name not in files:
            files[name] = file
            inside = [other for other in _imports(Path(file), name) if f"{other}.".startswith(f"{root}.")]
            todo.extend((other, _module_file(other)) for other in inside if other not in files)
    return frozenset(files.values())


def _module_file(name: str) -> str | None:
    """Where a module's source is; None for what is no module, or is not there."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec else None
    return file if file and file.endswith(".py") else None


def _imports(file: Path, module: str) -> Iterator[str]:
    """Absolute names of all that a module imports; `from a import b` may mean a module a.b."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (origin, *(f"{origin}.{alias.name}" for alias in node.names))


def _typed(plugin: type[Plugin]) -> list[bytes]:
    """The source of a class without a file: the text typed together with each of its methods and what those use.

    Whole cells, because defaults and helpers are there, too; and the plain values of attributes and of global names.
    """
    texts: set[str] = set()
    seen: set[Any] = set()
    todo: list[Any] = [base for base in plugin.__mro__ if base.__module__ == plugin.__module__]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if isinstance(value, type):
            texts.add(f"class {value.__qualname__}({[base.__qualname__ for base in value.__bases__]})")
            own = {name: item for name, item in vars(value).items() if not name.startswith("__")}
            texts |= {f"{value.__qualname__}.{name} = {_plain(item)}" for name, item in own.items()}
        for function in _functions(value):
            text = "".join(linecache.getlines(function.__code__.co_filename))
            if not text:
                raise PluginError(
                    f"The source of '{plugin.name}' ({plugin.__module__}) is in no file and cannot be had "
                    "otherwise; pin its `version` or write it to a file."
                )
            texts.add(text)
            for name in _names(function.__code__):
                used = function.__globals__.get(name)
                if isinstance(used, type | FunctionType) and used.__module__ == plugin.__module__:
                    todo.append(used)
                texts.add(f"{name} = {_plain(used)}")
    return [code_of(text) for text in sorted(texts)]


def _plain(value: object) -> str:
    """A value that is the same in every process, written; empty for others."""
    if isinstance(value, tuple | frozenset):
        parts = [_plain(item) for item in value]
        return str(sorted(parts) if isinstance(value, frozenset) else parts)
    return repr(value) if isinstance(value, bool | int | float | str) else ""


def _functions(value: Any) -> Iterator[FunctionType]:
    """A function, or the methods that a class's author wrote."""
    for item in vars(value).values() if isinstance(value, type) else [value]:
        inner = getattr(item, "__func__", None) or getattr(item, "fget", None) or getattr(item, "func", None) or item
        function = inspect.unwrap(inner) if callable(inner) else inner
        # What dataclasses write has the name of no cell.
        if isinstance(function, FunctionType) and function.__module__ == value.__module__ and not _generated(function):
            yield function


def _generated(function: FunctionType) -> bool:
    return function.__code__.co_filename == "<string>" and function.__name__ in ("__init__", "__repr__", "__replace__")


def _names(code: CodeType) -> Iterator[str]:
    """Global names that a function and those inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
