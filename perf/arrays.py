"""Measures `fit` and `score` on arrays in memory beside pytorch-ood's, and `knn` beside the harness's own path.

    python perf/arrays.py [--fit 10000] [--test 10000] [--units 512] [--repeats 3] [--only msp,knn] [--harness N]
    pip install --no-deps pytorch-ood==0.4.0      # for the comparison; without it only our times are printed

Each detector that both packages have, on the world of perf/_world.py, in one process with one thread: fit on --fit
images and score a set of --test images, from the same tensors. Ours: `fit(name, features=, logits=, labels=, head=,
validation=)` and `score(features=, logits=)`, checks of the arrays and copies included. pytorch-ood's: `fit_features`,
`predict_features` and the like. Ours get everything, as a loop over detectors would give it. Their first call is not
timed, nor is ours.

`--harness N`: `knn` with N images of --units features, 10,000 scored; arrays in memory here, and in the store of a run
there, read by the same functions as in a run.

Times are CPU seconds (`time.process_time`), which other programs on the machine affect less than wall-clock time; the
best of the repeats, which alternate; of calls that take less than 10 ms, twenty in a row are timed. The last column is
the median over the repeats of the ratio of both times, fit and score together; the one before it is that of the best.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _pytorch_ood import fit_theirs, score_theirs, seconds, theirs
from _world import Outputs, World, make_world
from memory import Size, Synthetic, outputs_of, write_arrays

from oodbench.benchmark import FittedDetector, fit
from oodbench.benchmark.plan.jobs import Checkpoint, FitJob, ScoreJob
from oodbench.benchmark.stages.fit_score import fitted_detector, scores_of
from oodbench.benchmark.store.store import Key

NEED_IMAGES = ("odin", "iodin", "nac")

SHORT, IN_A_ROW = 0.01, 20
"""CPU seconds up to which a call is timed several times in a row, and how many times."""


def arrays_of(outputs: Outputs, labelled: bool = True) -> dict[str, Any]:
    """A set as `fit` and `score` take it."""
    found = {"features": outputs.features, "logits": outputs.logits}
    return {**found, "labels": outputs.labels} if labelled else found


def ours(name: str, world: World) -> FittedDetector:
    """Our detector, fitted on a world."""
    head = world.network.head.weight, world.network.head.bias
    return fit(name, head=head, validation=arrays_of(world.validation), **arrays_of(world.fit))


def seconds_each(call: Any, count: int) -> float:
    """CPU seconds of one of several calls in a row."""
    return seconds(lambda: [call() for _ in range(count)]) / count


def row(name: str, world: World, one: Any, kind: str, repeats: int) -> tuple[str, float]:
    """The line of one detector, and how many times as long pytorch-ood takes; 0 if it fails."""
    detector, images = ours(name, world), arrays_of(world.test, labelled=False)
    detector.score(**images)
    calls: list[Any] = [lambda: ours(name, world), lambda: detector.score(**images)]
    try:
        if one is not None:
            fit_theirs(name, one, kind, world)
            score_theirs(one, kind, world.test)
            calls += [lambda: fit_theirs(name, one, kind, world), lambda: score_theirs(one, kind, world.test)]
        counts = [IN_A_ROW if seconds(call) < SHORT else 1 for call in calls]
        rounds = [[seconds_each(*timed) for timed in zip(calls, counts, strict=True)] for _ in range(repeats)]
    except Exception as error:  # pytorch-ood may not accept these data
        return f"{name:22} theirs: {type(error).__name__}: {error}", 0.0
    best = [min(times) for times in zip(*rounds, strict=True)]
    times = " ".join(f"{1e3 * time:9.2f}" for time in best)
    if one is None:
        return f"{name:22} {times}", 0.0
    total = (best[2] + best[3]) / (best[0] + best[1])
    middle = median((their_fit + their_score) / (fit + score) for fit, score, their_fit, their_score in rounds)
    return f"{name:22} {times} {best[3] / best[1]:9.2f} {total:9.2f} {middle:9.2f}", middle


def beside_the_harness(images: int, units: int, repeats: int) -> str:
    """CPU seconds of `knn` through `fit` and `score`, and through the functions of a run, and their ratio."""
    size = Size(images, units, 10, 10_000)
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(Path(folder), size)
        context, train = Synthetic(Path(folder), size), outputs_of(images)
        key = Key("checkpoint", "", "", {})
        asked: dict[str, Any] = {
            "title": "", "makes": (train.features,), "detector": "knn",
            "checkpoint": Checkpoint(key, "", "", size.classes, (1, 1, 1)),
        }  # fmt: skip
        job = ScoreJob(**asked, outputs=outputs_of(size.scored), bank=train)
        features, labels = context.store.load_array(train.features), context.labels(train.data)
        known = {"features": features, "labels": labels}
        held_out = {"features": features[:100], "labels": labels[:100]}

        def in_a_run() -> Any:
            fit_job = FitJob(**asked, train=train, validation=train, outliers=None, seed=0)
            detector = fitted_detector(context, fit_job, "knn")
            return scores_of(context, job, detector, job.outputs, lambda count: None)

        def on_arrays() -> Any:
            return fit("knn", **known, validation=held_out).score(features=features[: size.scored])

        if not (in_a_run() == on_arrays()).all():
            raise AssertionError("the scores differ")
        run = arrays = float("inf")
        for _ in range(repeats):
            run, arrays = min(run, seconds(in_a_run)), min(arrays, seconds(on_arrays))
    return (
        f"knn, {images:,} x {units}, 10,000 scored, CPU seconds: run {run:.2f}, arrays {arrays:.2f} "
        f"({100 * (arrays / run - 1):+.1f}%); same scores"
    )


def main() -> None:
    """Print a row per detector, or the comparison with the harness."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=10_000, help="images to fit on")
    parser.add_argument("--test", type=int, default=10_000, help="images that are scored")
    parser.add_argument("--units", type=int, default=512, help="features")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="detectors, separated by commas")
    parser.add_argument("--harness", type=int, default=0, metavar="N", help="knn with N images beside a run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.harness:
        print(beside_the_harness(options.harness, options.units, options.repeats))
        return
    with torch.no_grad():
        world = make_world(options.fit, options.test, options.units)
        try:
            peer = {name: one for name, one in theirs(world).items() if name not in NEED_IMAGES}
        except ImportError:
            peer = {}
            print("pytorch-ood is not installed (pip install --no-deps pytorch-ood==0.4.0): only our times are shown")
        print(f"{options.fit} x {options.units} to fit on, {options.test} to score; milliseconds of CPU, one thread")
        columns = ("our fit", "score", "their fit", "score", "score x", "both x", "median x")
        print(f"{'':22} " + " ".join(f"{column:>9}" for column in columns))
        ratios = []
        names = options.only.split(",") if options.only else list(peer) or ["msp", "vim", "knn"]
        for name in names:
            line, ratio = row(name, world, *peer.get(name, (None, "")), options.repeats)
            ratios += [ratio] if ratio else []
            print(line, flush=True)
        if ratios:
            several = sum(ratio >= 2 for ratio in ratios)
            print(f"{len(ratios)} detectors: smallest ratio {min(ratios):.2f}, {several} of them 2 or more")


if __name__ == "__main__":
    main()
