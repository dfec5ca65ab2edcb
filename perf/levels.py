"""Simulates how often the tests of `bench compare` reject a true null, and whether the 95% set contains the best.

    python perf/levels.py [--draws 2000] [--only WORD]

Prints one line per case: the share of draws in percent, and its standard error. Scores are normal, with N ID and N OOD
images; detectors share half of the variance of every image. "Shapes differ": the second detector's OOD scores have
twice the standard deviation, and the mean that makes the two metrics equal in the population. Recipes: a third of an
image's variance is common to all networks, a third to a recipe's networks, a third is specific to the network; every
network also has its own shift. Every case has its own random seed.
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.stats.bootstrap import METRICS, Scores, resampled
from oodbench.benchmark.stats.clustered import ResamplingUnits
from oodbench.benchmark.stats.delong import Placements
from oodbench.benchmark.stats.estimates import (
    estimate_from_influences,
    estimate_from_placements,
    estimate_from_resamples,
)
from oodbench.benchmark.stats.intervals import PRECISIONS, precision_influences
from oodbench.benchmark.stats.paired_tests import JointEstimate, best_set
from oodbench.benchmark.stats.rank_tests import rank_tests

Floats = NDArray[np.float64]
Case = tuple[str, Callable[[np.random.Generator], dict[str, bool]]]

SHIFT = 1.5
"""Shift of OOD scores, in standard deviations of a detector's scores: AUROC 0.856."""
ALPHA = 0.05
IMAGES, RESAMPLES = 100, 300
"""Of the bootstrap cases: few, so that they are difficult and quick."""
NORMALS = 2000
"""Number of draws behind a simulated critical value; `bench compare` uses more."""
TNR = "tnr_at_tpr95"
TABLE = 15
"""Number of detectors in a simulated table."""


def detectors(rng: np.random.Generator, n: int, shifts: Floats, widths: Floats | None = None) -> list[Scores]:
    """Scores of len(shifts) detectors on the same n ID and n OOD images."""
    count = len(shifts)
    noise = (rng.normal(size=(2, 1, n)) + rng.normal(size=(2, count, n))) / np.sqrt(2)
    spread = np.ones(count) if widths is None else widths
    return [(noise[0, d], shifts[d] + spread[d] * noise[1, d]) for d in range(count)]


def recipes(rng: np.random.Generator, seeds: int, count: int, spread: float, n: int = 200) -> list[list[Scores]]:
    """Scores on networks of `count` equal recipes with `seeds` seeds each; `spread` is the sd of a network's shift."""
    sizes = ((1, 1), (1, count), (seeds, count))
    noise = sum(rng.normal(size=(2, *size, n)) for size in sizes) / np.sqrt(len(sizes))
    shifts = SHIFT + spread * rng.normal(size=(seeds, count, 1))
    return [[(noise[0, s, d], (noise[1] + shifts)[s, d]) for d in range(count)] for s in range(seeds)]


def auroc_joint(
    scores: list[list[Scores]], different_networks: bool, rng: np.random.Generator, draws: int = 1
) -> JointEstimate:
    count = len(scores[0])
    placed = [[Placements.of(*pair) for pair in of_seed] for of_seed in scores]
    return estimate_from_placements(placed, different_networks & ~np.eye(count, dtype=bool), rng, draws)


def influence_joint(metric: str, scores: list[Scores], rng: np.random.Generator, draws: int = 1) -> JointEstimate:
    different_networks = np.zeros((len(scores), len(scores)), dtype=bool)
    values = np.array([[evaluate(*pair)[metric] for pair in scores]])
    added = [[precision_influences(metric, *pair) for pair in scores]]
    units = ResamplingUnits.of(len(scores[0][0])), ResamplingUnits.of(len(scores[0][1]))
    return estimate_from_influences(values, added, different_networks, rng, units, draws)


