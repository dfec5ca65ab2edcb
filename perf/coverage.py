"""Simulates the coverage of the intervals of `stats/intervals.py`, on scores with known distributions.

    python perf/coverage.py [--draws 2000] [--only TEXT] [--metrics auroc,tnr_at_tpr95] [--bootstrap]

There is one line per setting: the shape of the scores, the sizes of the sets, the true AUROC. An entry is the
percentage of draws whose 95% interval contains the true value, followed in brackets by those entirely above it and
entirely below it. Sets of 10,000 get a quarter of the draws. With 2,000 draws the standard error of a coverage of 95%
is 0.5 points. With --bootstrap, the percentile bootstrap with 1,000 replicates is shown in addition, on a tenth of the
draws, with the times of both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import expon, norm

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.stats.intervals import confidence_intervals

Floats = NDArray[np.float64]
Draw = tuple[Floats, Floats, NDArray[np.int64] | None]
GRID = 400_001
"""Number of points at which continuous distributions are integrated for the true values."""
SHOWN = ("auroc", "tnr_at_tpr95", "openood_fpr95", "detection_accuracy", "aupr_in", "aupr_out")
REPLICATES = 1000


@dataclass(frozen=True)
class World:
    """Two sources of scores, from which `n` ID and `m` OOD images are drawn."""

    shape: str
    auroc: float
    n: int
    m: int
    draw: Callable[[np.random.Generator, int, int], Draw]
    """(random, n, m) -> ID scores, OOD scores, and groups of both if images depend on each other."""
    at_most: tuple[Floats, Floats]
    """Shares of ID and OOD at or below each value of a grid, or of all values if there are few."""

    @property
    def name(self) -> str:
        """The printed name."""
        return f"{self.shape}, {self.n:,} + {self.m:,}, AUROC {100 * self.auroc:g}"


def truth(world: World) -> dict[str, float]:
    """Every metric for infinitely many images from both sources, from its definition."""
    id_, ood = (np.concatenate(([0.0], share)) for share in world.at_most)
    id_step, ood_step = np.diff(id_), np.diff(ood)
    tnr = 1 - ood[np.searchsorted(id_, 0.95)]
    values = {
        "auroc": float(id_step @ (1 - (ood[1:] + ood[:-1]) / 2)),
        "detection_accuracy": float(np.max(id_ - ood) + 1) / 2,
        "tnr_at_tpr95": float(tnr),
        "fpr_at_tpr95": float(1 - tnr),
        "openood_fpr95": float(1 - id_[np.searchsorted(ood, 0.05, side="right") - 1]),
    }
    for suffix, ratio in (("", 1.0), ("_counts", world.m / world.n)):
        values[f"aupr_in{suffix}"] = _ap(id_step, id_[1:], ratio * ood[1:])
        values[f"aupr_out{suffix}"] = _ap(ood_step, 1 - ood[:-1], (1 - id_[:-1]) / ratio)
    return values


def _ap(step: Floats, hits: Floats, misses: Floats) -> float:
    used = step > 0
    return float(step[used] @ (hits[used] / (hits[used] + misses[used])))


def normal(auroc: float, n: int, m: int, spread: float = 1.0, rounded: float = 0.0) -> World:
    """ID scores N(0, 1), OOD scores N(shift, spread), optionally rounded to multiples of `rounded`."""
    shift = norm.ppf(auroc) * np.hypot(1, spread)
    ends = min(-9.0, shift - 9 * spread), max(9.0, shift + 9 * spread)
    values = np.linspace(*ends, GRID)
    shape = f"normal, OOD spread {spread:g}" if spread != 1 else "normal"
    if rounded:
        shape += f", rounded to {rounded:g}"
        values = (np.arange(np.floor(ends[0] / rounded), np.ceil(ends[1] / rounded)) + 0.5) * rounded

    def draw(random: np.random.Generator, n: int, m: int) -> Draw:
        pair = random.normal(size=n), shift + spread * random.normal(size=m)
        id_scores, ood_scores = (np.round(side / rounded) if rounded else side for side in pair)
        return id_scores, ood_scores, None

    return World(shape, auroc, n, m, draw, (norm.cdf(values), norm.cdf(values, shift, spread)))


def skewed(auroc: float, n: int, m: int) -> World:
    """Exponential ID scores, exponential OOD scores with a larger mean: no monotone transform makes both normal."""
    mean = auroc / (1 - auroc)
    values = np.geomspace(1e-9, 50 * mean, GRID)

    def draw(random: np.random.Generator, n: int, m: int) -> Draw:
        return random.exponential(size=n), random.exponential(mean, size=m), None

    return World("exponential", auroc, n, m, draw, (expon.cdf(values), expon.cdf(values, scale=mean)))


def saturated(auroc: float, n: int, m: int) -> World:
    """Normal scores with all values below -1 tied, like softmax scores of confident images."""
    shift = norm.ppf(auroc) * np.sqrt(2)
    values = np.linspace(-1, shift + 9, GRID)

    def draw(random: np.random.Generator, n: int, m: int) -> Draw:
        return np.maximum(random.normal(size=n), -1), np.maximum(shift + random.normal(size=m), -1), None

    return World("normal, below -1 tied", auroc, n, m, draw, (norm.cdf(values), norm.cdf(values, shift)))


def grouped(auroc: float, n: int, m: int, known: bool, size: int = 10, shared: float = 0.5) -> World:
    """Normal scores; the images of a group have a share of the variance in common."""
    plain = normal(auroc, n, m)
    shift = norm.ppf(auroc) * np.sqrt(2)

    def draw(random: np.random.Generator, n: int, m: int) -> Draw:
        common = [random.normal(size=k // size).repeat(size) for k in (n, m)]
        scores = [np.sqrt(shared) * one + np.sqrt(1 - shared) * random.normal(size=len(one)) for one in common]
        return scores[0], scores[1] + shift, np.arange(max(n, m)) // size if known else None

    # the name seeds the random numbers: other words would give other draws than those in the documentation
    shape = f"normal, groups of {size} correlated by {shared:g}, {'told' if known else 'not told'}"
    return World(shape, auroc, n, m, draw, plain.at_most)


def with_outliers(bulk: float, n: int, m: int, share: float = 0.03) -> World:
    """Normal scores with AUROC `bulk`, but `share` of ID scores are beyond all OOD scores: mislabelled images."""
    shift, far = norm.ppf(bulk) * np.sqrt(2), 1000.0
    values = np.append(np.linspace(-9, shift + 9, GRID), far)

    def draw(random: np.random.Generator, n: int, m: int) -> Draw:
        id_scores = random.normal(size=n)
        return np.where(random.random(n) < share, far, id_scores), shift + random.normal(size=m), None

    at_most = np.where(values < far, (1 - share) * norm.cdf(values), 1.0), norm.cdf(values, shift)
    return World(f"normal, {100 * share:g}% of ID beyond all OOD", (1 - share) * bulk, n, m, draw, at_most)


def few_groups(auroc: float, of_id: int, of_ood: int, shared: float, size: int = 100) -> World:
    """`grouped` with so many known groups of ID and OOD images."""
    world = grouped(auroc, of_id * size, of_ood * size, True, size, shared)
    return replace(world, shape=f"normal, {of_id} + {of_ood} groups of {size} correlated by {shared:g}")


def worlds() -> Iterator[World]:
    """All settings."""
    for size in (50, 1000, 10_000):
        yield from (normal(value, size, size) for value in (0.5, 0.8, 0.9, 0.99))
    for n, m in ((20, 20), (20, 1000), (50, 1000), (1000, 50)):
        yield from (normal(value, n, m) for value in (0.9, 0.99))
    for size in (50, 1000):
        yield from (normal(0.9, size, size, spread) for spread in (0.5, 2.0))
        yield normal(0.9, size, size, rounded=0.5)
        yield saturated(0.9, size, size)
        yield skewed(0.9, size, size)
    for known in (True, False):
        yield grouped(0.9, 1000, 1000, known)
    yield grouped(0.9, 100, 100, True)
    yield grouped(0.9, 500, 500, True, 100, 0.05)
    for size in (50, 1000):
        yield normal(0.9, size, size, rounded=1.0)
        yield with_outliers(0.99, size, size)
    yield from (normal(value, few, 1000) for few in (3, 6) for value in (0.9, 0.96))
    for of_id, of_ood in ((2, 2), (2, 4), (2, 6), (3, 3), (4, 2), (4, 4), (6, 2), (6, 6)):
        yield from (few_groups(*case) for case in few_cases(of_id, of_ood))


def few_cases(of_id: int, of_ood: int) -> Iterator[tuple[float, int, int, float]]:
    """(AUROC, ID groups, OOD groups, share of the variance in common)."""
    for value, shared in ((0.8, 0.1), (0.96, 0.02), (0.96, 0.1), (0.96, 0.3), (0.9, 0.7)):
        yield value, of_id, of_ood, shared


def bootstrap(id_scores: Floats, ood_scores: Floats, random: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap of the metrics without a threshold at a given TPR; for scores without ties."""
    order = np.argsort(np.concatenate((id_scores, ood_scores)))
    steps = np.zeros((2, REPLICATES, len(order)))
    for k, (start, count) in enumerate(((0, len(id_scores)), (len(id_scores), len(ood_scores)))):
        weights = random.multinomial(count, np.full(count, 1 / count), REPLICATES) / count
        steps[k][:, start : start + count] = weights
    (id_step, ood_step), (id_, ood) = steps[:, :, order], steps[:, :, order].cumsum(axis=2)
    with np.errstate(invalid="ignore"):
        found = {
            "auroc": (ood_step * (id_ - id_step / 2)).sum(axis=1),
            "detection_accuracy": ((id_ - ood).max(axis=1).clip(0) + 1) / 2,
            "aupr_in": np.nansum(id_step * id_ / (id_ + ood), axis=1),
            "aupr_out": np.nansum(ood_step * (1 - ood + ood_step) / (2 - ood - id_ + ood_step + id_step), axis=1),
        }
    return {
        name: (float(low), float(high)) for name, v in found.items() for low, high in [np.quantile(v, [0.025, 0.975])]
    }


