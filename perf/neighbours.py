"""Measures the search for nearest training images: by screening in bfloat16, and by the float32 product.

    python perf/neighbours.py [--images 60000] [--bank 10000] [--dims 512] [--detector knn[k=50]] [--threads 1]
        [--device cuda]

Scores of a detector that asks for `Batch.neighbours` are computed through the harness's own path twice: as it is, and
with screening switched off. Both must agree in every bit, or this script fails. Both are repeated in turn; it prints
the least CPU and wall seconds of either way and of the float32 product alone, their ratios, and how many images were
decided by screening. Without hardware for bfloat16, screening is not tried, and the script says so.

Features are absolute values of normal numbers (--features normal), or scattered around the centres of --classes
classes, in few directions, as those of trained networks are (--features classes).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from _spent import Spent, spent

from oodbench.benchmark import Classifier, Detector, FitData
from oodbench.benchmark.plugins.neighbours import shared
from oodbench.benchmark.plugins.neighbours.hardware import multiplies_bfloat16
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.detecting.set_arrays import SetArrays, array_batch
from oodbench.benchmark.stages.detecting.similarities import DetectorScores, score_with_bank
from oodbench.benchmark.stages.memory import keep_freed_memory

RANK = 16
"""Directions in which the features of a class are scattered."""


def features_of(options: argparse.Namespace, count: int, seed: int) -> np.ndarray:
    """Synthetic features, float32 (count, D)."""
    random = np.random.default_rng(seed)
    features: np.ndarray = np.abs(random.standard_normal((count, options.dims), dtype=np.float32))
    if options.features == "classes":
        shapes = np.random.default_rng(9)
        centres = shapes.gamma(0.5, 2.0, (options.classes, options.dims)).astype(np.float32)
        directions = shapes.standard_normal((options.classes, RANK, options.dims), dtype=np.float32)
        drawn = random.standard_normal((count, RANK), dtype=np.float32) / RANK**0.5
        for label in range(options.classes):
            own = slice(label, count, options.classes)
            features[own] = np.maximum(0, 0.1 * features[own] + centres[label] + drawn[own] @ directions[label])
    return features


def fitted(options: argparse.Namespace, bank: SetArrays) -> Detector:
    """The detector, fitted on the bank."""
    detector: Detector = create("detector", parse_spec(options.detector))
    train = array_batch(detector, bank, labelled=True)
    head = torch.nn.Module()
    head.head = torch.nn.Linear(options.dims, options.classes)
    detector.fit(Classifier(head, options.classes), FitData(train, train))
    return detector


def scored(
    detector: Detector, bank: TrainingBank, images: SetArrays, screening: bool, device: torch.device
) -> tuple[np.ndarray, Spent]:
    """Scores of a set, float64 (N,), and their seconds."""
    searches_of = shared.searches_of
    shared.searches_of = searches_of if screening else lambda *given: None
    outcomes: list[DetectorScores | Exception] = []
    seconds = spent(
        lambda: outcomes.extend(
            score_with_bank(
                [detector],
                bank,
                images,
                lambda one, own, product: array_batch(one, images, bank=own, similarities=product),
                0,
                device,
            )
        )
    )
    shared.searches_of = searches_of
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome.scores, seconds


def multiply(bank: TrainingBank, images: SetArrays) -> None:
    """Compute the similarities of a set, without a detector."""
    for begin in range(0, images.count, bank.block):
        bank.similarities(images.feature_rows(slice(begin, min(begin + bank.block, images.count))))


def count_screened() -> list[int]:
    """Numbers of images that are screened from now on, call by call."""
    counts: list[int] = []

    def counted(original: shared.Find) -> shared.Find:
        def find(screen: shared.Search, units: torch.Tensor) -> torch.Tensor | None:
            found = original(screen, units)
            counts.append(0 if found is None else len(units))
            return found

        return find

    searched = shared.SharedProduct.searched
    shared.SharedProduct.searched = lambda self, rows, what, k, weights, find: searched(  # type: ignore[method-assign]
        self, rows, what, k, weights, counted(find)
    )
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--bank", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--detector", default="knn[k=50]")
    parser.add_argument("--features", choices=("normal", "classes"), default="normal")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    registry.get("detector", parse_spec(options.detector).name)
    labels = np.arange(options.bank) % options.classes
    logits = np.random.default_rng(5).normal(2, 2, (options.bank, options.classes))
    train = SetArrays(options.bank, logits, features_of(options, options.bank, 0), labels)
    detector, counts = fitted(options, train), count_screened()
    bank = TrainingBank(features_of(options, options.bank, 0))
    some = np.random.default_rng(6).normal(2, 2, (options.images, options.classes))
    images = SetArrays(options.images, some, features_of(options, options.images, 1))
    times: dict[str, list[Spent]] = {"plain": [], "screened": [], "product": []}
    same = True
    with keep_freed_memory():
        for _ in range(options.repeats):
            first, seconds = scored(detector, bank, images, True, options.device)
            times["screened"].append(seconds)
            second, seconds = scored(detector, bank, images, False, options.device)
            times["plain"].append(seconds)
            same &= first.tobytes() == second.tobytes()
            times["product"].append(spent(lambda: multiply(bank, images)))
    print(f"{options.detector}: {options.images:,} x {options.bank:,} x {options.dims}, {options.features} features")
    hardware = "yes" if multiplies_bfloat16(options.device) else "no, so that nothing is screened"
    print(f"hardware for bfloat16 ({options.device}): {hardware}")
    print(f"bytes of the scores: {'equal' if same else 'DIFFERENT'}")
    print(f"screened: {sum(counts) // options.repeats:,} of {options.images:,} images")
    for clock in Spent._fields:
        least = {name: min(getattr(one, clock) for one in found) for name, found in times.items()}
        plain, screened, product = least["plain"], least["screened"], least["product"]
        print(f"{clock}: float32 product alone {product:.2f} s, {options.detector} with it {plain:.2f} s, ", end="")
        print(f"with screening {screened:.2f} s: ratio {plain / screened:.2f}; to the product {product / screened:.2f}")
    if not same:
        sys.exit("Scores differ.")


if __name__ == "__main__":
    main()
