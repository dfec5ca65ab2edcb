"""The user's own data sets, named on the command line or in a suite without code: `folder:PATH` and `list:FILE.txt`.

Sets whose arrays are given (`data.outputs`) are registered here for other processes; no one types their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from oodbench.benchmark.data.files import user_folder
from oodbench.benchmark.data.files.user_folder import Role
from oodbench.benchmark.data.lists import user_list
from oodbench.benchmark.data.outputs.data_sets import GivenSource, register_given, registered_sources
from oodbench.benchmark.plugins.specs import SetSpec

PREFIXES = (*user_folder.PREFIXES, user_list.PREFIX)


def is_own(name: str) -> bool:
    """Whether a name is that of a user's own set, or gives the place of one."""
    return name.strip().startswith(PREFIXES)


def adopt(spec: SetSpec, role: Role = "", beside: Path | None = None) -> SetSpec:
    """Register the set at `folder:PATH` or `list:FILE.txt` under its name in tables, and return the spec with that.

    Other specs are returned unchanged. `role` and `beside`: as for folders (`user_folder.adopt`). Raises `UserError`
    for a place that does not exist or cannot be used.
    """
    if (given := GivenSource.parse(spec.name)) is not None:
        return register_given(given).id_set
    if spec.name.startswith(user_list.PREFIX):
        return user_list.adopt_list(spec, beside)
    return user_folder.adopt(spec, role, beside)


def adopted() -> tuple[str, ...]:
    """What was registered in this process, with the paths in place of the names."""
    return (*user_folder.adopted(), *user_list.adopted_lists(), *registered_sources())


def adopt_all(named: Iterable[str]) -> None:
    """Register what another process has registered, so that both use the same names."""
    for name in named:
        adopt(SetSpec(name))


def with_absolute_path(text: str) -> str:
    """A user's own set with an absolute path, so that it means the same in another working folder; else the text."""
    if text.strip().startswith(user_list.PREFIX):
        return user_list.with_absolute_path(text)
    return user_folder.with_absolute_path(text)
