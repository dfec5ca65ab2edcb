"""What a class depends on besides the text of its modules: values, and which functions and classes it uses.

Followed are the class's bases and attributes, default arguments, closures, and the globals that its methods read; from
there the same again. A function is identified by its place among the functions of its source, so that comments and
docstrings do not count, or by its compiled code if that source is not what was executed.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import linecache
import re
import sys
from collections.abc import Mapping, Set
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.code_origin import is_outside, module_file
from oodbench.benchmark.plugins.file_access import FUNCTION, RUNS_HERE, Names, is_reader, names_in, reads_outside
from oodbench.benchmark.plugins.plugin_file import plain_name, real_name, source_of

DESCRIPTION = ("name", "title", "paper", "display_name", "cite", "version", "depends_on")
"""Attributes of a plug-in that are not part of its version."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, slice)
"""Types whose `repr` is the same in every process."""


class CodeValues:
    """Everything that a plug-in's class depends on besides the text of its modules.

    Raises `PluginError` on construction if the source of a function is in no file and in no notebook cell.
    """

    def __init__(self, plugin: type[Plugin], package: str = "") -> None:
        """`package`: the top-level package whose code is followed although it is installed, the plug-in's own."""
        self.parts: set[str] = set()
        """What was found, one text each."""
        self.cells: set[str] = set()
        """The notebook cells of functions that are in no file."""
        self.modules: set[str] = set()
        """Modules that classes and functions come from, or that functions use."""
        self.lazy: set[str] = set()
        """Modules that functions import themselves."""
        self.reads: str = ""
        """The first code found that reads files, as a phrase; empty if none does."""
        self.opaque: dict[str, str] = {}
        """For each module: the name of a value whose content cannot be identified."""
        self._plugin, self._package = plugin, package
        self._seen: dict[int, Any] = {}
        self._within: set[int] = set()
        self._todo: list[type | FunctionType] = [plugin]
        while self._todo:
            item = self._todo.pop()
            if isinstance(item, type):
                self._class(item)
            else:
                self._function(item)

    def _is_followed(self, module: str) -> bool:
        return is_outside(module) or (bool(self._package) and module.partition(".")[0] == self._package)

    def _class(self, cls: type) -> None:
        self.modules.add(cls.__module__)
        skipped = DESCRIPTION if issubclass(cls, Plugin) else ()
        bases = [self._value(base, cls.__module__) for base in (*cls.__bases__, type(cls))]
        self.parts.add(f"class {_place(cls)}({bases})")
        for name, item in vars(cls).items():
            is_code = isinstance(item, FunctionType) or _contents(item) is not None
            if name not in skipped and (is_code or not name.startswith("__")):
                self.parts.add(f"{_place(cls)}.{name} = {self._value(item, cls.__module__, name)}")

    def _function(self, function: FunctionType) -> None:
        scope, code = function.__globals__, function.__code__
        module = scope.get("__name__", "")
        self.modules.add(module)
        label, names = self._reference(function), names_in(code)
        closure = dict(zip(code.co_freevars, map(_content, function.__closure__ or ()), strict=True))
        values = {
            "defaults": function.__defaults__,
            "named defaults": function.__kwdefaults__,
            "attributes": vars(function),
            **{f"closure {name}": value for name, value in closure.items()},
            **{f"global {name}": scope[name] for name in names.globals if name in scope and name[:2] != "__"},
        }
        for name, value in values.items():
            if isinstance(value, ModuleType):
                self._module(value, names, label)
            else:
                self.parts.add(f"{label} {name} = {self._value(value, module, name)}")
        self.lazy |= {real_name(module, name) for name in names.imports}
        if (used := reads_outside(names, {**scope, **closure})) and not self.reads:
            self.reads = f"{function.__qualname__} in '{_file_of(function)}' uses {used}"

    def _module(self, module: ModuleType, names: Names, label: str) -> None:
        """What code reads from a module: attributes, and those of modules in it."""
        self.modules.add(module.__name__)
        if not self._is_followed(module.__name__):
            return
        for name in sorted(names.attributes & vars(module).keys()):
            value = vars(module)[name]
            if not isinstance(value, ModuleType):
                text = self._value(value, module.__name__, name)
                self.parts.add(f"{label} {plain_name(module.__name__)}.{name} = {text}")
            elif id(value) not in self._within:
                self._within.add(id(value))
                self._module(value, names, label)
                self._within.discard(id(value))

    def _value(self, value: Any, module: str, name: str = "") -> str:
        """A value as text that is the same in every process; functions and classes are followed.

        `module`, `name`: where it was found.
        """
        if type(value) in PLAIN:
            return repr(value)
        if is_reader(value):
            file = Path(module_file(module) or plain_name(module)).name
            self.reads = self.reads or f"'{file}' uses {value.__name__}"
        if isinstance(value, FunctionType | type):
            return self._follow(value)
        if id(value) in self._within:
            return "itself"
        self._within.add(id(value))
        try:
            return self._structure(value, module, name)
        finally:
            self._within.discard(id(value))

    def _structure(self, value: Any, module: str, name: str) -> str:
        kind, one = type(value).__name__, functools.partial(self._value, module=module, name=name)
        if isinstance(value, enum.Enum):
            return f"{one(type(value))}.{value.name}"
        if isinstance(value, Mapping):
            return f"{kind}{[(one(key), one(item)) for key, item in value.items()]}"
        if isinstance(value, Set):
            return f"{kind}{sorted(one(item) for item in value)}"
        if isinstance(value, tuple | list):
            return f"{kind}{[one(item) for item in value]}"
        if (array := _bytes_of(value)) is not None:
            return array
        if (contents := _contents(value)) is not None:
            return f"{kind}{[one(item) for item in contents]}"
        if isinstance(value, ModuleType):
            self.modules.add(value.__name__)
            return plain_name(value.__name__)
        if isinstance(value, re.Pattern):
            return f"pattern {value.pattern!r} {value.flags}"
        if self._is_followed(type(value).__module__):
            return f"{one(type(value))}{[(key, one(item)) for key, item in sorted(_state(value).items())]}"
        if not callable(value) and name and not _is_harmless(value):
            self.opaque.setdefault(module, f"{name} ({kind})")
        return f"{type(value).__module__}.{kind} {getattr(value, '__qualname__', getattr(value, '__name__', ''))}"

    def _follow(self, value: FunctionType | type) -> str:
        """Put a function or class on the list, if its code is followed; return what identifies it."""
        module = value.__module__ if isinstance(value, type) else value.__globals__.get("__name__", "")
        if not self._is_followed(module) or (isinstance(value, FunctionType) and _is_generated(value)):
            return f"{plain_name(module)}.{value.__qualname__}"
        if id(value) not in self._seen:
            self._seen[id(value)] = value  # which keeps it alive, so that its id is its own
            self._todo.append(value)
        return _place(value) if isinstance(value, type) else self._reference(value)

    def _reference(self, function: FunctionType) -> str:
        """A function, identified without line numbers."""
        text, code = _source(function), function.__code__
        module = function.__globals__.get("__name__", "")
        if not text and module in sys.modules and module_file(module) is None:
            raise PluginError(
                f"The source of '{self._plugin.name}' ({self._plugin.__module__}) is not available: it is in no file "
                "and in no notebook cell. Pin its `version`, or write the class to a file."
            )
        if text and not Path(code.co_filename).is_file():
            self.cells.add(text)
        codes = functions_in(text)
        place = str(codes.index(code)) if code in codes else _short_hash(_code_text(code))
        return f"{plain_name(module)}.{function.__qualname__}#{place}"


