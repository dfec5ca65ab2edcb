"""A run's tables: for the terminal, as a data frame, and as CSV, Markdown and LaTeX files in the run's folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.best import METRIC
from oodbench.benchmark.records.csv_file import ENDS, records_csv
from oodbench.benchmark.records.paths import MARKER
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.views.over_id_sets import over_id_sets
from oodbench.benchmark.views.summary import EVERY, GROUPS, Block, Stat, TableCell, TableRow, summary_of
from oodbench.benchmark.views.tables.by_class import classes_csv
from oodbench.benchmark.views.tables.latex import table_latex
from oodbench.benchmark.views.tables.markdown import table_markdown
from oodbench.benchmark.views.tables.text import text_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["summarise", "table_csv", "table_files", "table_latex", "table_markdown", "text_table", "write_tables"]

CLASSES = "classes.csv"
"""The file with AUROCs by class, of a run that has them."""


def write_tables(run: StoredRun) -> list[Path]:
    """Write `records.csv` and the tables into the run's folder; a file that would not change is left alone.

    If one has changed, the views are no longer those of the last command, which the marker would say.
    """
    contents = table_files(run)
    if CLASSES not in contents:
        (run.path / CLASSES).unlink(missing_ok=True)  # of an earlier command, whose cells had AUROCs by class
    for name, content in contents.items():
        path = run.path / name
        if not path.is_file() or path.read_bytes() != content.encode(errors="backslashreplace"):
            (run.path / MARKER).unlink(missing_ok=True)
            write_atomically(path, content)
    return [run.path / name for name in contents]


def table_files(run: StoredRun) -> dict[str, str]:
    """File name -> content of `records.csv` and the tables."""
    return {
        "records.csv": records_csv(run.records),
        "table.csv": table_csv(run),
        "table.md": table_markdown(run),
        "table.tex": table_latex(run),
        **({CLASSES: of_classes} if (of_classes := classes_csv(run)) else {}),
    }


# The data frame


def summarise(run: StoredRun) -> pd.DataFrame:
    """One row per number: its mean, its std over seeds (ddof = 1, NaN with one seed), and what it refers to.

    `low` and `high` are the 95% interval over draws of test images, for scope 'set' only and NaN where not recorded;
    `may_be_best` is for AUROC: whether the set that contains the column's best with 95% confidence includes it, None
    where that is not judged.

    `scope` is 'set' (one OOD set), 'near', 'far' or 'all' (the mean over that group), 'worst' (`ood_set` says which) or
    'id' (the metric `id_accuracy`). Means and worst leave out the outlier source. Values are fractions.
    """
    import pandas as pd  # half a second that the table in the terminal need not wait for

    summary = summary_of(run)
    rows = [
        {"id_set": block.id_set, **_identity(row), **numbers}
        for block in summary.blocks
        for row in block.rows
        for numbers in (*_id_numbers(row), *_set_numbers(block, row), *_overall_numbers(row))
    ]
    first = ["id_set", "label", "detector", "settings", "recipe", "recipe_settings", "backbone"]
    rest = [
        "scope",
        "ood_set",
        "group",
        "outlier_source",
        "metric",
        "mean",
        "std",
        "n",
        "seen",
        "status",
        "reason",
        *ENDS,
        "may_be_best",
    ]
    return pd.DataFrame(rows, columns=[*first, *rest]).astype(dict.fromkeys(("mean", "std", *ENDS), float))


def _identity(row: TableRow) -> dict[str, str]:
    return {
        "detector": row.first.detector,
        "settings": json.dumps(dict(row.first.settings), sort_keys=True),
        "recipe": row.first.recipe,
        "recipe_settings": json.dumps(dict(row.first.recipe_settings), sort_keys=True),
        "label": row.label,
        "backbone": row.first.backbone,
    }


def _numbers(scope: str, metric: str, stat: Stat | None, **more: Any) -> dict[str, Any]:
    mean, std, n = (stat.mean, stat.std, stat.n) if stat else (None, None, 0)
    facts: dict[str, Any] = {
        "ood_set": "", "group": "", "outlier_source": False, "seen": False, "status": OK, "reason": ""
    }  # fmt: skip
    ends = dict(zip(ENDS, stat.interval if stat and stat.interval else (None, None), strict=True))
    facts["may_be_best"] = stat.may_be_best if stat else None
    return {**facts, **ends, "scope": scope, "metric": metric, "mean": mean, "std": std, "n": n, **more}


def _id_numbers(row: TableRow) -> Iterator[dict[str, Any]]:
    if row.id_accuracy:
        yield _numbers("id", "id_accuracy", row.id_accuracy)


def _set_numbers(block: Block, row: TableRow) -> Iterator[dict[str, Any]]:
    for ood in block.sets:
        cell = row.cells[ood.name]
        facts = {"ood_set": ood.name, "group": ood.group, "outlier_source": ood.source, "seen": cell.seen}
        for metric in METRICS:
            yield _numbers("set", metric, cell.stats.get(metric), status=cell.status, reason=cell.reason, **facts)


def _overall_numbers(row: TableRow) -> Iterator[dict[str, Any]]:
    for (group, metric), stat in row.means.items():
        yield _numbers(group, metric, stat, group=group)
    for metric, (name, stat) in row.worst.items():
        yield _numbers("worst", metric, stat, ood_set=name)


# CSV


def table_csv(run: StoredRun) -> str:
    """One row per detector and ID set; fractions with six decimals, empty where not available; no times.

    Where ID sets have a mean (`views.over_id_sets`), its rows follow, with its name in place of an ID set's.
    """
    summary = summary_of(run)
    mean = over_id_sets(summary)
    blocks = [*summary.blocks, *([mean] if mean else [])]
    sets = list(dict.fromkeys(ood.name for block in blocks for ood in block.sets))
    rows = [dict(_csv_row(block, row)) for block in blocks for row in block.rows]
    out = io.StringIO()
    groups = (*GROUPS, *([EVERY] if any(EVERY in block.groups for block in blocks) else []))
    writer = csv.DictWriter(out, list(_csv_columns(sets, groups)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_columns(sets: Iterable[str], groups: Iterable[str]) -> Iterator[str]:
    yield from ("id_set", "detector", "settings", "recipe", "recipe_settings", "label", "backbone")
    yield from ("id_accuracy/mean", "id_accuracy/std")
    for name in sets:
        yield from (f"{name}/status", f"{name}/seen", f"{name}/seeds")
        yield from (f"{name}/{metric}/{part}" for metric in METRICS for part in ("mean", "std"))
    yield from (f"{group}_mean/{metric}/{part}" for group in groups for metric in METRICS for part in ("mean", "std"))
    yield from (f"worst/{metric}/{part}" for metric in METRICS for part in ("set", "mean", "std"))
    yield from (f"{name}/{metric}/{end}" for name in sets for metric in METRICS for end in ENDS)
    yield from (f"{name}/{METRIC}/may_be_best" for name in sets)


def _csv_row(block: Block, row: TableRow) -> Iterator[tuple[str, str]]:
    yield "id_set", block.id_set
    yield from _identity(row).items()
    yield from _csv_stat("id_accuracy", row.id_accuracy)
    for name, cell in row.cells.items():
        yield from _csv_cell(name, cell)
    for (group, metric), stat in row.means.items():
        yield from _csv_stat(f"{group}_mean/{metric}", stat)
    for metric, (name, stat) in row.worst.items():
        yield f"worst/{metric}/set", name
        yield from _csv_stat(f"worst/{metric}", stat)


def _csv_cell(name: str, cell: TableCell) -> Iterator[tuple[str, str]]:
    yield f"{name}/status", cell.status
    yield f"{name}/seen", str(cell.seen).lower()
    yield f"{name}/seeds", str(max((stat.n for stat in cell.stats.values()), default=0))
    for metric in METRICS:
        stat = cell.stats.get(metric)
        yield from _csv_stat(f"{name}/{metric}", stat)
        if stat and stat.interval:
            yield from (
                (f"{name}/{metric}/{end}", f"{value:.6f}") for end, value in zip(ENDS, stat.interval, strict=True)
            )
        if stat and stat.may_be_best is not None:
            yield f"{name}/{metric}/may_be_best", str(stat.may_be_best).lower()


def _csv_stat(name: str, stat: Stat | None) -> Iterator[tuple[str, str]]:
    yield f"{name}/mean", f"{stat.mean:.6f}" if stat else ""
    yield f"{name}/std", f"{stat.std:.6f}" if stat and stat.std is not None else ""
