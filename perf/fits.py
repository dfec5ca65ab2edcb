"""Measures how often fits read the training features, and their CPU seconds, alone and sharing what they compute.

    python perf/fits.py [--images 20000] [--dims 512] [--classes 10] [--detectors mahalanobis,vim,...] [--folder DIR]

Synthetic features, float16 in a memory-mapped file, as in perf/memory.py. Each detector is fitted three times by the
code of a run: with a job context of its own; with one for all of them, in which `Batch.once` computes class means,
covariances and the like for the first detector that asks; and as by a later command, which finds in the store what took
a second or more. Reads are rows read of the features, divided by their number; what all ways learned is compared bit
for bit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import Size, Synthetic, outputs_of, write_arrays

from oodbench.benchmark.plan.jobs import Checkpoint, FitJob
from oodbench.benchmark.plugins.specs import split_list
from oodbench.benchmark.stages.detecting.stored_results import StoredResults
from oodbench.benchmark.stages.detector_state import save_state
from oodbench.benchmark.stages.fit_score import fitted_detector
from oodbench.benchmark.store.store import Key

DETECTORS = "mahalanobis,relative_mahalanobis,gmm,residual,vim,ssd,she,fdbd,nci,react,vra"


class Counted:
    """A stored array that counts the rows that are read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.rows = array, 0
        self.shape, self.dtype = array.shape, array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> np.ndarray:
        found: np.ndarray = self.array[rows]
        self.rows += len(found)
        return found


class Watched(Synthetic):
    """A job context that counts reads of the features."""

    def __init__(self, root: Path, size: Size) -> None:
        super().__init__(root, size)
        key = outputs_of(size.images).features
        load = self.store.load_array
        self.features = Counted(load(key))
        self.store.load_array = lambda asked: self.features if asked == key else load(asked)  # type: ignore


def fit_job(size: Size, spec: str) -> FitJob:
    train = outputs_of(size.images)
    checkpoint = Checkpoint(Key("checkpoint", "", "", {}), "", "", size.classes, (1, 1, 1))
    asked: dict[str, Any] = {"title": "", "makes": (train.features,), "detector": spec, "checkpoint": checkpoint}
    return FitJob(**asked, train=train, validation=train, outliers=None, seed=0)


def measured(context: Watched, spec: str) -> tuple[float, float, bytes]:
    """Reads of the features, CPU seconds, and what the detector learned."""
    context.features.rows = 0
    torch.manual_seed(0)  # for the bias of the head
    start = time.process_time()
    detector = fitted_detector(context, fit_job(context.size, spec), spec)
    seconds = time.process_time() - start
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_state(detector, Path(file.name))
        return context.features.rows / context.size.images, seconds, Path(file.name).read_bytes()


def main() -> None:
    """Print a row per detector, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--detectors", default=DETECTORS)
    parser.add_argument("--folder", default=None, help="where the synthetic arrays are written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = Size(options.images, options.dims, options.classes, options.images)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="oodbench-fits-") as folder:
        write_arrays(Path(folder), size)
        shared = Watched(Path(folder), size)
        shared.shared_results.stored = StoredResults(shared.store.root)
        shared.shared_results.reads_store = False
        print(f"{size.images:,} x {size.dims}, {size.classes} classes; reads of the features, and CPU seconds")
        print(f"{'':22} {'alone':>14} {'sharing':>14} {'later':>14}")
        sums = np.zeros(6)
        for spec in split_list(options.detectors):
            later = Watched(Path(folder), size)
            later.shared_results.stored = StoredResults(later.store.root)
            found = [measured(context, spec) for context in (Watched(Path(folder), size), shared, later)]
            if len({learned for *_, learned in found}) > 1:
                raise AssertionError(f"{spec} learned something else")
            row = [number for reads, seconds, _ in found for number in (reads, seconds)]
            sums += row
            print(_line(spec, row), flush=True)
        print(_line("all", sums))
        for way, reads, seconds in (("sharing", *sums[2:4]), ("later", *sums[4:])):
            ratios = f"{sums[0] / reads:.2f} times fewer reads, {sums[1] / seconds:.2f} times less CPU"
            print(f"{way}: {ratios}; the same bytes")


def _line(what: str, row: Iterable[float]) -> str:
    numbers = [f"{number:{width}.2f}" for number, width in zip(row, (6, 7) * 3, strict=True)]
    return f"{what:22} {' '.join(numbers)}"


if __name__ == "__main__":
    main()
