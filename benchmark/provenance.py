"""From what a run and each of its cells were made: software, machine, commit; settings, data, artifacts."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oodbench.benchmark.jobs import FitJob, ImportJob, Job, LookJob, ScoreJob, SetRef, TrainJob, TuneJob
from oodbench.benchmark.plan import Cell, Plan
from oodbench.benchmark.records import METRICS_VERSION, OK, Record
from oodbench.benchmark.specs import create, parse_spec

if TYPE_CHECKING:
    from oodbench.benchmark.work import Bench

PACKAGES = ("numpy", "torch", "torchvision", "scikit-learn", "pandas", "matplotlib", "pillow", "safetensors")


MADE = ("seconds", "peak_memory", "peak_device_memory", "device", "threads", "torch", "written", "version", "commit")
"""What a record repeats of an artifact's side file."""


def collect(bench: Bench) -> dict[str, Any]:
    """Facts about software and machine, for `run.json`."""
    return {
        **made_now(),
        **machine(bench),
        "platform": platform.platform(),
        "data": dict(sorted(bench.library.sources.items())),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def made_now() -> dict[str, Any]:
    """By which version, from which commit, and when (UTC)."""
    written = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"version": metadata.version("oodbench"), "commit": _commit(), "written": written}


def machine(bench: Bench) -> dict[str, Any]:
    """What the last bits of a number may depend on beside its key."""
    return {
        "python": platform.python_version(),
        "processor": _processor(),
        "device": str(bench.device),
        "device_name": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
    }


def told(record: Record, cell: Cell, plan: Plan, bench: Bench, key: Mapping[str, Any]) -> Record:
    """A cell's record with its provenance, `key` what its key is the digest of; one without numbers has none."""
    if record.status != OK:
        return record
    found = {**of_cell(cell, plan, bench), "key": dict(key)}
    peaks = [made["peak_memory"] for made in found["artifacts"] if "peak_memory" in made]
    return replace(record, provenance=found, peak_memory=max(peaks, default=None))


def of_cell(cell: Cell, plan: Plan, bench: Bench) -> dict[str, Any]:
    """What a finished cell was made from, as plain data.

    made        version, commit, time, machine, of the numbers
    needs       what the detector is shown of an image
    data        every set that training, fitting, tuning or scoring saw: use, set, part, images, limit, sha256
    resolved    detector, recipe, backbone, schedule and stages, each with settings and version
    artifacts   every file that the scores hang on, first to last: kind, path, key, sha256, and how it was made
    """
    jobs = plan.jobs_for([cell])
    scoring = next(job for job in jobs if isinstance(job, ScoreJob))
    detector = create("detector", parse_spec(scoring.detector))
    data = dict.fromkeys(used for job in jobs for used in _used(job))
    return {
        "made": {**made_now(), **machine(bench)},
        "needs": sorted(detector.needs),
        "data": [{"use": use, **_facts(ref, bench)} for use, ref in data],
        "resolved": _resolved(cell, jobs, scoring),
        "artifacts": [made for job in jobs for made in _artifacts(job, bench)],
    }


def _used(job: Job) -> Iterator[tuple[str, SetRef]]:
    """What a job sees of the data, and for what."""
    if isinstance(job, TrainJob):
        yield "train", job.train
        if job.outliers:
            yield "train on outliers", job.outliers
    elif isinstance(job, LookJob) and job.learns:
        yield "fit", job.data
    elif isinstance(job, FitJob | TuneJob):
        use = "fit" if isinstance(job, FitJob) else "tune"
        yield from ((use, outputs.data) for outputs in (job.train, job.validation, job.outliers) if outputs)
        if isinstance(job, TuneJob):
            yield from (("tune on OOD", outputs.data) for outputs in job.ood)
    elif isinstance(job, ScoreJob):
        yield "score", job.outputs.data


def _facts(ref: SetRef, bench: Bench) -> dict[str, Any]:
    facts = {"set": ref.set, "part": ref.part, "images": ref.images, "sha256": bench.images(ref).checksum}
    return {**facts, "limit": ref.limit} if ref.limit else facts


def _resolved(cell: Cell, jobs: list[Job], scoring: ScoreJob) -> dict[str, Any]:
    """What is in the keys beside data and other keys."""
    trained = next(job for job in jobs if isinstance(job, TrainJob | ImportJob) and job.checkpoint == cell.checkpoint)
    content, scores = trained.makes[0].content, scoring.makes[0].content
    names = ("recipe", "file", "backbone", "schedule", "precision", "training", "import")
    stages = {"extraction": scoring.outputs.logits.content["extraction"], "scoring": scores["scoring"]}
    kept = {name: content[name] for name in names if name in content}
    return {"detector": scores["detector"], **kept, **stages, "metrics": METRICS_VERSION, "rules": list(cell.rules)}


def _artifacts(job: Job, bench: Bench) -> Iterator[dict[str, Any]]:
    for key in job.makes:
        side = bench.store.side(key)
        about = {name: value for name, value in side.get("about", {}).items() if name in MADE}
        yield {"kind": key.kind, "path": key.path, "key": key.digest, "sha256": side.get("sha256", ""), **about}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache
def _commit() -> dict[str, Any] | None:
    """The commit of the checkout that this module runs from, and whether it is dirty; None if it is no checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
