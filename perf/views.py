"""Measures how long the tables, plots and report of a run take, each in a new process, and whether torch is imported.

    python perf/views.py digits --results results
    python perf/views.py digits --repeat 5

Every view is made from nothing, into a temporary folder, and again, when nothing has changed. Prints medians of seconds
by the clock and of the processor, and the number of files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MADE = """
import json, os, shutil, sys, time
begin = time.perf_counter(), sum(os.times()[:4])
from dataclasses import replace
from pathlib import Path
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.records.run import read_stored_run
results, out = Path(sys.argv[2]), Path(sys.argv[3])
folder = run_dir(results, sys.argv[1])
run = read_stored_run(folder)
for part in ('run.json', 'best.json'):
    shutil.copy(folder / part, out)
shutil.copytree(folder / 'cells', out / 'cells', dirs_exist_ok=True)
there = replace(run, path=out)
{code}
used = time.perf_counter() - begin[0], sum(os.times()[:4]) - begin[1]
print(json.dumps([*used, len(files), 'torch' in sys.modules]))
"""

VIEWS = {
    "tables": "from oodbench.benchmark.views.tables.files import write_tables\nfiles = write_tables(there)",
    "plots": (
        "from oodbench.benchmark.views.plots.draw import draw\nfiles = draw(there, cache_of(folder, results.resolve()))"
    ),
    "report": (
        "from oodbench.benchmark.runner.write_report import report\n"
        "files = [report([run], out / 'report.html', results=results, data_dir=Path(sys.argv[4]))]"
    ),
}
"""View -> the code that makes it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--results", default="results")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    total = 0.0
    for view, code in VIEWS.items():
        for when in ("made", "again"):
            clock, processor, files, torch = measured(code, options, again=when == "again")
            total += clock if when == "made" else 0.0
            note = ", imports torch" if torch else ""
            print(
                f"{view:8}{when:8}{clock:6.2f} s by the clock, {processor:6.2f} s of the processor, {files} files{note}"
            )
    print(f"all made{total:13.2f} s by the clock, one after the other, start of Python not included")


def measured(code: str, options: argparse.Namespace, again: bool) -> tuple[float, float, int, bool]:
    """Medians over the repeats; with `again`, of a second time into the same folder."""
    found: list[tuple[float, float, int, bool]] = []
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as out:
            for _ in range(1 + again):
                command = [sys.executable, "-c", MADE.format(code=code), options.run, options.results, out]
                done = subprocess.run([*command, options.data_dir], check=True, stdout=subprocess.PIPE, text=True)
            found.append(tuple(json.loads(done.stdout.splitlines()[-1])))
            assert Path(out).is_dir()
    clock, processor = (statistics.median(one[i] for one in found) for i in (0, 1))
    return clock, processor, found[0][2], any(one[3] for one in found)


if __name__ == "__main__":
    main()
