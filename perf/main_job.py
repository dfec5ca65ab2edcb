"""Measures how long `bench run --detectors all` takes with an empty store, and when repeated.

    python perf/main_job.py

Wall-clock time of whole processes, in a temporary results folder. The second command must run no job and redraw
nothing: its plan and the plots' modification times are checked and printed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def bench(results: str, *more: str) -> tuple[float, str]:
    command = [sys.executable, "-m", "oodbench.benchmark", "run", "--detectors", "all", "--quiet", "--results", results]
    start = time.perf_counter()
    done = subprocess.run([*command, *more], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def drawn(results: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(results).glob("runs/*/plots/*")}


def main() -> None:
    with tempfile.TemporaryDirectory() as results:
        first, _ = bench(results)
        before = drawn(results)
        _, plan = bench(results, "--dry-run")
        second, _ = bench(results)
        remaining = [line.strip() for line in plan.splitlines() if "to do:" in line]
        redrawn = sum(drawn(results)[path] != time_ for path, time_ in before.items())
    print(f"first run: {first:.1f} s; the same command again: {second:.1f} s, ratio {first / second:.0f}")
    print(f"second run: {len(remaining)} jobs, {redrawn} of {len(before)} plots redrawn")


if __name__ == "__main__":
    main()