def bootstrap_joints(
    metrics: Iterable[str], scores: list[Scores], rng: np.random.Generator
) -> dict[str, JointEstimate]:
    different_networks = np.zeros((len(scores), len(scores)), dtype=bool)
    measured = [evaluate(*pair) for pair in scores]
    drawn = resampled(list(metrics), [scores], RESAMPLES, rng)
    signs = {metric: -1 if "fpr" in metric else 1 for metric in drawn}
    values = {metric: np.array([[signs[metric] * one[metric] for one in measured]]) for metric in drawn}
    return {
        metric: estimate_from_resamples(values[metric], signs[metric] * drawn[metric], different_networks)
        for metric in drawn
    }


def equal_shift(metric: str, width: float) -> float:
    """The OOD mean at which a detector with OOD standard deviation `width` has the same metric as one with 1."""
    grid = stats.norm.ppf((np.arange(40_000) + 0.5) / 40_000)
    target = evaluate(grid, grid + SHIFT)[metric]
    return float(optimize.brentq(lambda mu: evaluate(grid, width * grid + mu)[metric] - target, -2, 8, xtol=1e-4))


def delong_cases() -> Iterator[Case]:
    """Two detectors of equal AUROC on one checkpoint."""
    for n in (50, 100, 500):
        for shape, width in (("equal", 1.0), ("shapes differ", 2.0)):
            shifts = np.array([SHIFT, equal_shift("auroc", width)])

            def draw(
                rng: np.random.Generator, n: int = n, shifts: Floats = shifts, width: float = width
            ) -> dict[str, bool]:
                scores = detectors(rng, n, shifts, np.array([1, width]))
                return {"p < 5%": auroc_joint([scores], False, rng).p[0, 1] < ALPHA}

            yield f"AUROC, DeLong, N = {n}, {shape}", draw


def bootstrap_cases() -> Iterator[Case]:
    """Two detectors with equal values of another metric."""

    def equal(rng: np.random.Generator) -> dict[str, bool]:
        scores = detectors(rng, IMAGES, np.full(2, SHIFT))
        return {metric: joint.p[0, 1] < ALPHA for metric, joint in bootstrap_joints(METRICS, scores, rng).items()}

    yield f"bootstrap, N = {IMAGES}, equal", equal
    # With equal numbers of ID and OOD images every other metric equals one of these up to its sign. `bench compare` no
    # longer judges AUPR by the bootstrap (see `aupr_cases`).
    by_threshold = TNR, "openood_fpr95", "detection_accuracy"
    cases = [
        *itertools.product((*by_threshold, "aupr_in", "aupr_out"), (100, 500), (2.0,)),
        *itertools.product(by_threshold, (50,), (2.0,)),
        *itertools.product(("detection_accuracy",), (50, 100), (4.0,)),
    ]
    for metric, n, width in cases:
        shifts, spread = np.array([SHIFT, equal_shift(metric, width)]), np.array([1.0, width])

        def draw(
            rng: np.random.Generator, metric: str = metric, shifts: Floats = shifts, spread: Floats = spread, n: int = n
        ) -> dict[str, bool]:
            scores = detectors(rng, n, shifts, spread)
            return {metric: bootstrap_joints([metric], scores, rng)[metric].p[0, 1] < ALPHA}

        # the name seeds the random numbers: other words would give other draws than those in the documentation
        shape = "shapes differ" if width == 2 else f"OOD spread {width:g}"
        yield f"bootstrap, N = {n}, {shape}, {metric}", draw


def aupr_cases() -> Iterator[Case]:
    """Two detectors of equal AUPR on one checkpoint."""
    for metric, n, (shape, width) in itertools.product(
        ("aupr_in", "aupr_out"), (50, 100, 500), (("equal", 1.0), ("shapes differ", 2.0))
    ):
        shifts = np.array([SHIFT, equal_shift(metric, width)])

        def draw(
            rng: np.random.Generator, metric: str = metric, n: int = n, shifts: Floats = shifts, width: float = width
        ) -> dict[str, bool]:
            scores = detectors(rng, n, shifts, np.array([1, width]))
            return {"p < 5%": influence_joint(metric, scores, rng).p[0, 1] < ALPHA}

        yield f"AUPR, N = {n}, {shape}, {metric}", draw


