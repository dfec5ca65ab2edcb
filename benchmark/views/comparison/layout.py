"""The content of a comparison in every format: the marked table, the pairs, wins and losses, and the notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from oodbench.benchmark.comparisons.column import AUROC, ColumnComparison
from oodbench.benchmark.comparisons.compare import Comparison
from oodbench.benchmark.errors import counted
from oodbench.benchmark.stats.intervals import PRECISIONS
from oodbench.benchmark.stats.paired_tests import LEVEL
from oodbench.benchmark.stats.rank_tests import RankTests
from oodbench.benchmark.views.marks import DASH, MAYBE, bold_rows, percent
from oodbench.benchmark.views.summary import Block, Stat
from oodbench.benchmark.views.tables.layout import COLUMNS, Group, Sheet, TableColumn, TableEntry
from oodbench.benchmark.views.tables.stacked import Item, Stack

ALPHA = 1 - LEVEL

TITLES = {**COLUMNS, "fpr_at_tpr95": "FPR95", "openood_fpr95": "FPR95 (OOD positive)"}

PLOTS = ("win_tie_loss", "critical_difference")
"""The names of the plots: the heat map of wins and losses, and the critical-difference diagram."""

NAMED = 4
"""A group of more detectors that are not told apart is written by its first, its last, and their number."""

PAIRS_SHOWN = 10
"""With more pairs than those of five detectors, the page shows wins and losses only; the CSV file has all pairs."""


def metric_title(metric: str) -> str:
    """The metric's column heading."""
    return TITLES.get(metric, metric)


def title(found: Comparison) -> str:
    """The page's heading."""
    return f"{found.name}: which detector is better? {metric_title(found.metric)}"


def marked_sheets(found: Comparison) -> list[Sheet]:
    """One table per ID set: one row per detector, one column per OOD set; the best and those that may be are marked."""
    nothing = Group("", (), ("",) * len(found.labels))
    sheets = []
    for id_set in dict.fromkeys(column.id_set for column in found.columns):
        groups = tuple(_marked(found, column) for column in found.columns if column.id_set == id_set)
        sheets.append(Sheet(Block(id_set, (), (), (), ()), found.labels, nothing, groups, nothing, ()))
    return sheets


def _marked(found: Comparison, column: ColumnComparison) -> Group:
    values = dict(zip(column.labels, found.shown(column.estimate.values), strict=True))
    stats = [Stat(values[label], None, 1) if label in values else None for label in found.labels]
    bold, maybe = bold_rows(stats, found.metric), column.best_set
    entries = tuple(
        TableEntry(percent(stat.mean), "", i in bold, MAYBE if label in maybe else "") if stat else TableEntry(DASH)
        for i, (label, stat) in enumerate(zip(found.labels, stats, strict=True))
    )
    return Group(column.ood_set, (TableColumn(metric_title(found.metric), entries),), ("",) * len(entries))


def pair_stacks(found: Comparison) -> list[Stack]:
    """Every pair of every column, if there are few detectors."""
    if len(found.labels) * (len(found.labels) - 1) // 2 > PAIRS_SHOWN:
        return []
    items: dict[str, list[Item]] = {}
    for column in found.columns:
        of_set = items.setdefault(column.id_set, [])
        of_set += [_item(found, column, i, j) for i, j in combinations(range(len(column.labels)), 2)]
    heads = ("difference", f"{LEVEL:.0%} interval", "p", "p (Holm)")
    return [Stack(id_set, heads, tuple(of_set)) for id_set, of_set in items.items()]


def _item(found: Comparison, column: ColumnComparison, i: int, j: int) -> Item:
    estimate = column.estimate
    difference, half = found.shown(estimate.difference)[i, j], estimate.half_width[i, j]
    interval = f"[{100 * (difference - half):+.1f}, {100 * (difference + half):+.1f}]"
    numbers = (f"{100 * difference:+.1f}", interval, p_text(estimate.p[i, j]), p_text(estimate.holm[i, j]))
    return Item(column.ood_set, "", f"{column.labels[i]} - {column.labels[j]}", numbers)


