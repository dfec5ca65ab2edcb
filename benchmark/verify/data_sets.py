"""Compares the images in --data-dir with those that a run's cells were computed from, for `bench verify`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from oodbench.benchmark.data.fit_images import role_of
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs.data_sets import GivenSource
from oodbench.benchmark.data.own_sets import PREFIXES, adopt
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from oodbench.benchmark.records.record import Record

ABSENT = "data sets, which are not in --data-dir"


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


class DataSets:
    """Checks every set that cells were trained, tuned or scored on; each is read once.

    Args:
        library: Loads the images.
        unchecked: Called with `ABSENT` for each cell that used a set whose images are absent.
    """

    def __init__(self, library: Library, unchecked: Callable[[str], None]) -> None:
        self.library, self.unchecked = library, unchecked
        self._found: dict[tuple[str, str, int, str, str], str] = {}

    def problems(self, record: Record) -> list[str]:
        """What is wrong with the sets of a record's provenance, a clause for each; empty if it records none."""
        found = []
        for used in record.provenance.get("data", ()):
            if (
                role_of(str(used.get("part"))) == "changed"
            ):  # made from test images, which are compared, by this machine's Pillow
                continue
            limit = used.get("limit", 0)
            # Only intervals depend on groups.
            groups = str(used.get("groups", "")) if used.get("use") == "score" else ""
            key = (str(used.get("set")), str(used.get("part")), int(limit), str(used.get("sha256")), groups)
            if key not in self._found:
                self._found[key] = self._compare(*key)
            found.append(self._found[key])
        if ABSENT in found:
            self.unchecked(ABSENT)
        return [problem for problem in dict.fromkeys(found) if problem not in ("", ABSENT)]

    def _compare(self, name: str, part: str, limit: int, sha256: str, groups: str) -> str:
        try:
            images = self.library.part(parse_set(name), part, limit)
        except OodbenchError:
            return ABSENT
        if images.checksum != sha256:
            found, expected = images.checksum, sha256
            return (
                f"{name} ({part}): SHA-256 {found[:12]} in --data-dir, but the cell was computed from {expected[:12]}"
            )
        if groups not in ("", images.groups_checksum):
            return f"{name} ({part}): its images are grouped in another way than when the cell was computed"
        return ""
