"""Measures how long commands take that train and score nothing, and checks whether they import torch.

    python perf/startup.py                                            # bench --help, bench list detectors
    bench run --detectors msp,energy --id digits --epochs 2 --results DIR
    python perf/startup.py --results DIR -- --detectors msp,energy --id digits --epochs 2

With --results, also the commands that look at the run 'digits' of that folder (--run names another), and, with what
follows `--`, 'bench run' with these options when it has nothing left to do, and its dry run. Each command runs in a new
process; it prints medians of wall-clock times and of CPU seconds, after one run to warm the cache, beside what is aimed
at on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

AIMS = {"run": 1.2, "run --dry-run": 1.5, "table": 0.6, "plot": 2.0, "compare": 1.0, "verify": 1.0}
"""Command -> wall-clock seconds that are aimed at for a small run."""


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a command. Raises `CalledProcessError` if it fails."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user - before.children_user + after.children_system - before.children_system


def imports_torch(arguments: Sequence[str]) -> bool:
    code = (
        "import sys\nfrom oodbench.benchmark.cli import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stderr.strip().endswith("True")


def commands(run: str, results: str, options: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What each command is called, and its arguments."""
    found = [("--help", ["--help"]), ("list detectors", ["list", "detectors"])]
    if results:
        where = ["--results", results]
        found += [(name, [name, run, *where]) for name in ("table", "plot", "compare", "verify")]
        if options:
            found += [("run", ["run", *options, *where]), ("run --dry-run", ["run", *options, *where, "--dry-run"])]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="digits")
    parser.add_argument("--results", default="")
    parser.add_argument("--repeat", type=int, default=11)
    parser.add_argument("options", nargs="*", help="of bench run, after --")
    given = parser.parse_args()
    for name, arguments in commands(given.run, given.results, given.options):
        command = [sys.executable, "-m", "oodbench.benchmark", *arguments]
        seconds(command)
        walls, cpus = zip(*(seconds(command) for _ in range(given.repeat)), strict=True)
        torch = "imports torch" if imports_torch(arguments) else "no torch"
        aim = f" (aim {AIMS[name]:g} s)" if name in AIMS else ""
        median = f"median {statistics.median(walls):.2f} s{aim}, {statistics.median(cpus):.2f} s of CPU"
        print(f"bench {name}: {median}, of {given.repeat} runs, {torch}", flush=True)


if __name__ == "__main__":
    main()
