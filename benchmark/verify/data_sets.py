"""Compares the images in --data-dir with those that a run's cells were computed from, for `bench verify`."""

from __future__ import annotations

from collections.abc import Callable

from oodbench.benchmark.data.fit_images import role_of
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.record import Record

ABSENT = "data sets, which are not in --data-dir"


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
