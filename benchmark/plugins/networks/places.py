"""Backbones named by the place of a function, `path/net.py:make`, and what was registered from such places.

Nothing here imports torch; `from_file` does the work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import Spec, parse_spec
from oodbench.benchmark.store.user_path import user_path

PLACE = re.compile(r"(?P<file>.+\.py):(?P<function>[^:]*)", re.DOTALL)

_adopted: dict[str, str] = {}
"""Name of each backbone -> the absolute place that it comes from."""


def is_place(name: str) -> bool:
    """Whether the name of a backbone is the place of a function, or comes from one."""
    return PLACE.fullmatch(name) is not None


def adopt_backbone(text: str, beside: Path | None = None) -> Spec:
    """Parse a backbone; one that is the place of a function is registered, and the spec has its name.

    `beside`: the folder that a relative path starts from; by default the working folder. Raises `UserError` if the file
    or the function is not there, or the file cannot be imported.
    """
    spec = parse_spec(text)
    found = PLACE.fullmatch(spec.name)
    if found is None and spec.name.endswith(".py"):
        raise UserError(f"The backbone '{text}' is a file. Name the function in it as well: '{spec.name}:FUNCTION'.")
    if found is None:
        return spec
    from oodbench.benchmark.plugins.networks.from_file import register

    path = (beside or Path()) / user_path(found["file"])
    name = register(path, found["function"].strip())
    _adopted[name] = f"{path.absolute()}:{found['function'].strip()}"
    return spec._replace(name=name)


def load_plugin(file: str | Path) -> None:
    """Load a plug-in file, or register the function at a place as a backbone."""
    if PLACE.fullmatch(str(file)):
        adopt_backbone(str(file))
    else:
        registry.load_file(user_path(file))


def adopted_backbones(names: Iterable[str]) -> tuple[str, ...]:
    """The places of those that were registered in this process, with absolute paths."""
    return tuple(_adopted[name] for name in names if name in _adopted)


def adopt_backbones(places: Iterable[str]) -> None:
    """Register what another process has registered, so that both use the same names."""
    for place in places:
        adopt_backbone(place)


def with_absolute_place(text: str, beside: Path | None = None) -> str:
    """A backbone with an absolute path, so that it means the same in another working folder; else the text."""
    spec = parse_spec(text)
    found = PLACE.fullmatch(spec.name)
    if found is None:
        return text
    path = ((beside or Path()) / user_path(found["file"])).absolute()
    return str(spec._replace(name=f"{path}:{found['function'].strip()}"))
