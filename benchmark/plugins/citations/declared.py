"""What the decorators of a file say of its plug-ins, read without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Declared(NamedTuple):
    """The literals of one decorator, `@kind("name", title="...")`."""

    name: str
    title: str = ""
    display_name: str = ""
    cite: str = ""


def declared_in(file: Path, kind: str) -> Iterator[Declared]:
    """What the decorators of one kind say in a file; what is not written as a literal is left empty."""
    for node in ast.parse(file.read_bytes()).body:
        for call in getattr(node, "decorator_list", []):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == kind:
                literals = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
                if call.args and isinstance(call.args[0], ast.Constant):
                    known = {name: str(literals.get(name) or "") for name in Declared._fields[1:]}
                    yield Declared(str(call.args[0].value), **known)
