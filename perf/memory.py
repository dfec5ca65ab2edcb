"""How much memory fitting and scoring take at ImageNet's size, and how that grows with the number of images.

    python perf/memory.py [--images 10000,100000] [--dims 2048] [--classes 1000] [--detectors she,vim] [--scored N]

For each N an array of N x D float16 features and one of N x K float32 logits are written to a temporary folder (at
1,281,167 x 2,048 and 1,000 classes 10.4 GB, deleted afterwards). Each detector is then fitted on them and scores them,
through the harness's own path from memory-mapped arrays to scores, in a process of its own. The process is watched from
outside: peak = the largest `RssAnon` of /proc/PID/status seen in samples 20 ms apart, which counts what the process has
allocated, PyTorch itself included, and not the mapped pages, which the system takes back at will. Linux only.

Features are a class's centre plus uniform noise; the head's weights are the centres. Logits are drawn, with the largest
at the label for nine images of ten: what they hold does not matter here. Times are of one run on a machine that may
have had other work; they say what to expect, not how fast the method is.
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
from oodbench.benchmark.stages.fit_score import fitted_detector, scores_of
from oodbench.benchmark.stages.memory import keep_freed_memory
from oodbench.benchmark.store.store import Key, Store

DETECTORS = "mahalanobis,vim,she,fdbd,react,knn[fraction=0.01,k=1000]"
"""knn as its paper runs it on ImageNet: 1% of the training images, the 1000th neighbour."""
BLOCK = 8192
"""Rows made at a time."""
PAUSE = 0.02
"""Seconds between two looks at a process."""


class Size(NamedTuple):
    """How many images, features and classes; and how many of the images are scored."""

    images: int
    dims: int
    classes: int
    scored: int


class Written(Store):
    """A store whose arrays this script has just written: there is nothing to verify."""

    def find(self, key: Key) -> Path | None:
        """The artifact's path, unread."""
        return self.root / key.path


class Synthetic(JobContext):
    """A bench with labels and a head, and neither pixels nor a network below the head."""

    def __init__(self, root: Path, size: Size) -> None:
        super().__init__(Written(root), Library(root), torch.device("cpu"))
        self.size = size

    def images(self, data: SetRef) -> ImageSet:
        """One black pixel an image, and the labels."""
        names = tuple(str(label) for label in range(self.size.classes))
        pixels = np.zeros((self.size.images, 1, 1, 1), dtype=np.uint8)
        return ImageSet(pixels, labels_of(self.size, slice(0, self.size.images)), names)

    def classifier(self, checkpoint: Checkpoint) -> Classifier:
        """A head whose weights are the classes' centres."""
        network = nn.Module()
        network.head = nn.Linear(self.size.dims, self.size.classes)
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(centres_of(self.size)))
        return Classifier(network, self.size.classes)


def labels_of(size: Size, rows: slice) -> np.ndarray:
    """Every class in turn."""
    return np.arange(rows.start, rows.stop) % size.classes


def centres_of(size: Size) -> np.ndarray:
    """Each class's centre, float32 (K, D)."""
    return np.random.default_rng(1).random((size.classes, size.dims), dtype=np.float32)


def outputs_of(images: int) -> Outputs:
    """The first so many images of the arrays in the folder."""
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


def fit_and_score(told: Connection, root: Path, size: Size, spec: str, threads: int) -> None:
    """In a process of its own: say when the fit has ended and when the scores are there, and after how many seconds."""
    torch.set_num_threads(threads)
    with keep_freed_memory():  # what is kept after it, is as in every process of a run
        pass
    bench, train = Synthetic(root, size), outputs_of(size.images)
    checkpoint = Checkpoint(Key("checkpoint", "", "", {}), "", "", size.classes, (1, 1, 1))
    detector: Detector = registry.get("detector", parse_spec(spec).name)
    if not detector.needs <= {"features", "logits", "similarities"}:
        raise OodbenchError(f"'{spec}' needs more than features and logits, which is all that there is here.")
    asked: dict[str, Any] = {"title": "", "makes": (train.features,), "detector": spec, "checkpoint": checkpoint}
    told.send(("fit", 0.0))
    start = time.perf_counter()
    fit = FitJob(**asked, train=train, validation=train, outliers=None, seed=0)
    fitted = fitted_detector(bench, fit, spec)
    told.send(("score", time.perf_counter() - start))
    start = time.perf_counter()
    job = ScoreJob(**asked, outputs=outputs_of(size.scored), bank=train if compares(fitted) else None)
    scores = scores_of(bench, job, fitted, job.outputs, lambda images: None)
    if len(scores) != size.scored:
        raise AssertionError(f"{len(scores)} scores of {size.scored} images")
    told.send(("end", time.perf_counter() - start))


class Measured(NamedTuple):
    """One detector at one size: seconds and peak bytes of each phase that it came to."""

    seconds: dict[str, float]
    peak: dict[str, int]
    stopped: bool
    """Whether it was ended because it took more than it may."""


def anonymous_bytes(pid: int) -> int:
    """What a process holds that is no page of a file; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def watch(root: Path, size: Size, spec: str, threads: int, most: float) -> Measured:
    """Run one detector and look at its memory; end it if it takes more than `most` bytes."""
    context = multiprocessing.get_context("spawn")
    hearing, telling = context.Pipe(duplex=False)
    process = context.Process(target=fit_and_score, args=(telling, root, size, spec, threads))
    process.start()
    telling.close()
    seconds: dict[str, float] = {}
    peak: dict[str, int] = {}
    phase, stopped = "", False
    while phase != "end" and not stopped:
        if hearing.poll(PAUSE):
            try:
                now, took = hearing.recv()
            except EOFError:  # it has failed, and its traceback is on the screen
                break
            seconds[phase], phase = took, now
        held = anonymous_bytes(process.pid or 0)
        peak[phase] = max(peak.get(phase, 0), held)
        if stopped := held > most:
            process.kill()
    process.join()
    return Measured(seconds, peak, stopped)


def rows(options: argparse.Namespace) -> Iterator[str]:
    """A line of the table for each number of images and detector, as soon as it is known."""
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
    parser.add_argument("--images", default="10000,100000", help="numbers of images, with commas (ImageNet: 1281167)")
    parser.add_argument("--dims", type=int, default=2048, help="features an image")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--detectors", default=DETECTORS)
    parser.add_argument("--scored", type=int, help="score only the first so many images; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to put the arrays; the system's temporary folder by default")
    parser.add_argument("--most", type=float, default=8.0, help="end a process that takes more GB than this")
    options = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        sys.exit("perf/memory.py reads /proc/PID/status, which this system does not have; run it on Linux.")
    for row in rows(options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
