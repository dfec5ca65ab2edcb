"""Measures every detector of logits and features at ImageNet's size: seconds, peak memory, reads of the feature file.

    python perf/imagenet_scale.py [--share 1] [--dims 2048] [--classes 1000] [--threads 2] [--detectors LIST]
        [--device cuda]

Synthetic outputs (perf/memory.py) are written to a temporary folder: features float16 and logits float32 of 1,281,167
training, 50,000 ID validation, 50,000 ID test and 86,000 OOD images, which are 11.9 GB at 2,048 features and 1,000
classes, deleted afterwards. One process then runs the fit and score jobs of every detector in turn, from the stored
arrays to scores in memory, with one job context, as a run does: what several fits need is computed by the first that
asks (`Batch.once`). Not included are copying arrays into the store, metrics and the search for copies. With --device,
nearest training images are screened on a GPU; all else is computed on the CPU, as in a run from stored outputs.

Peak is the largest `RssAnon` of /proc/PID/status in samples 20 ms apart while a detector is fitted and scores: what is
allocated, not mapped pages. Reads are rows read of the training features, in fit and in score, divided by their number.
What `Batch.once` keeps stays in memory for the next detectors, but after one that was stopped because it took more than
`--most`: a new process goes on with the rest. Linux only.

`--share 0.02` makes all four sets a fiftieth. The last columns are then seconds at the full size if times grow with
the number of images: an extrapolation, not a measurement. It takes neither the disk into account, if files do not fit
in memory, nor fixed costs, nor rules that depend on the number of images. There is none for scores of detectors that
compare with training images: choosing the bank grows with the training images, comparing with their product with the
images that are scored.
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

import torch
from fits import Watched
from memory import PAUSE, Size, anonymous_bytes, outputs_of, write_arrays

from oodbench.benchmark import Detector
from oodbench.benchmark.errors import typed_first_line
from oodbench.benchmark.plan.jobs import Checkpoint, FitJob, Outputs, ScoreJob, SetRef
from oodbench.benchmark.plugins.detector import compares
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_spec, split_list
from oodbench.benchmark.stages.fit_score import fitted_detector, scores_of
from oodbench.benchmark.stages.memory import keep_freed_memory
from oodbench.benchmark.store.store import Key

IMAGES, ID_VAL, ID_TEST, OOD = 1_281_167, 50_000, 50_000, 86_000
"""Images of ImageNet's training split, of images held out, of its validation split, and of the OOD sets of OpenOOD's
ImageNet benchmark, about."""

INPUTS = frozenset({"features", "logits", "similarities", "head"})

SMALLER = {
    "knn": "knn[fraction=0.01,k=10]",
    "nnguide": "nnguide[fraction=0.01]",
    "relation": "relation[fraction=0.01]",
    "grood": "grood[fraction=0.01]",
}
"""Detectors that compare with all training images by default; here with a hundredth, as in the paper of `nnguide`."""


class Measured(NamedTuple):
    """One detector: seconds of fit and score, peak bytes, reads of the features; or why there are none."""

    spec: str
    fit: float
    score: float
    peak: int
    reads: float
    compares: bool
    error: str


def default_detectors() -> list[str]:
    """Post-hoc detectors that need no more than logits, features and the head."""
    found = []
    for name in registry.entries("detector"):
        kind: type[Detector] = registry.get("detector", name)
        if kind.recipe is None and kind.needs and kind.needs <= INPUTS and not kind.reads:
            found.append(SMALLER.get(name, name))
    return found


def outputs_named(name: str, images: int) -> Outputs:
    """The outputs of a set, under keys of its own."""
    logits, features = (Key(what, ".npy", what, {"set": name}) for what in ("logits", "features"))
    return Outputs(SetRef("synthetic", name, images), logits, features)


def write_sets(root: Path, size: Size, others: dict[str, int]) -> None:
    """Write the arrays of the training split, and of the other sets."""
    write_arrays(root, size)
    for name, images in others.items():
        with tempfile.TemporaryDirectory(dir=root) as folder:
            part = size._replace(images=images)
            write_arrays(Path(folder), part)
            source, target = outputs_of(images), outputs_named(name, images)
            for old, new in ((source.logits, target.logits), (source.features, target.features)):
                (root / new.path).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / old.path).rename(root / new.path)


def run_jobs(
    reports: Connection,
    root: Path,
    size: Size,
    others: dict[str, int],
    specs: list[str],
    threads: int,
    device: torch.device,
) -> None:
    """The child process: report every detector's name, and then its seconds, reads or error."""
    torch.set_num_threads(threads)
    with keep_freed_memory():  # leaves the allocator in the same state as in every process of a run
        pass
    context, train = Watched(root, size), outputs_of(size.images)
    context.device = device
    validation, *scored = (outputs_named(name, images) for name, images in others.items())
    checkpoint = Checkpoint(Key("checkpoint", "", "", {}), "", "", size.classes, (1, 1, 1))
    for spec in specs:
        reports.send(spec)
        before, fit, score, error, banked = context.features.rows, 0.0, 0.0, "", False
        asked: dict[str, Any] = {"title": "", "makes": (train.features,), "detector": spec, "checkpoint": checkpoint}
        start = time.perf_counter()
        try:
            registry.get("detector", parse_spec(spec).name)
            fit_job = FitJob(**asked, train=train, validation=validation, outliers=None, seed=0)
            detector = fitted_detector(context, fit_job, spec)
            fit, banked = time.perf_counter() - start, compares(detector)
            start = time.perf_counter()
            for outputs in scored:
                job = ScoreJob(**asked, outputs=outputs, bank=train if banked else None)
                scores_of(context, job, detector, job.outputs, lambda images: None)
            score = time.perf_counter() - start
        except Exception as failed:  # a plug-in may raise anything
            error = typed_first_line(failed)
        reports.send((fit, score, (context.features.rows - before) / size.images, banked, error))
    reports.send(None)