def group_cases() -> Iterator[Case]:
    """Two equal detectors whose scores of ID images depend on the image's group, and 200 independent OOD images."""
    for groups, size in ((10, 20), (4, 50)):
        group = np.arange(groups * size) // size
        for known, metric in ((True, "auroc"), (True, TNR), (True, "aupr_in"), (False, "auroc")):
            units = ResamplingUnits.of(len(group), group if known else None), ResamplingUnits.of(200)

            def draw(
                rng: np.random.Generator, group: Any = group, metric: str = metric, units: Any = units
            ) -> dict[str, bool]:
                plain = detectors(rng, 200, np.full(2, SHIFT))
                scores = [(ind + rng.normal(size=group.max() + 1)[group] / 2**0.5, ood) for ind, ood in plain]
                return {"p < 5%": grouped_joint(metric, scores, units, rng).p[0, 1] < ALPHA}

            # the name seeds the random numbers: other words would give other draws than those in the documentation
            yield f"{groups} ID groups of {size}, {'told' if known else 'untold'}, {metric}", draw
    for (of_id, of_ood), metric in itertools.product(
        ((4, 2), (2, 4), (4, 4)), ("auroc", TNR, "openood_fpr95", "aupr_in")
    ):
        yield f"{of_id} ID and {of_ood} OOD groups of 50, {metric}", few_groups_case(of_id, of_ood, metric)


