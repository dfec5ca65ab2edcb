"""Describes the software, machine and commit that produced a result."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from oodbench.benchmark.records.record import Record


COMPUTING = ("numpy", "scipy", "torch", "torchvision", "scikit-learn", "pillow", "safetensors", "timm")
"""Packages whose version may change a number."""

PACKAGES = (*COMPUTING, "pandas", "matplotlib")
"""Packages whose versions `run.json` lists."""

ABSENT = "not installed"
"""In place of the version of a package that is not there."""


def made_now() -> dict[str, Any]:
    """Version and commit of oodbench, and the current time (UTC)."""
    written = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"version": package_version("oodbench"), "commit": _commit(), "written": written}


def machine(device: torch.device) -> dict[str, Any]:
    """The environment that may change the last bits of a result but is not part of its key."""
    import torch

    return {
        "python": platform.python_version(),
        "processor": _processor(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": package_version("numpy"),
    }


def computed_on(records: Iterable[Record]) -> str:
    """A sentence on what a machine may decide and what moves numbers: devices, threads, precision of training.

    Empty if no record says it, as in records of older versions.
    """
    known = list(records)
    made = [artifact for record in known for artifact in record.provenance.get("artifacts", ())]
    devices = sorted({str(artifact["device"]).partition(":")[0] for artifact in made if "device" in artifact})
    threads = sorted({str(artifact["threads"]) for artifact in made if "threads" in artifact})
    precisions = sorted({str(record.training["precision"]) for record in known if "precision" in record.training})
    if not devices or not threads:
        return ""
    plural = "" if threads == ["1"] else "s"
    trained = f"; networks trained in {' and '.join(precisions)}" if precisions else ""
    return f"Computed on {' and '.join(devices)}, {' and '.join(threads)} CPU thread{plural} a job{trained}."


@cache
def package_version(package: str) -> str:
    """The version of an installed distribution, or `ABSENT`: that of the first time, as modules stay imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ABSENT


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache
def _commit() -> dict[str, Any] | None:
    """The commit of the checkout that this module runs from, and whether it is dirty; None outside a checkout."""
    root = Path(str(resources.files("oodbench.benchmark"))).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