def measure(world: World, draws: int, names: tuple[str, ...], bootstrapped: bool, seed: int = 0) -> Iterator[str]:
    """Yield the setting's line, and that of the bootstrap."""
    true, random = truth(world), np.random.default_rng([seed, *world.name.encode()])
    draws = max(draws // (4 if world.n == 10_000 else 10 if bootstrapped else 1), 1)
    ours: list[dict[str, tuple[float, float]]] = []
    theirs: list[dict[str, tuple[float, float]]] = []
    seconds = [0.0, 0.0]
    for _ in range(draws):
        id_scores, ood_scores, groups = world.draw(random, world.n, world.m)
        by_set = [None, None] if groups is None else [groups[: world.n], groups[: world.m]]
        start = time.process_time()
        ours.append(confidence_intervals(id_scores, ood_scores, *by_set))
        middle = time.process_time()
        theirs += [bootstrap(id_scores, ood_scores, random)] if bootstrapped else []
        seconds = [seconds[0] + middle - start, seconds[1] + time.process_time() - middle]
    kinds = [("", ours, seconds[0])] + ([("; bootstrap", theirs, seconds[1])] if bootstrapped else [])
    for kind, found, took in kinds:
        cells = [_covered([one[name] for one in found], true[name]) if name in found[0] else "" for name in names]
        yield f"| {world.name}{kind} | {draws} | {' | '.join(cells)} | {1000 * took / draws:.1f} |"


def _covered(found: list[tuple[float, float]], true: float) -> str:
    low, high = np.transpose(found)
    slack = 1e-6  # error of the numerical integration behind the true value
    above, below = 100 * np.mean(low > true + slack), 100 * np.mean(high < true - slack)
    return f"{100 - above - below:.1f} ({above:.1f}, {below:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("--metrics", default=",".join(SHOWN), help=f"of {', '.join(METRICS)}")
    parser.add_argument("--bootstrap", action="store_true")
    options = parser.parse_args()
    names = tuple(options.metrics.split(","))
    print(f"| scores, ID + OOD | draws | {' | '.join(names)} | ms |")
    print(f"| :-- | --: | {' | '.join('--:' for _ in names)} | --: |")
    for world in worlds():
        if options.only in world.name:
            for line in measure(world, options.draws, names, options.bootstrap):
                print(line, flush=True)


if __name__ == "__main__":
    main()
