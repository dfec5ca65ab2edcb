"""Measures how far another number of CPU threads moves a number, compared with another seed.

The same suite is run on each number of threads with the same seeds. Differences of AUROC and ID accuracy are taken
between every two numbers of threads at the same seed, and between every two seeds on the same number of threads.

    python perf/threads.py --detectors msp,energy --threads 1,2,4 --seeds 3
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from oodbench.benchmark import Record, run
from oodbench.benchmark.store.cores import usable_cores

Cells = dict[tuple[int, int], dict[str, float]]
"""(threads, seed) -> the values of all cells, by name."""


def values_of(records: Iterable[Record], metric: str) -> dict[int, dict[str, float]]:
    """Seed -> cell -> value in percent. ID accuracy is one value per ID set and recipe, AUROC one per cell."""
    found: dict[int, dict[str, float]] = {}
    for record in records:
        if record.status != "ok" or record.id_accuracy is None:
            continue
        name, value = f"{record.id_set} {record.label} {record.ood_set}", record.metrics["auroc"]
        if metric == "ID accuracy":
            name, value = f"{record.id_set} {record.recipe}", record.id_accuracy
        found.setdefault(record.seed, {})[name] = 100 * value
    return found


def differences(cells: Cells, same: int) -> Iterator[float]:
    """Absolute differences between runs that agree in one coordinate (0: threads, 1: seed) and differ in the other."""
    for one, other in itertools.combinations(sorted(cells), 2):
        if one[same] == other[same]:
            yield from (abs(cells[one][name] - cells[other][name]) for name in cells[one])


def summary(values: Iterable[float]) -> str:
    """Root mean square, median and largest of differences."""
    found = sorted(values)
    if not found:
        return "none"
    mean = math.sqrt(sum(value * value for value in found) / len(found))
    return f"{mean:5.2f} RMS, {found[len(found) // 2]:5.2f} median, {found[-1]:6.2f} largest of {len(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", default="")
    parser.add_argument("--detectors", default="msp,energy")
    parser.add_argument("--threads", default="1,2,4", help="numbers of threads, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to keep the results; by default a temporary folder")
    options = parser.parse_args()
    threads = [int(count) for count in options.threads.split(",")]
    cells: dict[str, Cells] = {"AUROC": {}, "ID accuracy": {}}
    with tempfile.TemporaryDirectory() as name:
        for count in threads:
            done = run(
                options.detectors,
                suite=options.suite,
                seeds=options.seeds,
                epochs=options.epochs,
                threads=count,
                device="cpu",
                results=options.folder or name,
                name=f"threads{count}",
            )
            for metric, found in cells.items():
                found |= {(count, seed): values for seed, values in values_of(done.records, metric).items()}
    print(f"{platform.machine()}, {usable_cores()} cores, torch {torch.__version__}")
    print(f"{options.detectors}; threads {options.threads}; seeds 0 to {options.seeds - 1}")
    for metric, found in cells.items():
        print(f"{metric}, points, other threads, same seed: {summary(differences(found, 1))}")
        print(f"{metric}, points, other seed, same threads: {summary(differences(found, 0))}")


if __name__ == "__main__":
    main()