def p_text(p: float) -> str:
    """A p-value as printed."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def win_rows(found: Comparison) -> list[list[str]]:
    """(K, K) strings 'wins/ties/losses' of the row's detector against the column's; a dash on the diagonal."""
    return [[DASH if a == b else "/".join(map(str, found.counts(a, b))) for b in found.labels] for a in found.labels]


def matrix_lines(found: Comparison) -> Iterator[str]:
    """The results of the rank tests over the matrix, as sentences."""
    matrix = found.matrix
    if matrix is None:
        yield "No tests over the matrix: fewer than two columns have all detectors and are not the outlier source."
        return
    tests, count = matrix.tests, len(matrix.labels)
    order = np.argsort(tests.ranks, kind="stable")
    ranks = ", ".join(f"{matrix.labels[i]} {tests.ranks[i]:.2f}" for i in order)
    yield f"Mean ranks over {counted(tests.sets, 'column')} (1 = best): {ranks}."
    if not tests.enough:
        yield (
            f"Too few sets for a significant difference: with {tests.sets}, the Wilcoxon signed-rank test cannot give "
            f"a p below {tests.smallest_p:.4g}, however clear the differences; it needs six sets."
        )
        return
    if count > 2:
        yield (
            f"Friedman: {_p_is(tests.friedman)} for the hypothesis that all are equal. Nemenyi: ranks that differ by "
            f"more than {tests.critical_difference:.2f} are significantly different (5%, all pairs). Not told apart: "
            f"{_cliques(matrix.labels, tests.groups)}."
        )
        yield _conover_line(matrix.labels, tests)
    significant = [(i, j) for i, j in combinations(order, 2) if tests.holm[i, j] < ALPHA]
    pairs = "; ".join(f"{matrix.labels[i]} over {matrix.labels[j]} ({_p_is(tests.holm[i, j])})" for i, j in significant)
    number = count * (count - 1) // 2
    over = f", Holm over {number} pairs" if number > 1 else ""
    yield f"Wilcoxon signed-rank{over}: {pairs or 'no significant difference at 5%'}."
    if tests.smallest_p * number > ALPHA:
        yield (
            f"No pair could be significant: the smallest possible p with {tests.sets} sets is {tests.smallest_p:.4g}, "
            f"which becomes {min(tests.smallest_p * number, 1):.3g} after Holm's adjustment."
        )


def _conover_line(labels: Sequence[str], tests: RankTests) -> str:
    """What Conover's test says, which compares pairs only where Friedman's test rejects."""
    if tests.friedman >= ALPHA:
        return "Conover: no pair is compared, because Friedman's test is not significant at 5%."
    pairs = len(labels) * (len(labels) - 1) // 2
    return f"Conover, Holm over {pairs} pairs. Not told apart at 5%: {_cliques(labels, tests.cliques)}."


def _cliques(labels: Sequence[str], groups: Sequence[tuple[int, ...]]) -> str:
    """Groups of detectors, in the order of mean ranks; of a long one, its first and last, which stand for the range."""
    if not groups:
        return "none"
    names = [[labels[i] for i in group] for group in groups]
    return "; ".join(
        ", ".join(group) if len(group) <= NAMED else f"{group[0]} to {group[-1]} ({len(group)})" for group in names
    )


def _p_is(p: float) -> str:
    return f"p {'' if p < 0.001 else '= '}{p_text(p)}"


def notes(found: Comparison, best: str) -> list[str]:
    """How to read the page, and what was left out; `best` is how the best is marked."""
    seeds = sorted({seed for column in found.columns for seed in column.seeds})
    return [
        *found.remarks,
        f"Percent{', mean over seeds' if len(seeds) > 1 else ''}. {best}: best value of its column. {MAYBE} may be the "
        "best: the set of detectors with this mark contains the truly best one of the column with 95% confidence "
        "(multiple comparisons with the best).",
        *_units(found, seeds),
        *_groups(found),
        "Wins and losses: number of columns of the table in which the difference is significant at 5%, with p adjusted "
        "by Holm's method over all pairs of the column; p = 1 where values are equal and no image differs. A lead that "
        "is the same on every image is judged by how likely so many images miss what would end it. There is no "
        "adjustment over columns.",
        "Tests over the matrix assume that columns are independent. Columns with the same ID set share its networks, "
        "so p tends to be too small there. Columns with the suite's outlier source are left out.",
        *_absent(found),
    ]


def _groups(found: Comparison) -> Iterator[str]:
    """The sets whose units are groups of images, and those for which that is not known."""
    groups = {
        name: side.count
        for column in found.columns
        for name, side in zip((column.id_set, column.ood_set), column.units, strict=True)
        if side.group is not None
    }
    if groups:
        counts = ", ".join(f"{name} ({counted(count, 'group')})" for name, count in groups.items())
        yield (
            "The unit of sampling is the group of images that belong together (one writer, one photograph) in "
            f"{counts}. A few groups carry little information, whatever the number of images; p is then that of t."
        )
    if unknown_of := dict.fromkeys(name for column in found.columns for name in column.images_unknown):
        yield (
            f"Groups unknown: the scored images of {', '.join(unknown_of)} are not in --data-dir, so it is not known "
            "which belong together. They count as independent; where they are not, p is too small."
        )


def _units(found: Comparison, seeds: list[int]) -> Iterator[str]:
    method = f"paired bootstrap with {found.resamples} resamples"
    if found.metric == AUROC:
        method = "DeLong's covariance"
    elif found.metric in PRECISIONS:
        method = "influence of each image on the metric, differences on the scale of log(v / (1 - v))"
    if len(seeds) < 2:
        yield (
            f"One seed ({seeds[0]}): images are a random sample ({method}), networks are not. The results hold for "
            "these checkpoints only."
        )
        return
    yield (
        f"Detectors on the same checkpoints: images are a random sample ({method}; means over {len(seeds)} seeds). The "
        "results hold for these checkpoints only."
    )
    if any(column.estimate.by_seeds.any() for column in found.columns):
        yield (
            "Detectors on differently trained networks: both seeds and images are random samples. The variance is that "
            "of the per-seed paired differences divided by the number of seeds, plus that over images."
        )


def _absent(found: Comparison) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for column in found.columns:
        for label, reason in column.left_out.items():
            places.setdefault(f"{label} {reason}", []).append(f"{column.id_set} against {column.ood_set}")
        for seed, without in column.seeds_left_out.items():
            reason = f"seed {seed}, for which {', '.join(without)} {'has' if len(without) == 1 else 'have'} no result"
            places.setdefault(reason, []).append(f"{column.id_set} against {column.ood_set}")
    yield from (f"Left out: {reason} ({'; '.join(where)})." for reason, where in places.items())
    yield from (f"Not judged: {' against '.join(key)}: {reason}." for key, reason in found.not_judged.items())
