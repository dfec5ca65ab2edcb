"""With what a run was made: versions, machine, commit."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from oodbench.benchmark.work import Bench

PACKAGES = ("numpy", "torch", "torchvision", "scikit-learn", "pandas", "matplotlib", "pillow", "safetensors")


def collect(bench: Bench) -> dict[str, Any]:
    """Facts about software and machine, for `run.json`."""
    return {
        "version": metadata.version("oodbench"),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "device": str(bench.device),
        "device_name": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else _processor(),
        "data": dict(sorted(bench.library.sources.items())),
        "threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


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
