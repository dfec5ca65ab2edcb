"""Checks a bundle by itself: every metric, interval and mark is computed again from its scores.

A bundle may come from anyone, so what is not there is a problem here, where `bench verify` of a run says that it was
not checked: a bundle without intervals, without groups, or of other versions of the metrics is refused. What no check
can find are scores that were made up, with keys and checksums to match; `docs/guides/leaderboard.md` says what helps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from oodbench.benchmark.errors import OodbenchError, visible
from oodbench.benchmark.metrics.names import METRICS, METRICS_VERSION, TIES
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stats.intervals import INTERVALS_VERSION
from oodbench.benchmark.store.store import digest
from oodbench.benchmark.verify.bundles.container import LIMITS, Limits
from oodbench.benchmark.verify.bundles.images import BundleImages, BundleRecompute
from oodbench.benchmark.verify.bundles.unpack import Unpacked, unpack
from oodbench.benchmark.verify.joined_rows import JoinedRows
from oodbench.benchmark.verify.recompute import outputs_behind
from oodbench.benchmark.verify.run import Verdict, Verifier

BY_RULES = "values by other metric rules"
"""What needs the detector's code, which the receiver may not have; no board shows it."""

OUTLIERS = "train on outliers"
"""The purpose of a set in a cell's provenance."""


def check_file(file: Path, limits: Limits = LIMITS) -> Verdict:
    """Check a bundle; a file that is not a bundle that can be read is a verdict with one problem."""
    with tempfile.TemporaryDirectory(prefix="oodbench-bundle-") as folder:
        try:
            return check_unpacked(unpack(file, Path(folder) / "results", limits))
        except OodbenchError as error:
            return Verdict([str(error)])


def bundle_images(bundle: Unpacked) -> BundleImages:
    """The images that cells of a bundle were scored on, with their groups. Raises `UserError` for wrong groups."""
    return BundleImages(tuple(bundle.contents.images), bundle.groups)


def check_unpacked(bundle: Unpacked) -> Verdict:
    """Check a bundle that has been unpacked; problems name files of the bundle, not where they were unpacked to."""
    try:
        verdict = _OfBundle(bundle).verdict()
    except OodbenchError as error:
        verdict = Verdict([str(error)])
    verdict.problems = [problem.replace(f"{bundle.run_dir}/", "") for problem in verdict.problems]
    verdict.problems = [problem.replace(f"{bundle.cache}/", "") for problem in verdict.problems]
    return verdict


