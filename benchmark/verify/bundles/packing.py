"""Collects the members of a bundle: scores, groups, classifications, and documents without what is private."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.errors import UserError, first_line
from oodbench.benchmark.metrics.extended import NO_VALIDATION, ClassifiedImages
from oodbench.benchmark.metrics.names import METRICS_VERSION
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.records.best import inputs_of, stored_best
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.environment import made_now
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.record import SCHEMA as RECORD_SCHEMA
from oodbench.benchmark.records.rows import tell_apart
from oodbench.benchmark.records.run import read_as_written, read_stored_run
from oodbench.benchmark.stats.intervals import INTERVALS_VERSION
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.store.schema import convert
from oodbench.benchmark.store.store import read_side
from oodbench.benchmark.verify.bundles.container import (
    BEST,
    CLASSIFIED,
    GROUPS,
    KEYS,
    MANIFEST,
    RECORDS,
    RUN,
    SCORES,
    WEIGHTS,
    member,
)
from oodbench.benchmark.verify.bundles.contents import FORMAT, SCHEMA, Classification, Contents, SetOfImages
from oodbench.benchmark.verify.bundles.images import SummarisedImages, npy_bytes
from oodbench.benchmark.verify.bundles.private import Private, given_hashes, texts
from oodbench.benchmark.verify.recompute import logits_behind

RECORDS_EACH, KEYS_EACH = 256, 4096
"""Records and keys in one document; it stays below what is read of a JSON file."""

REPEAT = "Repeat the command that made the run: it computes only what is missing."


@dataclass
class Packing:
    """Collects the members of one bundle."""

    folder: Path
    """The run's."""
    cache: Path
    images: ScoredImages
    name: str
    members: dict[str, bytes | Path] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    sets: dict[tuple[str, str, int, str], SetOfImages] = field(default_factory=dict)
    classified: dict[str, Classification] = field(default_factory=dict)
    calibrated: set[str] = field(default_factory=set)
    """Digests of logits of which `classified` has calibration, too."""

    def collect(self, weights: bool) -> None:
        """Collect all members, and `bundle.json` last."""
        info, records = read_as_written(self.folder)
        found = list(records.values())
        paths = {str(one["path"]): one for record in found for one in record.provenance.get("artifacts", ())}
        by_key = {str(one["key"]): path for path, one in paths.items()}
        for record in (record for record in found if record.status == OK):
            for digest_or_path in _scored(record):
                self._scores(by_key.get(digest_or_path, digest_or_path), record)
            for side in ("id", "ood"):
                self._set(record, side)
            self._classification(record, by_key)
        if weights:
            for path in (path for path, one in paths.items() if one["kind"] == "checkpoint"):
                self._weights(path)
        self._documents(info, records, paths)

    def _scores(self, path: str, record: Record) -> None:
        if path in self.artifacts:
            return
        try:
            content = (self.cache / path).read_bytes()
        except OSError as error:
            raise UserError(
                f"The scores of '{cell_name(record)}', '{path}', are not in the store '{self.cache}'. {REPEAT}"
            ) from error
        name = member(SCORES, content)
        self.members[name], self.artifacts[path] = content, name

    def _set(self, record: Record, side: str) -> None:
        """Note the scored images of one side of a cell, with their groups."""
        known = record.origin["images"][side]
        place = (known["checksum"], known["part"], int(known["images"]), known.get("groups", ""))
        if place in self.sets:
            return
        file = ""
        if place[3]:
            name = record.id_set if side == "id" else record.ood_set
            groups = self._found(record, name, place[2]).groups
            content = npy_bytes(np.asarray(groups, dtype="<i8"))
            file = member(GROUPS, content)
            self.members[file] = content
        self.sets[place] = SetOfImages(*place, file)

    def _found(self, record: Record, name: str, count: int) -> ImageSet:
        images = self.images.of(record, name, count)
        if isinstance(images, str):
            raise UserError(
                f"The images of '{name}', of which labels and groups are needed, are not those of the run: a set "
                f"{images}. Give their folder with --data-dir."
            )
        return images

    def _classification(self, record: Record, by_key: Mapping[str, str]) -> None:
        """Note how the classifier did on the ID images, and on the shifted forms of the extended metrics."""
        if record.id_accuracy is None:
            return
        logits = record.provenance["key"].get("id") or ""
        calibrated = bool(record.extended)
        used = self.images.used(record, record.id_set, record.n_id or 0)
        self._classify(logits, used, calibrated, by_key, record)
        version, *digests = record.provenance["key"].get("extended") or [""]
        for scores in digests[1:] if version else ():  # the first are of validation images
            key = read_side(self.cache / by_key.get(scores, "")).get("key", {})
            data = record.provenance.get("data", ())
            found = logits_behind(key)
            of_logits = read_side(self.cache / by_key.get(found, "")).get("key", {}).get("data")
            self._classify(
                found, next((one for one in data if one.get("sha256") == of_logits), {}), False, by_key, record
            )

    def _classify(
        self, logits: str, used: Mapping[str, Any], calibrated: bool, by_key: Mapping[str, str], record: Record
    ) -> None:
        if logits in self.classified and (not calibrated or logits in self.calibrated):
            return
        images = self.images.known(used)
        if isinstance(images, str) or images.labels is None:
            why = images if isinstance(images, str) else "without labels"
            raise UserError(
                f"The labels of '{used.get('set')}', which the ID accuracy of '{cell_name(record)}' needs, are not "
                f"known: a set {why}. Give the folder of the images with --data-dir."
            )
        try:
            array = load_array(self.cache / by_key[logits])
        except (KeyError, OSError, ValueError) as error:
            raise UserError(
                f"The logits of '{used.get('set')}' are not in the store '{self.cache}' ({first_line(error)}). {REPEAT}"
            ) from error
        summary = SummarisedImages.of_images(ClassifiedImages(array, images.labels), calibrated)
        content = npy_bytes(summary.to_array())
        file = member(CLASSIFIED, content)
        if logits in self.classified:
            self.members.pop(self.classified[logits].file)
        self.members[file] = content
        self.classified[logits] = Classification(images.checksum, file)
        if calibrated:
            self.calibrated.add(logits)

    def _weights(self, path: str) -> None:
        file = self.cache / path
        sha256 = read_side(file).get("sha256")
        if not file.is_file() or not isinstance(sha256, str):
            raise UserError(f"The weights '{path}' are not in the store '{self.cache}'. Leave out --weights.")
        name = f"{WEIGHTS}/{sha256}.safetensors"
        self.members[name], self.artifacts[path] = file, name

    def _documents(self, info: dict[str, Any], records: Mapping[str, Record], paths: Mapping[str, Any]) -> None:
        """Add the JSON documents, without what is private."""
        private = Private(info, (self.folder, self.cache, Path.cwd(), Path.home()))
        private.rename_given(_checksums_of_given(records.values()))
        written = {name: private.record({"schema": RECORD_SCHEMA, **asdict(one)}) for name, one in records.items()}
        names = {name: convert(record, Record).file_name for name, record in written.items()}
        if len(set(names.values())) < len(names):
            raise UserError(
                f"Two cells of run '{self.name}' have one name once paths are left out. Rename one of its files."
            )
        listed = {names[name]: record for name, record in written.items()}
        documents: dict[str, Any] = {RUN: private.info(info, private.text(self.name), names)}
        documents |= _numbered(RECORDS, listed, RECORDS_EACH)
        documents |= _numbered(
            KEYS, {private.text(path): self._key(path, one) for path, one in paths.items()}, KEYS_EACH
        )
        after, _ = tell_apart([convert(record, Record) for record in written.values()], documents[RUN].get("pairs", ()))
        if (best := _best(self.folder, read_stored_run(self.folder).records, after)) is not None:
            documents[BEST] = best
        self.members |= {name: _document(value) for name, value in documents.items()}
        self.artifacts = {private.text(path): name for path, name in self.artifacts.items()}
        contents = self._contents(private)
        self.members[MANIFEST] = _document(asdict(contents))
        for name, value in [*documents.items(), (MANIFEST, asdict(contents))]:
            if leak := next(filter(None, map(private.leak, texts(value))), ""):
                raise UserError(
                    f"'{leak}' would be in {name} of the bundle, which names no path of the author's machine. It is "
                    "part of a setting or a key, which cannot be changed afterwards: give a relative path there, and "
                    "run again."
                )

    def _key(self, path: str, known: Mapping[str, Any]) -> dict[str, Any]:
        side = read_side(self.cache / path)
        if not isinstance(side.get("key"), dict) or side.get("digest") != known["key"]:
            raise UserError(
                f"'{path}' is not in the store '{self.cache}', or is not what the run was computed from. {REPEAT}"
            )
        return {"key": side["key"], "sha256": str(known["sha256"])}

    def _contents(self, private: Private) -> Contents:
        made = {name: value for name, value in made_now().items() if name != "written"}
        members = {name: _sha256(name, content) for name, content in sorted(self.members.items())}
        return Contents(
            SCHEMA,
            FORMAT,
            private.text(self.name),
            made,
            {"metrics": METRICS_VERSION, "intervals": INTERVALS_VERSION},
            members,
            dict(sorted(self.artifacts.items())),
            [self.sets[place] for place in sorted(self.sets)],
            dict(sorted(self.classified.items())),
        )


