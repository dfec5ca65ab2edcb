"""The versions of the harness and of plug-ins in keys and in provenance, compared with those of this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.stage_versions import STAGE_VERSIONS
from oodbench.benchmark.plugins.code_check import version_here
from oodbench.benchmark.plugins.source_version import ONLY_IN
from oodbench.benchmark.store.store import KEY_SCHEMA

PLUGIN_FIELDS = {"detector": "detector", "candidates": "detector", "recipe": "recipe", "backbone": "backbone"}
"""Fields of keys that identify plug-ins -> their kind."""

CURRENT = {**STAGE_VERSIONS, "schema": KEY_SCHEMA}


def plugins_in(key: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Kind, name and version of the plug-ins in a key."""
    for field, kind in PLUGIN_FIELDS.items():
        values = key.get(field)
        for one in values if isinstance(values, list) else [values]:
            if isinstance(one, Mapping) and isinstance(one.get("name"), str) and isinstance(one.get("version"), str):
                yield kind, one["name"], one["version"]


def has_changed(kind: str, name: str, version: str) -> bool:
    """Whether a plug-in has another version now, or had one that only one command could use."""
    if ONLY_IN in version:
        return True
    try:
        return version_here(kind, name) != version
    except OodbenchError:
        return False
