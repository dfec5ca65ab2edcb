"""Measures the memory of fitting and scoring at ImageNet's size, and how it grows with the number of images.

    python perf/memory.py [--images 10000,100000] [--dims 2048] [--classes 1000] [--detectors she,vim] [--scored N]

For each N an array of N x D float16 features and one of N x K float32 logits are written to a temporary folder (at
1,281,167 x 2,048 and 1,000 classes 10.4 GB, deleted afterwards). Each detector is then fitted on them and scores them,
through the harness's own path from memory-mapped arrays to scores, in a separate process. The process is monitored from
outside: peak = the largest `RssAnon` of /proc/PID/status in samples 20 ms apart. It counts what the process has
allocated, including PyTorch itself, but not mapped pages, which the system can reclaim at any time. Linux only.

Features are a class's centre plus uniform noise; the head's weights are the centres. Logits are random, with the
largest at the label for nine images of ten; their values do not matter here. Times are from one run on a machine that
may have had other work: they show what to expect, not how fast the method is.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.jobs import Checkpoint, FitJob, Outputs, ScoreJob, SetRef
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.detector import Detector, compares
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_spec, split_list
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.detecting.shared_results import SharedResults
from oodbench.benchmark.stages.fit_score import fitted_detector, scores_of
from oodbench.benchmark.stages.memory import keep_freed_memory
from oodbench.benchmark.store.store import Key, Store

DETECTORS = (
    "mahalanobis,mahalanobis_pp,rmds_pp,kpca,neco,pnml,vim,she,fdbd,cadref,react,lts,optfs,rank_shift,actsub,cfood,"
    "knn[fraction=0.01,k=1000],grood[fraction=0.01]"
)
"""knn as in its paper on ImageNet: 1% of the training images, the 1000th neighbour."""
BLOCK = 8192
"""Rows written at a time."""
PAUSE = 0.02
"""Seconds between two samples of a process's memory."""


class Size(NamedTuple):
    """Numbers of images, features and classes; and of images that are scored."""

    images: int
    dims: int
    classes: int
    scored: int


class Written(Store):
    """A store whose arrays this script has just written, so that they need no verification."""

    def find(self, key: Key) -> Path | None:
        """The artifact's path, without reading the file."""
        return self.root / key.path


class Synthetic(JobContext):
    """A job context with labels and a head, but without pixels or a network below the head."""

    def __init__(self, root: Path, size: Size) -> None:
        super().__init__(Written(root), Library(root), torch.device("cpu"))
        self.shared_results = SharedResults()  # nothing is stored, so that every fit computes
        self.size = size

    def images(self, data: SetRef) -> ImageSet:
        """One black pixel per image, and the labels."""
        names = tuple(str(label) for label in range(self.size.classes))
        pixels = np.zeros((data.images, 1, 1, 1), dtype=np.uint8)
        return ImageSet(pixels, labels_of(self.size, slice(0, data.images)), names)

    def classifier(self, checkpoint: Checkpoint) -> Classifier:
        """A head whose weights are the classes' centres."""
        network = nn.Module()
        network.head = nn.Linear(self.size.dims, self.size.classes)
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(centres_of(self.size)))
        return Classifier(network, self.size.classes)


def labels_of(size: Size, rows: slice) -> np.ndarray:
    """The labels of some rows: all classes in turn."""
    return np.arange(rows.start, rows.stop) % size.classes


def centres_of(size: Size) -> np.ndarray:
    """The class centres, float32 (K, D)."""
    return np.random.default_rng(1).random((size.classes, size.dims), dtype=np.float32)


def outputs_of(images: int) -> Outputs:
    """The outputs for the first `images` images of the arrays in the folder."""
    logits, features = (Key(what, ".npy", what, {}) for what in ("logits", "features"))
    return Outputs(SetRef("synthetic", "train", images), logits, features)


def write_arrays(root: Path, size: Size) -> None:
    """Write features and logits block by block."""
    outputs, centres, random = outputs_of(size.images), centres_of(size), np.random.default_rng(0)
    arrays = []
    for key, columns, dtype in ((outputs.features, size.dims, "<f2"), (outputs.logits, size.classes, "<f4")):
        path = root / key.path
        path.parent.mkdir(parents=True)
        arrays.append(np.lib.format.open_memmap(path, "w+", dtype, (size.images, columns)))
    features, logits = arrays
    for start in range(0, size.images, BLOCK):
        rows = slice(start, min(start + BLOCK, size.images))
        labels = labels_of(size, rows)
        features[rows] = random.random((len(labels), size.dims), dtype=np.float32) + centres[labels]
        drawn = random.random((len(labels), size.classes), dtype=np.float32)
        right = np.flatnonzero(random.random(len(labels)) < 0.9)
        drawn[right, labels[right]] += 1
        logits[rows] = drawn


