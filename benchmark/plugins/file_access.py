"""Finds code whose result depends on more than code and values: files that it opens, computed imports, `exec`.

Names are looked up in compiled code. `open` and `read_text` count on every object; an attribute such as `load` counts
if a library that the code uses has a function of that name. Code that is reported although it reads nothing costs time,
and no wrong number.
"""

from __future__ import annotations

import builtins
import dis
import re
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from oodbench.benchmark.plugins.code_origin import is_outside

OF_ANY_OBJECT = re.compile(
    "open|read_text|read_bytes|urlopen|urlretrieve|from_pretrained|load_state_dict_from_url|import_module|__import__|"
    "getenv|environ|run_path|run_module|exec_module|load_module|loadtxt|genfromtxt|fromfile|memmap|loadmat"
)
"""Attributes that read something outside the code, on whatever object."""

OF_LIBRARIES = re.compile(
    "exec|eval|load|load_file|imread|read_.*|fdopen|mmap|safe_open|reload|connect|get_data|popen|system|run|call|"
    "check_output|check_call|Popen|CDLL|load_dataset"
)
"""Functions of libraries that read something outside the code: `np.load`, `json.load`, `subprocess.run`."""

RUNS_HERE = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
"""Names of nested code that runs where it is written."""

FUNCTION = 0x1
"""The flag of code that belongs to a function and not to a module or class body."""

KINDS = {
    "LOAD_GLOBAL": "global",
    "LOAD_NAME": "global",
    "LOAD_FROM_DICT_OR_GLOBALS": "global",
    "LOAD_ATTR": "attribute",
    "LOAD_METHOD": "attribute",
    "LOAD_SUPER_ATTR": "attribute",
    "IMPORT_FROM": "attribute",
    "IMPORT_NAME": "import",
}
"""Instructions -> the kind of name that they use."""


class Names(NamedTuple):
    """The names that a piece of code uses."""

    globals: frozenset[str]
    """Global and built-in names."""
    attributes: frozenset[str]
    """Attributes, and names that it imports from modules."""
    imports: frozenset[str]
    """Modules that it imports."""


def names_in(code: CodeType, functions: bool = True) -> Names:
    """The names in a piece of code; with `functions=False`, without those of functions that are only defined there."""
    found: dict[str, set[str]] = {"global": set(), "attribute": set(), "import": set()}
    for part in _parts(code, functions):
        for instruction in dis.get_instructions(part):
            kind = KINDS.get(instruction.opname)
            if kind and isinstance(instruction.argval, str):
                found[kind].add(instruction.argval)
    return Names(*map(frozenset, (found["global"], found["attribute"], found["import"])))


def _parts(code: CodeType, functions: bool) -> Iterator[CodeType]:
    """A piece of code and the code nested in it."""
    yield code
    for constant in code.co_consts:
        runs_here = not getattr(constant, "co_flags", 0) & FUNCTION or getattr(constant, "co_name", "") in RUNS_HERE
        if isinstance(constant, CodeType) and (functions or runs_here):
            yield from _parts(constant, functions)


def reads_outside(names: Names, scope: Mapping[str, Any]) -> str:
    """The first name with which code reads a file, imports or executes text; empty if there is none.

    `scope`: the values of global names.
    """
    for name in sorted(names.globals):
        if is_reader(scope.get(name, getattr(builtins, name, None))):
            return name
    libraries = [module for module in _modules(names, scope) if not is_outside(module.__name__)]
    for name in sorted(names.attributes):
        of_library = OF_LIBRARIES.fullmatch(name) and any(name in vars(module) for module in libraries)
        if of_library or OF_ANY_OBJECT.fullmatch(name):
            return name
    return ""


def is_reader(value: Any) -> bool:
    """Whether a value is a library's function that reads something, such as `load` after `from json import load`."""
    module = getattr(value, "__module__", None)
    is_library = isinstance(module, str) and not module.startswith("oodbench.") and not is_outside(module)
    name = str(getattr(value, "__name__", ""))
    return callable(value) and is_library and bool(OF_ANY_OBJECT.fullmatch(name) or OF_LIBRARIES.fullmatch(name))


def _modules(names: Names, scope: Mapping[str, Any]) -> list[ModuleType]:
    """The modules that code uses: global names, what it imports itself, and modules that are attributes of these."""
    values = [scope.get(name) for name in names.globals] + [sys.modules.get(name) for name in names.imports]
    found = {value.__name__: value for value in values if isinstance(value, ModuleType)}
    todo = list(found.values())
    while todo:
        module = todo.pop()
        for name in names.attributes:
            value = vars(module).get(name)
            if isinstance(value, ModuleType) and value.__name__ not in found:
                found[value.__name__] = value
                todo.append(value)
    return [module for module in found.values() if not module.__name__.startswith("oodbench.")]
