"""The paired tests of a report: of all pairs of rows in a column, as `bench compare` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.comparisons.column import ColumnComparison, ComparisonConfig, compare_column
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.errors import UserError, visible
from oodbench.benchmark.views.report import data
from oodbench.benchmark.views.report.tables import Shown, rounded

DIGITS = 4
"""Significant digits of p."""


def pairs_of(shown: Shown, cache: Path, images: ScoredImages | None) -> tuple[list[data.Pairs], list[str]]:
    """The tests in every column of a block, and sentences on columns that have none.

    `images` tells which images depend on each other; without it all count as independent.
    """
    config, found, notes = ComparisonConfig(cache, images=images, draws=0), [], []
    labels = [row.label for row in shown.block.rows]
    for place, ood in enumerate(shown.block.sets):
        records = [record for label in labels for record in shown.records.get((label, ood.name), ())]
        where = f"{visible(shown.block.id_set)} against {visible(ood.name)}"
        try:
            column = compare_column(records, labels, config)
        except UserError as error:
            notes.append(f"Detectors are not compared on {where}: {error}")
            continue
        if isinstance(column, ColumnComparison):
            found.append(_pairs(shown, place, column, labels))
        elif len(labels) > 1:
            notes.append(f"Detectors are not compared on {where}: {visible(column)}.")
    return found, notes


def _pairs(shown: Shown, place: int, column: ColumnComparison, labels: Sequence[str]) -> data.Pairs:
    estimate = column.estimate
    upper = np.triu_indices(len(column.labels), 1)
    return data.Pairs(
        block=shown.place,
        set=place,
        rows=[shown.first_row + labels.index(label) for label in column.labels],
        seeds=list(column.seeds),
        differences=[rounded(value) for value in estimate.difference[upper].tolist()],
        half_widths=[rounded(value) for value in estimate.half_width[upper].tolist()],
        p=_significant(estimate.p[upper]),
        holm=_significant(estimate.holm[upper]),
        left_out=[[visible(label), visible(why)] for label, why in column.left_out.items()],
    )


def _significant(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
