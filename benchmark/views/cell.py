"""The page of one cell: its numbers, resolved settings, data, and every artifact that it was computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import counted, visible
from oodbench.benchmark.metrics.names import STABILITY
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.store.lineage import side_files, upstream_artifacts
from oodbench.benchmark.store.store import read_side

UNKNOWN = "not recorded by the version that made it"


def cell_text(record: Record, cache: Path) -> str:
    """Everything that is known about a cell, as raw values, in sections."""
    provenance = record.provenance
    sections = {
        "numbers": _numbers(record),
        "resolved": _resolved(record, provenance.get("resolved", {})),
        "data": [_data(used) for used in provenance.get("data", ())] or [UNKNOWN],
        "made": _made(record, provenance.get("made", {})),
        "artifacts, in the order in which they were made": _artifacts(record, cache),
    }
    lines = [f"cell {cell_name(record)}: {record.status}{f' ({record.reason})' if record.reason else ''}"]
    for heading, content in sections.items():
        lines += ["", heading, *(f"  {line}" for line in content)]
    return "\n".join(visible(line) for line in lines)


def _images(count: int | None) -> str:
    return "images not counted" if count is None else counted(count, "image")


def _numbers(record: Record) -> Iterator[str]:
    group = " and the outliers' distribution" * record.outlier_source
    n_id, n_ood = _images(record.n_id), _images(record.n_ood)
    yield f"ID {record.id_set}: {n_id}; OOD {record.ood_set}: {n_ood} {record.group}{group}"
    for name, value in (("id_accuracy", record.id_accuracy), ("tpr", record.tpr), *record.metrics.items()):
        yield f"{name:20} {value}"
    for rules, values in record.audit.items():
        yield from (f"{f'{name} by {rules}':32} {value}" for name, value in values.items())
    for name in STABILITY:
        if name in record.stability:
            yield f"{f'stability, {name}':32} {record.stability[name]}"
    for note in record.notes:
        yield f"note: {note}"


def _resolved(record: Record, resolved: Mapping[str, Any]) -> Iterator[str]:
    seen = "seen: trained on outliers of the OOD set's distribution" if record.seen else "not seen"
    backbone = f" (backbone {record.backbone})" if record.backbone else ""
    yield f"label      {record.label}{backbone}, seed {record.seed}, {seen}"
    needs = record.provenance.get("needs")
    yield f"needs      {UNKNOWN if needs is None else ', '.join(needs) or 'nothing'}"
    for name in ("detector", "recipe", "backbone"):
        if plugin := resolved.get(name):
            yield f"{name:10} {plugin['name']} {_written(plugin['settings'])} version {plugin['version']}"
    for made in record.provenance.get("artifacts", ()):
        if chosen := made.get("chosen"):
            yield f"by rule    {_written(chosen)}"
    yield f"training   {_written({**record.training, **resolved.get('schedule', {})})}"
    if record.tuned:
        yield f"tuned      {_written(record.tuned)}"
    if given := resolved.get("given"):
        yield f"given      {_written(given)}"
    stages = ("training", "import", "outputs_import", "extraction", "scoring", "metrics")
    versions = {name: resolved[name] for name in stages if name in resolved}
    yield f"stages     {_written(versions) if versions else UNKNOWN}"


def _data(used: Mapping[str, Any]) -> str:
    limit = f", limited to {used['limit']:,}" if used.get("limit") else ""
    images = f"{plain_name(used['set'])} ({used['part']}{limit}), {used['images']:,} images"
    return f"{used['use']:17} {images}, content SHA-256 {used['sha256']}"


def _made(record: Record, made: Mapping[str, Any]) -> Iterator[str]:
    yield f"when       {made.get('written', UNKNOWN)}"
    yield from _made_by(made)
    peak = f"peak {record.peak_memory / 1e6:,.0f} MB in one job" if record.peak_memory else UNKNOWN
    forwarded = counted(record.forward_images, "image")
    yield f"cost       {forwarded} forwarded, {record.seconds:.3f} s to score; memory: {peak}"
    yield f"key        {record.key}"


def _made_by(made: Mapping[str, Any]) -> Iterator[str]:
    commit = made.get("commit")
    dirty = ", with uncommitted changes" if commit and commit["dirty"] else ""
    yield f"by         oodbench {made.get('version', UNKNOWN)}" + (f", commit {commit['id']}{dirty}" if commit else "")
    shown = ("python", "torch", "numpy", "processor", "device", "device_name", "threads")
    yield f"on         {', '.join(f'{name} {made[name]}' for name in shown if name in made) or UNKNOWN}"


def settings_lines(record: Record) -> list[str]:
    """A cell's settings as resolved: needs, detector, recipe, backbone, training, what tuning chose, versions."""
    return [visible(line) for line in _resolved(record, record.provenance.get("resolved", {}))]


def origin_lines(record: Record) -> list[str]:
    """What a cell was computed from and by, without times: data, software, machine, artifacts and their SHA-256."""
    provenance = record.provenance
    lines = [*([_data(used) for used in provenance.get("data", ())] or [f"data {UNKNOWN}"])]
    lines += [*_made_by(provenance.get("made", {})), f"key        {record.key}"]
    for made in provenance.get("artifacts", ()):
        lines.append(f"{made['kind']:10} {made['path']}, SHA-256 {made['sha256']}")
    return [visible(line) for line in lines]


def _artifacts(record: Record, cache: Path) -> Iterator[str]:
    known = record.provenance.get("artifacts")
    for made in known if known is not None else _from_side_files(record, cache):
        state = "" if (cache / made["path"]).is_file() else "  MISSING"
        yield f"{made['kind']:10} {made['path']}{state}"
        yield f"{'':10} SHA-256 {made['sha256']}, key {made['key']}"
        yield f"{'':10} {_origin(made)}"


def _from_side_files(record: Record, cache: Path) -> Iterable[Mapping[str, Any]]:
    """The artifacts behind a record of an older version, from their side files in the store."""
    paths = upstream_artifacts(cache, side_files(cache), record.artifacts.values())
    sides = {path: read_side(cache / path) for path in paths}
    order = sorted(sides, key=lambda path: (cache / path).stat().st_mtime if (cache / path).is_file() else 0.0)
    for path in order:
        side = sides[path]
        identity = {"kind": side["key"]["kind"], "path": path, "key": side["digest"], "sha256": side["sha256"]}
        yield {**side["about"], **identity}


def _origin(made: Mapping[str, Any]) -> str:
    """When, how long and on what an artifact was computed."""
    facts = [f"{made['seconds']:.3f} s" if "seconds" in made else "", made.get("written", "")]
    facts.append(f"peak {made['peak_memory'] / 1e6:,.0f} MB" if "peak_memory" in made else "")
    gpu = made.get("peak_device_memory")
    facts.append(f"{gpu / 1e6:,.0f} MB on the GPU" if gpu else "")
    facts.append(", ".join(f"{name} {made[name]}" for name in ("device", "threads") if name in made))
    commit = made.get("commit")
    facts.append(f"commit {commit['id'][:12]}{' dirty' * commit['dirty']}" if commit else "")
    return ", ".join(filter(None, facts)) or UNKNOWN


def _written(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=str)
