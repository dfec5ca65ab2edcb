"""Finds the images behind a cell's scores in the data library, where they are available: a store only has scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oodbench.benchmark.data.fit_images import role_of
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.beside import RecordOfRun
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.rows import own_set

SCORED = ("test", "scored")
"""Roles of the parts of a set on which cells are scored."""

ABSENT, OTHERS = "whose images are not in --data-dir", "because the images in --data-dir differ from those scored"


class ScoredImages:
    """Looks up the images on which cells were scored, from the cells' records."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._found: dict[tuple[str, ...], ImageSet | str] = {}

    def of(self, record: Record, name: str, count: int) -> ImageSet | str:
        """The `count` scored images of the record's ID or OOD set `name`, or a string that says why there are none."""
        return self.known(self.used(record, name, count))

    def used(self, record: Record, name: str, count: int) -> Mapping[str, Any]:
        """The record's provenance of those images; for records of older versions, what it must have been."""
        name = own_set(record, name)
        used = [one for one in record.provenance.get("data", ()) if one.get("use") == "score" and _is(one, name)]
        return used[0] if used else {"set": name, "part": "test", "images": count}

    def known(self, used: Mapping[str, Any]) -> ImageSet | str:
        """The images described by a record's provenance: `set`, `part`, `images`; the rest if known."""
        wanted = tuple(str(used.get(name, "")) for name in ("set", "part", "images", "sha256", "groups", "limit"))
        if wanted not in self._found:
            self._found[wanted] = self._load(*wanted)
        return self._found[wanted]

    def _load(self, name: str, part: str, count: str, sha256: str, groups: str, limit: str) -> ImageSet | str:
        try:
            images = self.library.part(parse_set(name), part, int(limit or 0))
        except OodbenchError:
            return ABSENT
        same = str(len(images)) == count and sha256 in ("", images.checksum) and groups in ("", images.groups_checksum)
        return images if same else OTHERS


def _is(used: Mapping[str, Any], name: str) -> bool:
    return used.get("set") == name and role_of(str(used.get("part"))) in SCORED


class ImagesOfRuns(ScoredImages):
    """Looks up the images of several runs side by side, each as its own networks got them.

    Args:
        of_run: Name of a run -> where its images are looked up.
    """

    def __init__(self, of_run: Mapping[str, ScoredImages]) -> None:
        super().__init__(next(iter(of_run.values())).library)
        self._of_run = of_run

    def of(self, record: Record, name: str, count: int) -> ImageSet | str:
        """As in `ScoredImages`."""
        own = self._of_run.get(record.run) if isinstance(record, RecordOfRun) else None
        return super().of(record, name, count) if own is None else own.of(record, name, count)