def _place(cls: type) -> str:
    return f"{plain_name(cls.__module__)}.{cls.__qualname__}"


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None


def _contents(value: Any) -> list[Any] | None:
    """What a property, a method, a partial or a cached function consists of; None for other values."""
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if isinstance(value, functools.partial | functools.partialmethod):
        return [value.func, value.args, value.keywords]
    if isinstance(value, functools.cached_property):
        return [value.func]
    wrapped = getattr(value, "__wrapped__", None) if callable(value) and not isinstance(value, type) else None
    return [wrapped] if wrapped is not None else None


GENERATED = re.compile("__(init|repr|replace|eq|hash|lt|le|gt|ge|setattr|delattr|getstate|setstate)__")
"""Names of the functions that dataclasses generate."""


def _is_generated(function: FunctionType) -> bool:
    """Whether a dataclass generated the function."""
    return function.__code__.co_filename == "<string>" and bool(GENERATED.fullmatch(function.__name__))


def _source(function: FunctionType) -> str:
    """The text of the file or notebook cell of a function; empty if there is none."""
    file = Path(function.__code__.co_filename)
    if file.is_file():
        return source_of(file).decode("utf-8", errors="replace")
    return "".join(linecache.getlines(str(file)))


def _file_of(function: FunctionType) -> str:
    return Path(function.__code__.co_filename).name


@functools.lru_cache(maxsize=64)
def functions_in(text: str) -> tuple[CodeType, ...]:
    """The code of all functions of a source text, in order; none if it does not compile."""
    try:
        todo = [compile(text, "source", "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return ()
    found = []
    while todo:
        code = todo.pop()
        found += [code] if code.co_flags & FUNCTION and code.co_name not in RUNS_HERE else []
        todo += [constant for constant in reversed(code.co_consts) if isinstance(constant, CodeType)]
    return tuple(found)


def _code_text(code: CodeType) -> str:
    """Compiled code as text, without file and line numbers."""
    constants = [_code_text(item) if isinstance(item, CodeType) else _constant(item) for item in code.co_consts]
    return repr((code.co_name, code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants))


def _constant(value: object) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)


def _bytes_of(value: Any) -> str | None:
    """An array, a tensor or a number of NumPy's, identified by type, shape and bytes; None for other values."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        try:
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except (RuntimeError, TypeError):  # sparse and quantised tensors
            return None
        return f"tensor {value.dtype} {tuple(value.shape)} {_short_hash(flat.tobytes())}"
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return f"array {value.dtype.str} {value.shape} {_short_hash(np.ascontiguousarray(value).tobytes())}"
    return None


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object."""
    slots = [name for cls in type(value).__mro__ for name in _names(getattr(cls, "__slots__", ()))]
    return {**{name: getattr(value, name) for name in slots if hasattr(value, name)}, **getattr(value, "__dict__", {})}


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(name for name in slots if name not in ("__dict__",))


def _is_harmless(value: Any) -> bool:
    """Whether a library's object has no content that scores could depend on, such as a logger, a path or a type."""
    module = type(value).__module__.partition(".")[0]
    return module in ("logging", "pathlib", "typing", "types", "_abc", "_thread", "threading", "__future__") or (
        module == "torch" and type(value).__name__ in ("device", "dtype", "layout", "memory_format")
    )


def _short_hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]