def measure(
    root: Path, size: Size, others: dict[str, int], specs: list[str], options: argparse.Namespace
) -> Iterator[Measured]:
    """Run all detectors in one process and monitor its memory; end it if it takes more than `--most`."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=run_jobs, args=(sender, root, size, others, specs, options.threads, options.device))
    process.start()
    sender.close()
    spec, peak = "", 0
    try:
        while True:
            if receiver.poll(PAUSE):
                message = receiver.recv()
                if message is None:
                    break
                if isinstance(message, str):
                    spec, peak = message, 0
                else:
                    fit, score, reads, banked, error = message
                    yield Measured(spec, fit, score, peak, reads, banked, error)
            peak = max(peak, anonymous_bytes(process.pid or 0))
            if peak > options.most * 1e9:
                yield Measured(spec, 0, 0, peak, 0, False, f"stopped: it takes more than {options.most:g} GB")
                process.kill()
                break
    except EOFError:
        yield Measured(spec, 0, 0, peak, 0, False, "the process ended")
    process.join()


def line(found: Measured, share: float) -> str:
    """A line of the table."""
    if found.error:
        return f"| `{found.spec}` | {found.error} | | {found.peak / 1e6:.0f} | | |"
    score = "" if found.compares else f"{found.score / share:.0f}"
    full = f"{found.fit / share:.0f} | {score}" if share < 1 else " | "
    cells = f"{found.fit:.2f} | {found.score:.2f} | {found.peak / 1e6:.0f} | {found.reads:.2f}"
    return f"| `{found.spec}` | {cells} | {full} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="of the images of every set")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images, before --share")
    parser.add_argument("--id-val", type=int, default=ID_VAL)
    parser.add_argument("--id-test", type=int, default=ID_TEST)
    parser.add_argument("--ood", type=int, default=OOD)
    parser.add_argument("--dims", type=int, default=2048, help="features per image (ViT-B: 768)")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--detectors", help="by default all of logits and features; knn, nnguide, relation with 1%%")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--folder", type=Path, help="where to put the arrays; by default the system's temporary folder")
    parser.add_argument("--most", type=float, default=8.0, help="stop a detector that takes more GB than this")
    options = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        sys.exit("perf/imagenet_scale.py reads /proc/PID/status, which this system does not have; run it on Linux.")
    specs = split_list(options.detectors) if options.detectors else default_detectors()
    size = Size(round(options.images * options.share), options.dims, options.classes, 0)
    images = {"validation": options.id_val, "id": options.id_test, "ood": options.ood}
    others = {name: round(count * options.share) for name, count in images.items()}
    totals = [0.0, 0.0, 0.0]
    peak, start = 0, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="oodbench-scale-") as folder:
        write_sets(Path(folder), size, others)
        held = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
        print(
            f"{size.images:,} training, {others['validation']:,} ID validation, {others['id']:,} ID test and "
            f"{others['ood']:,} OOD images, {size.dims:,} features, "
            f"{size.classes:,} classes: {held / 1e9:.2f} GB in {folder}, {time.perf_counter() - start:.0f} s to write; "
            f"{options.threads} threads, {options.device}"
        )
        print("| detector | fit (s) | score (s) | peak (MB) | reads | fit, extrapolated | score, extrapolated |")
        print("| :-- | --: | --: | --: | --: | --: | --: |")
        while specs:  # the process ends with a detector that takes too much; another one goes on with the rest
            for found in measure(Path(folder), size, others, specs, options):
                print(line(found, options.share), flush=True)
                totals = [a + b for a, b in zip(totals, (found.fit, found.score, found.reads), strict=True)]
                peak, specs = max(peak, 0 if found.error else found.peak), specs[1:]
        print(
            "In all, without those that were stopped: "
            f"fit {totals[0]:.1f} s, score {totals[1]:.1f} s, peak {peak / 1e6:.0f} MB, {totals[2]:.1f} reads"
        )


if __name__ == "__main__":
    main()
