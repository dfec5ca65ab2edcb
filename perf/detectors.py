"""Measures the CPU time of fit and score of each detector on existing outputs, compared with pytorch-ood.

    python perf/detectors.py [--fit 10000] [--test 10000] [--units 512] [--repeats 3] [--only msp,knn | --only matrix]
    pip install --no-deps pytorch-ood==0.4.0      # for the comparison; without it only our times are printed

The network and the sets are those of perf/_world.py: one ID test set and five OOD sets, in one process with one thread.

- Each detector: fit on --fit images, score one set of --test images, from logits and features in memory. Ours in
  float64 and in the harness's blocks; pytorch-ood's with `fit_*` and `predict_*` on the whole tensor. odin includes its
  two passes. Our time for knn, nnguide and relation includes the product of features that they share in a run.
- The matrix: the seven detectors of `MATRIX` on ID and five OOD sets. Ours: one pass per set, fit, score, with one
  product. pytorch-ood's: as in its documented loop, a loader of ID and OOD images for every OOD set, with separate
  passes for each detector; and, in its favour, each set once, from our outputs.

Times are CPU seconds (`time.process_time`), which other programs on the machine affect less than wall-clock time; the
best of a detector's repeats.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from _pytorch_ood import LOADED, fit_theirs, score_theirs, seconds, theirs
from _world import World, fitted, make_world, scores

OURS = (
    *("msp", "max_logit", "energy", "entropy", "gen", "doctor", "temperature_scaling", "kl_matching", "openmax"),
    *("mahalanobis", "relative_mahalanobis", "gmm", "ssd", "knn", "nnguide", "relation", "cosine"),
    *("mahalanobis_pp", "rmds_pp", "kpca", "neco", "pnml", "cfood"),
    *("vim", "residual", "she", "fdbd", "nci", "caref", "cadref", "weiper", "grood"),
    *("react", "dice", "ash", "scale", "vra", "gradnorm", "odin", "iodin", "nac"),
    *("lts", "optfs", "rank_shift", "actsub"),
)
MATRIX = ("msp", "energy", "max_logit", "mahalanobis", "knn", "vim", "odin")
SHARING = ("knn", "nnguide", "relation", "grood")


def compare(name: str, world: World, peer: dict[str, tuple[Any, str]], repeats: int) -> str:
    """The row of one detector."""
    fit = seconds(lambda: fitted(name, world), repeats)
    detector = fitted(name, world)
    score = seconds(lambda: scores([detector], world.test, world), repeats)
    row = f"{name:22} {1e3 * fit:9.1f} {1e3 * score:9.1f}"
    if name not in peer:
        return row
    one, kind = peer[name]
    try:
        their_fit = seconds(lambda: fit_theirs(name, one, kind, world), repeats)
        their_score = seconds(lambda: score_theirs(one, kind, world.test), repeats)
    except Exception as error:  # pytorch-ood may not accept these data
        return f"{row}   theirs: {type(error).__name__}: {error}"
    total = (their_fit + their_score) / (fit + score)
    return f"{row} {1e3 * their_fit:9.1f} {1e3 * their_score:9.1f} {their_score / score:9.2f} {total:9.2f}"


def our_matrix(names: list[str], world: World) -> None:
    """Everything starting from images: one pass per set, fit and score; one product for the detectors that share it."""
    sets = [one.images for one in (world.fit, world.validation, world.test, *world.ood.values())]
    for images in sets:
        for part in images.split(LOADED):
            world.network.head(world.network.features(part))
    alone = [[fitted(name, world)] for name in names if name not in SHARING]
    together = [fitted(name, world) for name in names if name in SHARING]
    for outputs in (world.test, *world.ood.values()):
        for group in (*alone, together) if together else alone:
            scores(group, outputs, world)


def their_matrix(names: list[str], world: World, from_outputs: bool) -> None:
    """The same with pytorch-ood: in its own loop from images, or each set once from our outputs."""
    peer = theirs(world)
    for name in names:
        one, kind = peer[name]
        if not from_outputs and kind != "images":
            for part in world.fit.images.split(LOADED):
                world.network(part)
        fit_theirs(name, one, kind, world)
        if from_outputs:
            for outputs in (world.test, *world.ood.values()):
                score_theirs(one, kind, outputs)
        else:
            for outputs in world.ood.values():
                for images in (world.test.images, outputs.images):
                    for part in images.split(LOADED):
                        one.predict(part)


def main() -> None:
    """Print one row per detector, then the matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=10_000, help="images to fit on")
    parser.add_argument("--test", type=int, default=10_000, help="images in each scored set")
    parser.add_argument("--units", type=int, default=512, help="features")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="detectors, separated by commas; 'matrix' for the matrix only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        world = make_world(options.fit, options.test, options.units)
        try:
            peer = theirs(world)
        except ImportError:
            peer = {}
            print("pytorch-ood is not installed (pip install --no-deps pytorch-ood==0.4.0): only our times are shown")
        print(f"{options.fit} x {options.units} to fit on, {options.test} to score; milliseconds of CPU, one thread")
        only = [name for name in OURS if not options.only or name in options.only.split(",")]
        if only:
            print(f"{'':22} {'our fit':>9} {'score':>9} {'their fit':>9} {'score':>9} {'score x':>9} {'both x':>9}")
        for name in only:
            print(compare(name, world, peer, options.repeats), flush=True)
        if options.only not in ("", "matrix"):
            return
        for names in (list(MATRIX), [name for name in MATRIX if name != "odin"]):
            ours = seconds(lambda names=names: our_matrix(names, world))
            print(f"{len(names)} detectors, ID and {len(world.ood)} OOD sets ({', '.join(names)}): ours {ours:.2f} s")
            for what, from_outputs in (("as documented", False), ("from our outputs", True)) if peer else ():
                other = seconds(lambda names=names, how=from_outputs: their_matrix(names, world, how))
                print(f"  pytorch-ood {what}: {other:.2f} s, {other / ours:.2f} x", flush=True)


if __name__ == "__main__":
    main()
