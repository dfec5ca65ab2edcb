"""AUROC by class as tables: the lowest classes and pairs of each cell, and `classes.csv` with all classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.by_class import ShownClass, ShownClasses, lowest, shown_by_cell
from oodbench.benchmark.views.marks import DASH, percent
from oodbench.benchmark.views.tables.stacked import Item, Stack

HEADS = ("lowest ID class", "lowest OOD class", "lowest pair")

NAME = 20
"""Characters of a class's name in a table."""

COLUMNS = (
    *("id_set", "ood_set", "label", "side", "class", "images", "seeds"),
    *("auroc/mean", "auroc/std", "auroc/low", "auroc/high"),
)


def class_stacks(run: StoredRun) -> list[Stack]:
    """One per ID set: the lowest ID class, OOD class and pair of each row and OOD set; empty without any."""
    cells = shown_by_cell(run.records)
    stacks = []
    for id_set in dict.fromkeys(cell[0] for cell in cells):
        of_set = {cell[1:]: found for cell, found in cells.items() if cell[0] == id_set}
        items = tuple(
            Item(ood_set, "", label, _written(found))
            for ood_set in dict.fromkeys(name for _, name in of_set)
            for (label, name), found in of_set.items()
            if name == ood_set
        )
        stacks.append(Stack(id_set, HEADS, items))
    return stacks


def _written(found: ShownClasses) -> tuple[str, ...]:
    pair = DASH
    if found.pairs.size:
        row, column = found.lowest_pairs[0]
        pair = f"{_short(found.id[row])} / {_short(found.ood[column])}: {percent(found.pairs[row, column])}"
    return _class_text(lowest(found.id)), _class_text(lowest(found.ood)), pair


def _class_text(one: ShownClass | None) -> str:
    if one is None:
        return DASH
    low, high = one.interval
    return f"{_short(one)}: {percent(one.stat.mean)} [{percent(low)}, {percent(high)}]"


def _short(one: ShownClass) -> str:
    return one.name if len(one.name) <= NAME else f"{one.name[: NAME - 1]}…"


def legend(run: StoredRun) -> Iterator[str]:
    """What the numbers are; nothing without any."""
    if any(record.by_class for record in run.records):
        yield (
            "By class: AUROC of the class that has the lowest, against all images of the other set, with its 95% "
            "interval over draws of test images, and of the lowest pair of an ID and an OOD class. The lowest of many "
            "classes is low partly by chance. All classes: classes.csv."
        )


def classes_csv(run: StoredRun) -> str:
    """One row per class of every row and OOD set; fractions with six decimals. Empty without AUROCs by class."""
    cells = shown_by_cell(run.records)
    if not cells:
        return ""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (id_set, label, ood_set), found in cells.items():
        for side, classes in (("id", found.id), ("ood", found.ood)):
            for one in classes:
                numbers = (one.stat.mean, one.stat.std, *one.interval)
                texts = ("" if number is None else f"{number:.6f}" for number in numbers)
                writer.writerow((id_set, ood_set, label, side, one.name, one.images, found.seeds, *texts))
    return out.getvalue()
