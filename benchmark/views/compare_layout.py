"""A comparison before it has a format: the marked table, the pairs, wins and losses, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from oodbench.benchmark.compare.column import AUROC, ColumnComparison
from oodbench.benchmark.compare.compare import Comparison
from oodbench.benchmark.stats.intervals import PRECISIONS
from oodbench.benchmark.stats.paired_tests import LEVEL
from oodbench.benchmark.views.stacked_table import Item, Stack
from oodbench.benchmark.views.summary import Block, Stat
from oodbench.benchmark.views.table_layout import COLUMNS, DASH, MAYBE, Group, Sheet, TableEntry, best_rows, percent
from oodbench.benchmark.views.table_layout import TableColumn as TableColumn

ALPHA = 1 - LEVEL

TITLES = {**COLUMNS, "fpr_at_tpr95": "FPR95", "openood_fpr95": "FPR95 (OOD positive)"}

PAIRS_SHOWN = 10
"""More pairs than these, of five detectors, are told by wins and losses alone; the CSV file has them all."""


def metric_title(metric: str) -> str:
    """The metric as tables head it."""
    return TITLES.get(metric, metric)


def title(found: Comparison) -> str:
    """The page's heading."""
    return f"{found.name}: which detector is better? {metric_title(found.metric)}"


def marked_sheets(found: Comparison) -> list[Sheet]:
    """One table an ID set: a row a detector, a column an OOD set, the best and those that may be best marked."""
    nothing = Group("", (), ("",) * len(found.labels))
    sheets = []
    for id_set in dict.fromkeys(column.id_set for column in found.columns):
        groups = tuple(_marked(found, column) for column in found.columns if column.id_set == id_set)
        sheets.append(Sheet(Block(id_set, (), (), (), ()), found.labels, nothing, groups, nothing, False))
    return sheets


def _marked(found: Comparison, column: ColumnComparison) -> Group:
    values = dict(zip(column.labels, found.shown(column.estimate.values), strict=True))
    stats = [Stat(values[label], None, 1) if label in values else None for label in found.labels]
    best, maybe = best_rows(stats, found.metric), column.best_set
    entries = tuple(
        TableEntry(percent(stat.mean), "", i in best, MAYBE if label in maybe else "") if stat else TableEntry(DASH)
        for i, (label, stat) in enumerate(zip(found.labels, stats, strict=True))
    )
    return Group(column.ood_set, (TableColumn(metric_title(found.metric), entries),), ("",) * len(entries))


def pair_stacks(found: Comparison) -> list[Stack]:
    """Every pair of every column, where there are few detectors."""
    if len(found.labels) * (len(found.labels) - 1) // 2 > PAIRS_SHOWN:
        return []
    items: dict[str, list[Item]] = {}
    for column in found.columns:
        own = items.setdefault(column.id_set, [])
        own += [_item(found, column, i, j) for i, j in combinations(range(len(column.labels)), 2)]
    heads = ("difference", f"{LEVEL:.0%} interval", "p", "p (Holm)")
    return [Stack(id_set, heads, tuple(own)) for id_set, own in items.items()]


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
    """(K, K) texts 'wins/ties/losses' of the row against the column; a dash on the diagonal."""
    return [[DASH if a == b else "/".join(map(str, found.counts(a, b))) for b in found.labels] for a in found.labels]


def matrix_lines(found: Comparison) -> Iterator[str]:
    """The tests over the matrix, in sentences."""
    matrix = found.matrix
    if matrix is None:
        yield "Over the matrix nothing is tested: fewer than two columns have all detectors and no outlier source."
        return
    tests, count = matrix.tests, len(matrix.labels)
    order = np.argsort(tests.ranks, kind="stable")
    ranks = ", ".join(f"{matrix.labels[i]} {tests.ranks[i]:.2f}" for i in order)
    yield f"Mean ranks over {tests.sets} columns (1 = best): {ranks}."
    if not tests.enough:
        yield (
            f"Too few sets to tell any two apart: with {tests.sets}, the Wilcoxon signed-rank test cannot go below p = "
            f"{tests.smallest_p:.4g}, however clear the differences; six sets can."
        )
        return
    if count > 2:
        yield (
            f"Friedman: {_p_is(tests.friedman)} that all are equal. Nemenyi: ranks more than "
            f"{tests.critical_difference:.2f} apart differ (5%, all pairs)."
        )
    told = [(i, j) for i, j in combinations(order, 2) if tests.holm[i, j] < ALPHA]
    pairs = "; ".join(f"{matrix.labels[i]} over {matrix.labels[j]} ({_p_is(tests.holm[i, j])})" for i, j in told)
    number = count * (count - 1) // 2
    over = f", Holm over {number} pairs" if number > 1 else ""
    yield f"Wilcoxon signed-rank{over}: {pairs or 'no two can be told apart at 5%'}."
    if tests.smallest_p * number > ALPHA:
        yield (
            f"Nor could any two be: the smallest p of {tests.sets} sets is {tests.smallest_p:.4g}, which Holm makes "
            f"{min(tests.smallest_p * number, 1):.3g}."
        )


