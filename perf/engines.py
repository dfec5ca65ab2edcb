"""Measures the same run with every engine, and checks that all produce the same bytes.

    python perf/engines.py [--id-sets digits] [--detectors all] [--folder DIR]

The default suite is run in one process, with `--jobs 2`, and by Ray on a cluster of three one-CPU nodes on this
machine, each with one thread per job and an empty results folder. It compares tables and every artifact that is an
array or a network; records are compared without their times. Seconds are wall-clock time, including plots and tables.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import tempfile
import time
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from scaling import Machine

from oodbench.benchmark import run

ENGINES: dict[str, dict[str, Any]] = {"local": {}, "--jobs 2": {"jobs": 2}, "--engine ray": {"engine": "ray"}}


def hashes(results: Path) -> dict[str, str]:
    """Path -> hash of the tables, records and artifacts of a run."""
    tables = [path for path in results.glob("runs/*/*") if path.name.startswith(("table", "best"))]
    artifacts = [path for suffix in ("npy", "safetensors") for path in results.glob(f"cache/*/*.{suffix}")]
    compared = [path for path in (*tables, *artifacts) if path.parent.name not in ("data", "unfinished")]
    found = {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in compared}
    for path in results.glob("runs/*/records.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]
        found[str(path.relative_to(results))] = hashlib.sha256(repr(rows).encode()).hexdigest()
    return found


def main() -> None:
    """Print one line per engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--id-sets", default="all")
    parser.add_argument("--detectors", default="all")
    parser.add_argument("--folder", type=Path, help="where to keep the results; by default a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        first: dict[str, str] = {}
        for number, (engine, options) in enumerate(ENGINES.items()):
            results = (arguments.folder or Path(name)) / str(number)
            cluster: AbstractContextManager[Any] = closing(Machine([1, 1, 1])) if "engine" in options else nullcontext()
            with cluster:
                start = time.perf_counter()
                done = run(arguments.detectors, id_sets=arguments.id_sets, threads=1, results=results, **options)
                seconds = time.perf_counter() - start
            found = hashes(results)
            first = first or found
            different = sorted(name for name in first.keys() | found.keys() if first.get(name) != found.get(name))
            failed = sum(record.status != "ok" for record in done.records)
            print(
                f"{engine:12} {seconds:6.0f} s, {len(done.records)} cells, {failed} not ok; "
                f"{len(found)} files, {len(different)} different from those of one process",
                *different[:10],
                flush=True,
            )


if __name__ == "__main__":
    main()
