"""The user's own sets and arrays that a finished run was made from, so that other commands find the same images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from oodbench.benchmark.data.outputs.data_sets import GivenSource
from oodbench.benchmark.data.own_sets import PREFIXES, adopt
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plugins.specs import SetSpec


def adopt_folders(info: Mapping[str, Any]) -> None:
    """Register the user's own sets, `folder:PATH`, `list:FILE.txt` and given arrays, by the paths in `run.json`."""
    for source in given_sources(info):
        with suppress(OodbenchError):
            adopt(SetSpec(source.text))
    data = info.get("data")
    # A name with a folder in front of it was given because another set had the shorter one, which so comes first.
    sets = sorted(data.items(), key=lambda item: str(item[0]).count("/")) if isinstance(data, dict) else ()
    for name, files in sets:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), "")
        for path in files if prefix and isinstance(files, dict) else ():
            with suppress(OodbenchError):
                adopt(SetSpec(f"{prefix}{path}"))


def given_sources(info: Mapping[str, Any]) -> list[GivenSource]:
    """Where the arrays are that a run's commands were given."""
    commands = info.get("commands")
    found = [command for command in commands if isinstance(command, dict)] if isinstance(commands, list) else []
    sources = []
    for command in found:
        outputs, scores, higher = (command.get(name) for name in ("outputs", "scores", "higher"))
        if outputs or scores:
            sources.append(GivenSource(tuple(map(str, outputs or ())), str(scores or ""), str(higher or "")))
    return sorted(sources, key=lambda source: bool(source.scores))  # which comes last, has the scores as well