def _p_is(p: float) -> str:
    return f"p {'' if p < 0.001 else '= '}{p_text(p)}"


def notes(found: Comparison, best: str) -> list[str]:
    """How to read the page, and what was left out; `best` says how the best is marked."""
    seeds = sorted({seed for column in found.columns for seed in column.seeds})
    return [
        f"Percent{', mean over seeds' if len(seeds) > 1 else ''}. {best}: best value of its column. {MAYBE} may be "
        "best: this set holds the truly best detector of the column with 95% confidence (multiple comparisons with the "
        "best).",
        *_units(found, seeds),
        *_drawn(found),
        "Wins and losses: columns of the table in which the difference is significant at 5%, p adjusted by Holm over "
        "all pairs of the column; p = 1 where a difference does not scatter at all. Columns are not adjusted for each "
        "other.",
        "Tests over the matrix take columns for independent; those of one ID set share its networks, so that p is too "
        "small rather than too large there. Columns with the suite's outlier source are left out.",
        *_absent(found),
    ]


def _drawn(found: Comparison) -> Iterator[str]:
    """Where groups of images are drawn in place of images, and where that is not known."""
    groups = {
        name: side.count
        for column in found.columns
        for name, side in zip((column.id_set, column.ood_set), column.units, strict=True)
        if side.group is not None
    }
    if groups:
        told = ", ".join(f"{name} ({count} groups)" for name, count in groups.items())
        yield (
            f"Drawn at random are whole groups of images that belong together (one writer, one photograph): {told}. A "
            "handful of groups tells little, whatever the number of images; p is then that of t."
        )
    if unknown_of := dict.fromkeys(name for column in found.columns for name in column.images_unknown):
        yield (
            f"Not known is which images belong together of {', '.join(unknown_of)}: the images scored are not in "
            "--data-dir. They count as independent; where they are not, p is too small."
        )


def _units(found: Comparison, seeds: list[int]) -> Iterator[str]:
    how = f"a paired bootstrap of {found.resamples} resamples"
    if found.metric == AUROC:
        how = "DeLong's covariance"
    elif found.metric in PRECISIONS:
        how = "by what each image adds to the metric, differences on the scale of log(v / (1 - v))"
    if len(seeds) < 2:
        yield (
            f"One seed ({seeds[0]}): images are drawn at random ({how}), networks are not. What is said holds for "
            "these checkpoints only."
        )
        return
    yield (
        f"Detectors on the same checkpoints: images are drawn at random ({how} of the means over {len(seeds)} seeds); "
        "what is said holds for these checkpoints."
    )
    if any(column.estimate.by_seeds.any() for column in found.columns):
        yield (
            "Detectors on differently trained networks: seeds and images are both drawn at random; the variance is "
            "that of the per-seed paired differences over the number of seeds, plus that over images."
        )


def _absent(found: Comparison) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for column in found.columns:
        for label, why in column.left_out.items():
            places.setdefault(f"{label} {why}", []).append(f"{column.id_set} against {column.ood_set}")
        for seed, without in column.seeds_left_out.items():
            told = f"seed {seed}, of which {', '.join(without)} {'has' if len(without) == 1 else 'have'} no result"
            places.setdefault(told, []).append(f"{column.id_set} against {column.ood_set}")
    yield from (f"Left out: {why} ({'; '.join(where)})." for why, where in places.items())
    yield from (f"Not judged: {' against '.join(key)}: {why}." for key, why in found.not_judged.items())