def few_groups_case(of_id: int, of_ood: int, metric: str) -> Callable[[np.random.Generator], dict[str, bool]]:
    """Two equal detectors whose scores depend on the groups of 50 ID and of 50 OOD images."""
    groups = [np.arange(50 * count) // 50 for count in (of_id, of_ood)]
    units = ResamplingUnits.of(len(groups[0]), groups[0]), ResamplingUnits.of(len(groups[1]), groups[1])

    def draw(rng: np.random.Generator) -> dict[str, bool]:
        noise = [rng.normal(size=(3, len(group))) + rng.normal(size=(3, group.max() + 1))[:, group] for group in groups]
        id_scores, ood_scores = (own[0] + own[1:] for own in noise)
        scores = [(id_scores[d] / 2, SHIFT + ood_scores[d] / 2) for d in range(2)]
        return {"p < 5%": grouped_joint(metric, scores, units, rng).p[0, 1] < ALPHA}

    return draw


def grouped_joint(metric: str, scores: list[Scores], units: Any, rng: np.random.Generator) -> JointEstimate:
    different_networks = np.zeros((2, 2), dtype=bool)
    values = np.array([[evaluate(*pair)[metric] for pair in scores]])
    if metric == "auroc":
        return estimate_from_placements([[Placements.of(*pair) for pair in scores]], different_networks, rng, 1, units)
    if metric in PRECISIONS:
        return estimate_from_influences(
            values, [[precision_influences(metric, *p) for p in scores]], different_networks, rng, units, 1
        )
    return estimate_from_resamples(
        values, resampled([metric], [scores], RESAMPLES, rng, units)[metric], different_networks, units, rng
    )


def seed_cases() -> Iterator[Case]:
    """Two recipes whose networks have their own shifts; and two detectors on the same three fixed networks."""
    for seeds in (2, 3, 5):
        for spread in (0.0, 0.1, 0.5):

            def draw(rng: np.random.Generator, seeds: int = seeds, spread: float = spread) -> dict[str, bool]:
                return {"p < 5%": auroc_joint(recipes(rng, seeds, 2, spread), True, rng).p[0, 1] < ALPHA}

            yield f"AUROC, recipes, {seeds} seeds, N = 200, sd of a network's shift {spread}", draw

    def fixed(rng: np.random.Generator) -> dict[str, bool]:
        shifts = np.array([[1.2, 1.8], [1.5, 1.2], [1.8, 1.5]])
        scores = [detectors(rng, 200, of_network) for of_network in shifts]
        return {"p < 5%": auroc_joint(scores, False, rng).p[0, 1] < ALPHA}

    yield "AUROC, same three checkpoints, N = 200", fixed


def column_cases() -> Iterator[Case]:
    """A column of equal detectors; the first represents the one that is best by a tiny margin."""

    def events(joint: JointEstimate) -> dict[str, bool]:
        top = int(joint.values.argmax())
        pairwise = joint.p[top] >= ALPHA
        ours = best_set(joint)
        return {
            "Holm rejects any pair": bool((joint.holm < ALPHA).any()),
            "pairwise 5% tests leave out the best": not pairwise[0],
            "pairwise 5% tests leave out any of the equals": not pairwise.all(),
            "ours leaves out the best": not ours[0],
            "ours leaves out any of the equals": not ours.all(),
        }

    def tnr(rng: np.random.Generator) -> dict[str, bool]:
        return events(bootstrap_joints([TNR], detectors(rng, IMAGES, np.full(TABLE, SHIFT)), rng)[TNR])

    def aupr(rng: np.random.Generator) -> dict[str, bool]:
        scores = detectors(rng, IMAGES, np.full(TABLE, SHIFT))
        return events(influence_joint("aupr_in", scores, rng, NORMALS))

    def trained(rng: np.random.Generator) -> dict[str, bool]:
        return events(auroc_joint(recipes(rng, 3, 5, 0.2), True, rng, NORMALS))

    for n in (200, 1000):

        def auroc(rng: np.random.Generator, n: int = n) -> dict[str, bool]:
            return events(auroc_joint([detectors(rng, n, np.full(TABLE, SHIFT))], False, rng, NORMALS))

        yield f"column of {TABLE} equal detectors, AUROC, N = {n}", auroc
    yield f"column of {TABLE} equal detectors, {TNR}, N = {IMAGES}", tnr
    yield f"column of {TABLE} equal detectors, aupr_in, N = {IMAGES}", aupr
    yield "column of 5 equal recipes, 3 seeds, AUROC", trained


def matrix_cases() -> Iterator[Case]:
    """Equal detectors over a matrix of sets."""
    for count, sets in ((2, 6), (2, 12), (5, 6), (5, 12), (15, 12)):

        def draw(rng: np.random.Generator, count: int = count, sets: int = sets) -> dict[str, bool]:
            found = rank_tests(rng.normal(size=(sets, 1)) + rng.normal(size=(sets, count)))
            joined = [tuple(np.argsort(found.ranks, kind="stable").tolist())]
            rejected = {"Friedman": found.friedman < ALPHA, "Conover with Holm, any pair": found.cliques != joined}
            return {
                "Wilcoxon, one pair": found.wilcoxon[0, 1] < ALPHA,
                "Wilcoxon with Holm, any pair": bool((found.holm < ALPHA).any()),
                **(rejected if count > 2 else {}),
                "Nemenyi, any pair": bool(np.ptp(found.ranks) > found.critical_difference),
            }

        yield f"{count} detectors on {sets} sets", draw


def zero_cases() -> Iterator[Case]:
    """A detector against itself, and against a strictly increasing function of itself."""

    def draw(rng: np.random.Generator) -> dict[str, bool]:
        ((id_scores, ood_scores),) = detectors(rng, 50, np.array([SHIFT]))
        scores = [(id_scores, ood_scores), (id_scores, ood_scores), (np.exp(id_scores), np.exp(ood_scores))]
        found = [auroc_joint([scores], False, rng), *bootstrap_joints(METRICS, scores, rng).values()]
        found += [influence_joint(metric, scores, rng) for metric in PRECISIONS]
        return {"p is not 1": any(bool((joint.p != 1).any()) for joint in found)}

    yield "no difference at all", draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--only", default="", help="only cases whose name contains this word")
    options = parser.parse_args()
    parts: list[Callable[[], Iterator[Any]]] = [
        delong_cases, bootstrap_cases, aupr_cases, group_cases, seed_cases, column_cases, matrix_cases, zero_cases,
    ]  # fmt: skip
    for name, draw in (case for part in parts for case in part() if options.only in case[0]):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        draws = [draw(rng) for _ in range(options.draws)]
        for event in draws[0]:
            share = float(np.mean([one[event] for one in draws]))
            error = (share * (1 - share) / options.draws) ** 0.5
            print(f"{100 * share:6.2f} ± {100 * error:.2f}  {name}: {event}", flush=True)


if __name__ == "__main__":
    main()
