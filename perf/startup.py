"""Measures how long `bench --help` and `bench list detectors` take, and checks whether they import torch.

    python perf/startup.py

Each command runs in a new process; it prints the median of eleven wall-clock times, after one run to warm the cache.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11
COMMANDS = (("--help",), ("list", "detectors"))


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def imports_torch(arguments: tuple[str, ...]) -> bool:
    code = (
        "import sys\nfrom oodbench.benchmark.cli import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stderr.strip().endswith("True")


def main() -> None:
    for arguments in COMMANDS:
        command = [sys.executable, "-m", "oodbench.benchmark", *arguments]
        seconds(command)
        times = [seconds(command) for _ in range(RUNS)]
        torch = "imports torch" if imports_torch(arguments) else "no torch"
        print(f"bench {' '.join(arguments)}: median {statistics.median(times):.2f} s of {RUNS} runs, {torch}")


if __name__ == "__main__":
    main()
