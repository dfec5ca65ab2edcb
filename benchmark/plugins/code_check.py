"""Compares the code of plug-ins in this process with the code that a run was planned with.

A key has the version of the code that the plan was made with. Another process, on this machine or another, imports a
plug-in's files itself, and they may differ there or have been edited since.
"""

from __future__ import annotations

from typing import NamedTuple

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import declared_files_changed, known_version


class UsedPlugin(NamedTuple):
    """A plug-in that a run uses, with the version of its code."""

    kind: str
    """detector, recipe, backbone, dataset or form."""
    name: str
    version: str
    """As `SourceVersion.version`."""

    @property
    def title(self) -> str:
        """Kind and name for people."""
        return f"{self.kind.replace('dataset', 'data set')} '{self.name}'"


def version_here(kind: str, name: str) -> str:
    """The version of a plug-in's code in this process.

    Raises `OodbenchError` if the plug-in is unknown here or cannot be loaded.
    """
    return known_version(registry.get(kind, name)).version


def other_code(used: UsedPlugin) -> str:
    """How a plug-in's code in this process differs from what a run was planned with, as a clause; empty if it does not.

    Files that the plug-in declares (`Plugin.depends_on`) are read each time, because its code may read them at any
    time.
    """
    try:
        plugin: type[Plugin] = registry.get(used.kind, used.name)
        here = known_version(plugin).version
    except OodbenchError as error:
        return f"{used.title} cannot be loaded: {error}"
    if here != used.version:
        return f"{used.title} has another source version, {here} in place of {used.version}"
    if declared_files_changed(plugin):
        return f"a file that {used.title} declares in depends_on has been changed since"
    return ""
