"""Finds the four losses of Lee et al. (ICLR 2018) among the rows of a run, for Figures 2, 4 and 5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from oodbench.benchmark import FigureInputs
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.views.summary import Block, TableRow


class Loss(NamedTuple):
    """One of the four losses: the detector's label in a run, its name in the figures, its colour in the paper."""

    label: str
    name: str
    colour: str
    hatch: str
    dash: Any


LOSSES = (
    Loss("msp", "cross-entropy", "#C1272D", "", "-"),
    Loss("confidence", "confidence loss, real outliers", "#2E9E4F", "////", "--"),
    Loss("gan_confidence", "confidence loss, original GAN", "#F08A24", "....", "-."),
    Loss("joint", "joint confidence loss", "#2B5FB3", "\\\\\\\\", (0, (4, 1, 1, 1, 1, 1))),
)
"""Red, green, orange and blue as in the paper's Figure 4; hatches and dashes for a grey print."""


def rows_of(block: Block) -> dict[str, TableRow]:
    """Label -> row, for those of the four losses that an ID set has (the detectors with their default settings)."""
    rows = {row.label: row for row in block.rows}
    return {loss.label: rows[loss.label] for loss in LOSSES if loss.label in rows}


def measured(block: Block, row: TableRow) -> list[str]:
    """The OOD sets on which a row has numbers."""
    return [ood.name for ood in block.sets if ood.name in row.cells and row.cells[ood.name].stats]


def lacking(inputs: FigureInputs, labels: Sequence[str]) -> str | None:
    """Why the figure cannot be drawn from the run (no ID set has numbers of all these detectors), or None."""
    for block in inputs.summary().blocks:
        rows = rows_of(block)
        if all(label in rows and measured(block, rows[label]) for label in labels):
            return None
    name = inputs.run.path.name
    first = [row.first for block in inputs.summary().blocks for row in block.rows]
    if several := [label for label in labels if any(own_name(r, "label") == label != r.label for r in first)]:
        unlike = f"several rows of {', '.join(several)}, which were not made alike"
        return f"run '{name}' has {unlike}. Draw from a run without 'bench run --add'."
    return f"run '{name}' has no results of {', '.join(labels)} on one ID set. Run 'bench run --add'."


def served(inputs: FigureInputs, labels: Sequence[str]) -> Iterator[tuple[Block, dict[str, TableRow]]]:
    """The ID sets that have numbers of all these detectors."""
    for block in inputs.summary().blocks:
        rows = rows_of(block)
        if all(label in rows and measured(block, rows[label]) for label in labels):
            yield block, rows


def describe_run(inputs: FigureInputs, block: Block) -> str:
    """The run, its network and its training, as text for a caption."""
    first = next(r for r in inputs.run.records if r.id_set == block.id_set and r.status == OK)
    training = first.training
    trained = f", {training['images']:,} training images, {training['epochs']} epochs" if training else ""
    suite = inputs.run.info.get("suite", {}).get("name", "?")
    return f"run `{inputs.run.path.name}` of suite `{suite}`: network `{first.backbone}`{trained}"


def first_records(inputs: FigureInputs, block: Block) -> dict[str, Record]:
    """Label -> a record of the loss on an ID set with the first seed, from which its classifier can be found."""
    seed = inputs.scores().seed
    found: dict[str, Record] = {}
    for record in inputs.run.records:
        if record.id_set == block.id_set and record.seed == seed and record.status == OK:
            found.setdefault(record.label, record)
    return {loss.label: found[loss.label] for loss in LOSSES if loss.label in found}
