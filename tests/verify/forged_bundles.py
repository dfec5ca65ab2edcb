"""What a forger does with a bundle: changes its content, and makes hashes and names agree again as far as wanted."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.metrics.exact import Counts, evaluate, ties_of
from oodbench.benchmark.stats.intervals import confidence_intervals
from oodbench.benchmark.store.store import digest
from oodbench.benchmark.verify.bundles.container import MANIFEST, write_zip


class Forged:
    """The members of a bundle, to be changed."""

    def __init__(self, file: Path) -> None:
        with zipfile.ZipFile(file) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        self.contents: dict[str, Any] = json.loads(self.members.pop(MANIFEST))
        self.records: dict[str, Any] = json.loads(self.members.pop("records/0000.json"))
        self.keys: dict[str, Any] = json.loads(self.members.pop("keys/0000.json"))
        self.info: dict[str, Any] = json.loads(self.members.pop("run.json"))

    def write(self, file: Path) -> Path:
        """Write it with hashes that agree."""
        self.members["records/0000.json"] = json.dumps(self.records).encode()
        self.members["keys/0000.json"] = json.dumps(self.keys).encode()
        self.members["run.json"] = json.dumps(self.info).encode()
        self.contents["members"] = {name: hashlib.sha256(content).hexdigest() for name, content in self.members.items()}
        members: dict[str, bytes | Path] = {**self.members, MANIFEST: json.dumps(self.contents).encode()}
        with file.open("wb") as out:
            write_zip(out, members)
        return file

    def record(self, detector: str, ood: str, seed: int = 0) -> dict[str, Any]:
        """A cell's record."""
        cells = self.records.values()
        return next(r for r in cells if (r["detector"], r["ood_set"], r["seed"]) == (detector, ood, seed))

    def scores(self, path: str) -> np.ndarray:
        """An array of scores, by its path in a store."""
        found: np.ndarray = np.load(io.BytesIO(self.members[self.contents["artifacts"][path]]))
        return found

    def put_scores(self, path: str, scores: np.ndarray) -> None:
        """Replace an array of scores, with its hash wherever that stands."""
        out = io.BytesIO()
        np.save(out, scores)
        old, new = self.contents["artifacts"][path], hashlib.sha256(out.getvalue()).hexdigest()
        self.contents["artifacts"][path] = f"scores/{new}.npy"
        self.members[f"scores/{new}.npy"] = out.getvalue()
        if old not in self.contents["artifacts"].values():
            del self.members[old]
        self.keys[path]["sha256"] = new
        for record in self.records.values():
            for artifact in record["provenance"]["artifacts"]:
                if artifact["path"] == path:
                    artifact["sha256"] = new

    def recount(self, record: dict[str, Any], *groups: np.ndarray | None) -> None:
        """Give a record the numbers of its scores, as somebody would who makes up scores."""
        id_scores, ood_scores = pair = [self.scores(record["artifacts"][f"{side}_scores"]) for side in ("id", "ood")]
        values = evaluate(*pair)
        record["tpr"] = values.pop("tpr")
        record["metrics"], record["ties"] = values, ties_of(Counts.of(*pair))
        record["intervals"] = confidence_intervals(id_scores, ood_scores, *groups)
        record["provenance"]["key"] = {**record["provenance"]["key"]}
        record["key"] = digest(record["provenance"]["key"])


def rewrite(source: Path, target: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """Write a copy of a bundle with other members, whose hashes agree."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    contents = json.loads(members.pop(MANIFEST))
    change(members)
    contents["members"] = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    with target.open("wb") as out:
        write_zip(out, {**members, MANIFEST: json.dumps(contents).encode()})
    return target


def forge(source: Path, target: Path, change: Callable[[Forged], object]) -> Path:
    """Write a changed copy of a bundle."""
    forged = Forged(source)
    change(forged)
    return forged.write(target)