def _scored(record: Record) -> Iterator[str]:
    """The arrays of scores behind a cell's numbers: paths, and digests of keys."""
    yield from (
        record.artifacts[name] for name in ("id_scores", "ood_scores", "changed_scores") if name in record.artifacts
    )
    _, *digests = record.provenance["key"].get("extended") or [""]
    yield from (one for one in digests if one != NO_VALIDATION)


def _checksums_of_given(records: Iterable[Record]) -> dict[str, set[str]]:
    """Hash in the names of given arrays -> checksums of their images."""
    found: dict[str, set[str]] = {}
    for record in records:
        for side, name in (("id", record.id_set), ("ood", record.ood_set)):
            for of_place in given_hashes(name):
                found.setdefault(of_place, set()).add(record.origin.get("images", {}).get(side, {}).get("checksum", ""))
    return found


def _numbered(folder: str, documents: Mapping[str, Any], each: int) -> dict[str, Any]:
    """Documents by name, in numbered members of at most `each`."""
    names = sorted(documents)
    parts = [names[start : start + each] for start in range(0, len(names), each)]
    return {f"{folder}/{number:04}.json": {name: documents[name] for name in part} for number, part in enumerate(parts)}


def _best(folder: Path, before: Sequence[Record], after: Sequence[Record]) -> dict[str, Any] | None:
    """The marks of a run for its records in the bundle, `after`, in which labels and names may have lost a path.

    None if they are of other records than `before`, the run's.
    """
    stored = stored_best(folder)
    if stored is None or stored.inputs != inputs_of(before):
        return None
    labels = {(one.id_set, one.label): other.label for one, other in zip(before, after, strict=True)}
    sets = {one.id_set: other.id_set for one, other in zip(before, after, strict=True)}
    sets |= {one.ood_set: other.ood_set for one, other in zip(before, after, strict=True)}
    columns = [
        {
            **asdict(judged),
            "id_set": sets.get(judged.id_set, judged.id_set),
            "ood_set": sets.get(judged.ood_set, judged.ood_set),
            **{
                name: [labels.get((judged.id_set, label), label) for label in getattr(judged, name)]
                for name in ("compete", "may_be_best")
            },
        }
        for judged in stored.columns
    ]
    return {"inputs": inputs_of(after), "whole": stored.whole, "columns": columns}


def _document(value: Any) -> bytes:
    """JSON in one form: sorted names, no spaces, one line."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode() + b"\n"


def _sha256(name: str, content: bytes | Path) -> str:
    """The SHA-256 of a member; arrays and weights are named by it."""
    stem = Path(name).stem
    return stem if isinstance(content, Path) or len(stem) == 64 else hashlib.sha256(content).hexdigest()