def fit_and_score(reports: Connection, root: Path, size: Size, spec: str, threads: int) -> None:
    """The child process: report the end of fit and of score, each with its seconds."""
    torch.set_num_threads(threads)
    with keep_freed_memory():  # leaves the allocator in the same state as in every process of a run
        pass
    context, train = Synthetic(root, size), outputs_of(size.images)
    checkpoint = Checkpoint(Key("checkpoint", "", "", {}), "", "", size.classes, (1, 1, 1))
    detector: Detector = registry.get("detector", parse_spec(spec).name)
    if not detector.needs <= {"features", "logits", "similarities", "head"}:
        raise OodbenchError(f"'{spec}' needs more than features, logits and a head, all that this script provides.")
    asked: dict[str, Any] = {"title": "", "makes": (train.features,), "detector": spec, "checkpoint": checkpoint}
    reports.send(("fit", 0.0))
    start = time.perf_counter()
    fit = FitJob(**asked, train=train, validation=train, outliers=None, seed=0)
    fitted = fitted_detector(context, fit, spec)
    reports.send(("score", time.perf_counter() - start))
    start = time.perf_counter()
    job = ScoreJob(**asked, outputs=outputs_of(size.scored), bank=train if compares(fitted) else None)
    scores = scores_of(context, job, fitted, job.outputs, lambda images: None)
    if len(scores) != size.scored:
        raise AssertionError(f"{len(scores)} scores of {size.scored} images")
    reports.send(("end", time.perf_counter() - start))


class Measured(NamedTuple):
    """One detector at one size: seconds and peak bytes of each phase that it reached."""

    seconds: dict[str, float]
    peak: dict[str, int]
    stopped: bool
    """Whether it was killed because it exceeded the limit."""


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def watch(root: Path, size: Size, spec: str, threads: int, most: float) -> Measured:
    """Run one detector and monitor its memory; kill it if it takes more than `most` bytes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=fit_and_score, args=(sender, root, size, spec, threads))
    process.start()
    sender.close()
    seconds: dict[str, float] = {}
    peak: dict[str, int] = {}
    phase, stopped = "", False
    while phase != "end" and not stopped:
        if receiver.poll(PAUSE):
            try:
                now, took = receiver.recv()
            except EOFError:  # it has failed and printed its traceback
                break
            seconds[phase], phase = took, now
        used = anonymous_bytes(process.pid or 0)
        peak[phase] = max(peak.get(phase, 0), used)
        if stopped := used > most:
            process.kill()
    process.join()
    return Measured(seconds, peak, stopped)


def rows(options: argparse.Namespace) -> Iterator[str]:
    """Yield one line of the table per number of images and detector, as soon as it is measured."""
    yield "| detector | images | fit (s) | score (s) | peak in fit (MB) | peak in score (MB) |"
    yield "| :-- | --: | --: | --: | --: | --: |"
    for images in map(int, options.images.split(",")):
        size = Size(images, options.dims, options.classes, min(options.scored or images, images))
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="oodbench-memory-") as folder:
            write_arrays(Path(folder), size)
            for spec in split_list(options.detectors):
                found = watch(Path(folder), size, spec, options.threads, options.most * 1e9)
                cells = [f"{found.seconds[name]:.1f}" if name in found.seconds else "" for name in ("fit", "score")]
                cells += [f"{found.peak[name] / 1e6:.0f}" if name in found.peak else "" for name in ("fit", "score")]
                yield f"| `{spec}` | {images:,} | {' | '.join(cells)} |{' stopped' * found.stopped}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--images", default="10000,100000", help="numbers of images, separated by commas (ImageNet: 1281167)"
    )
    parser.add_argument("--dims", type=int, default=2048, help="features per image")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--detectors", default=DETECTORS)
    parser.add_argument("--scored", type=int, help="number of images to score; by default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to put the arrays; by default the system's temporary folder")
    parser.add_argument("--most", type=float, default=8.0, help="kill a process that takes more GB than this")
    options = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        sys.exit("perf/memory.py reads /proc/PID/status, which this system does not have; run it on Linux.")
    for row in rows(options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
