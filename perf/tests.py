"""Measures what the tests cost: CPU seconds in all, by folder and by file, and of the twenty slowest.

    python perf/tests.py                      # the tests that `pytest` runs
    python perf/tests.py tests/views -n0      # those of a folder, in one process

What follows the script's name is for pytest. CPU seconds are those of a test's process and of the processes that it
starts and waits for; they say more than seconds by the clock on a machine with other work. What a fixture of a module
or session prepares counts for the first test that asks for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from _test_costs import VARIABLE

SLOWEST = 20
FILES = 30


def main() -> int:
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        kept = os.environ.get(VARIABLE, folder)
        paths = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "_test_costs", *sys.argv[1:]]
        done = subprocess.run(command, cwd=here.parent, env={**os.environ, VARIABLE: kept, "PYTHONPATH": paths})
        files = list(Path(kept).glob("*.jsonl"))
        lines = [{**json.loads(line), "process": file.stem} for file in files for line in file.read_text().splitlines()]
    report(lines)
    return done.returncode


def report(lines: list[dict[str, Any]]) -> None:
    tests: dict[str, dict[str, float]] = defaultdict(dict)
    for line in lines:
        if line["test"]:
            tests[line["test"]][line["phase"]] = line["cpu"]
    whole = {name: phases["all"] for name, phases in tests.items() if "all" in phases}
    phases = {name: sum(one.get(name, 0.0) for one in tests.values()) for name in ("setup", "call", "teardown")}
    outside = sum(whole.values()) - sum(phases.values())
    ran = {line["process"] for line in lines if line["test"]}  # without the one that only hands tests out
    lines = [line for line in lines if line["process"] in ran]
    processes = sum(line["cpu"] for line in lines if line["phase"] == "process")
    starts = [line["cpu"] for line in lines if line["phase"] == "start"]
    collected = [line["cpu"] for line in lines if line["phase"] == "collection"]
    print(f"\n{len(whole)} tests in {len(starts)} processes: {processes:.1f} s of CPU, of which")
    print(f"  {sum(starts):6.1f} s until collection, {sum(collected):.1f} s collecting")
    print(f"  {phases['setup']:6.1f} s setting tests up, {phases['call']:.1f} s calling them, ", end="")
    print(f"{phases['teardown']:.1f} s tearing them down, {outside:.1f} s between")
    for title, depth, most in (("folder", 2, FILES), ("file", 9, FILES)):
        print(f"\nCPU seconds by {title}")
        shown(by(whole, depth), most)
    print(f"\nthe {SLOWEST} slowest tests, CPU seconds")
    shown(whole, SLOWEST)


def by(whole: dict[str, float], depth: int) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for name, seconds in whole.items():
        sums["/".join(name.split("::")[0].split("/")[:depth])] += seconds
    return sums


def shown(sums: dict[str, float], most: int) -> None:
    for name, seconds in sorted(sums.items(), key=lambda one: -one[1])[:most]:
        print(f"  {seconds:7.2f}  {name}")


if __name__ == "__main__":
    sys.exit(main())