class _OfBundle(Verifier):
    """The verification of a bundle, by what is in it alone."""

    def __init__(self, bundle: Unpacked) -> None:
        super().__init__(bundle.run_dir, bundle.cache, bundle_images(bundle))
        self.bundle = bundle
        recompute = BundleRecompute(self.images, self.undamaged_artifact)
        recompute.known = {
            logits: (one, bundle.classified[one.file]) for logits, one in bundle.contents.classified.items()
        }
        self.recompute = recompute
        self.by_digest = {digest(key): key for key in bundle.keys.values()}

    def verdict(self) -> Verdict:
        result = super().verdict()
        for what, count in list(result.unchecked.items()):
            if not what.startswith(BY_RULES):
                result.problems.append(visible(f"not checked for {count} cell{'s' * (count != 1)}: {what}"))
                del result.unchecked[what]
        return result

    def begin(self, run: StoredRun) -> None:
        """What holds for the run as a whole."""
        problems = self.result.problems
        if run.info.get("name") != self.bundle.contents.name:
            problems.append("run.json has another name than bundle.json")
        if not run.records and not problems:
            problems.append("it has no cells")
        elif not any(record.status == OK for record in run.records) and not problems:
            problems.append("it has no cell with numbers")
        listed = {Path(name).name for name in run.info.get("cells", [])}
        there = {path.name for path in (self.run_dir / "cells").glob("*.json")}
        problems += [f"cells/{name}: not listed in run.json" for name in sorted(there - listed)]
        problems += list(_missing_cells(run))
        for name, expected, found in (
            ("metrics", METRICS_VERSION, self.bundle.contents.versions.get("metrics")),
            ("intervals", INTERVALS_VERSION, self.bundle.contents.versions.get("intervals")),
        ):
            if found != expected:
                problems.append(
                    f"its {name} are those of version {found}, and this oodbench computes version {expected}: repeat "
                    "the command that made the run with this version, and bundle it again"
                )

    def upstream(self, record: Record) -> dict[str, str]:
        """The artifacts of a cell that the bundle has."""
        known = super().upstream(record)
        wanted = {*record.artifacts.values()}
        return {
            path: sha256
            for path, sha256 in known.items()
            if path in self.bundle.contents.artifacts or (path in wanted and path.startswith("scores/"))
        }

    def inputs(self, record: Record) -> Iterator[str]:
        """What of a cell's record does not go together with the keys of what made it."""
        provenance = record.provenance
        for artifact in provenance.get("artifacts", ()):
            path, sha256 = artifact["path"], artifact["sha256"]
            key = self.bundle.keys.get(path)
            if key is None or digest(key) != artifact["key"] or self.bundle.hashes[path] != sha256:
                yield f"{path}: its key and SHA-256 are not those that the bundle has"
        yield from self._incomplete(record)
        grouped = [record.origin.get("images", {}).get(side, {}).get("groups", "") for side in ("id", "ood")]
        if (dict(provenance.get("key", {})).get("groups") or ["", ""]) != grouped:
            yield "its images are grouped in another way than its key states"
        for side, number in (("id", record.n_id), ("ood", record.n_ood)):
            yield from self._images(record, side, number)
        yield from self._made(record)

    def _incomplete(self, record: Record) -> Iterator[str]:
        """Which numbers a cell lacks."""
        lacking = [name for name in METRICS if name not in record.metrics or name not in record.intervals]
        if lacking:
            yield f"without {lacking[0]} or its interval"
        if {*record.ties} != {*TIES}:
            yield "without the numbers of tied scores"
        if (
            record.id_accuracy is None
            and str(dict(record.provenance.get("key", {})).get("id") or "") in self.bundle.contents.classified
        ):
            yield "without the ID accuracy"
        if not record.provenance.get("artifacts") or "row" not in record.origin:
            yield "without what made it"

    def _images(self, record: Record, side: str, number: int | None) -> Iterator[str]:
        """Whether the scored images are those that the keys of the scores name."""
        known = record.origin.get("images", {}).get(side, {})
        name = record.id_set if side == "id" else record.ood_set
        if number != known.get("images"):
            yield f"{number} scores for {known.get('images')} {side.upper()} images"
        used = self.images.used(record, name, number or 0)
        for field, of_origin in (("sha256", "checksum"), ("part", "part"), ("images", "images"), ("groups", "groups")):
            if (used.get(field) or "") != (known.get(of_origin) or ""):
                yield f"its provenance has other {side.upper()} images than its origin"
                break
        path = record.artifacts.get(f"{side}_scores", "")
        key = self.bundle.keys.get(path, {})
        data = key.get("data") or self.by_digest.get(outputs_behind(key), {}).get("data")
        if data != known.get("checksum"):
            yield f"its {side.upper()} scores are of other images than its record states"

    def _made(self, record: Record) -> Iterator[str]:
        """Whether detector, settings and seed are those in the keys of the scores, and `seen` what was trained on."""
        key = self.bundle.keys.get(record.artifacts.get("id_scores", ""), {})
        detector = key.get("detector")
        if isinstance(detector, Mapping):
            settings = detector.get("settings")
            wrong = not isinstance(settings, Mapping) or any(
                settings.get(name) != value for name, value in record.settings.items()
            )
            if detector.get("name") != record.detector or (wrong and "tuned" not in key):
                yield "its scores are those of another detector, or of other settings"
        elif key.get("method") != record.detector:
            yield "its scores are those of another method"
        seed = self.bundle.keys.get(record.artifacts.get("checkpoint", ""), {}).get("seed", record.seed)
        if seed != record.seed:
            yield f"its network was trained with the seed {seed}"
        trained = any(used.get("use") == OUTLIERS for used in record.provenance.get("data", ()))
        if record.seen != record.outlier_source and (trained or record.seen):
            yield "whether its network was trained on outliers of this OOD set is not what its provenance says"

    def joined_rows(self, run: StoredRun) -> list[str]:
        """One problem for each cell that the tables join with cells that were not made alike."""
        keys = {path: (digest(key), key) for path, key in self.bundle.keys.items()}
        return list(JoinedRows(keys).problems(run.records))

    def tables(self, run: StoredRun) -> None:
        """A bundle has no tables: whoever has it makes them from the records."""


def _missing_cells(run: StoredRun) -> Iterator[str]:
    """One clause for each row that has no record for an OOD set of its ID set, or for a seed of the run."""
    columns: dict[str, dict[str, None]] = {}
    for pair in run.info.get("pairs", ()):
        columns.setdefault(str(pair["id_set"]), {})[str(pair["ood_set"])] = None
    rows: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for record in run.records:
        columns.setdefault(record.id_set, {}).setdefault(record.ood_set)
        rows.setdefault((record.id_set, record.label), set()).add((record.ood_set, record.seed))
    for (id_set, label), cells in rows.items():
        seeds = sorted({seed for _, seed in cells})
        wanted: Iterable[tuple[str, int]] = ((ood, seed) for ood in columns[id_set] for seed in seeds)
        absent = [f"{id_set}/{ood}/{label}/{seed}" for ood, seed in wanted if (ood, seed) not in cells]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            yield f"{absent[0]}{more}: missing, although other rows, or other seeds, have this cell"
    for id_set, of_id in columns.items():
        if not any(row == id_set for row, _ in rows):
            yield f"{id_set}: no cell, although run.json has {len(of_id)} of its pairs"
