"""A run's extended metrics as tables: calibration, detection of misclassified images, performance in deployment."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import EXTENDED_METRICS
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.metric_titles import metric_of
from oodbench.benchmark.views.summary import Stat, stat_of
from oodbench.benchmark.views.tables.by_class import class_stacks, legend
from oodbench.benchmark.views.tables.stacked import Item, Stack, stacked_markdown, stacked_text

ALONE = {name: metric_of(name).title for name in ("ece", "nll", "aurc", "augrc", "auroc_errors")}
"""Metrics that do not depend on the OOD set."""

AGAINST = {
    name: metric_of(name).title
    for name in ("oscr", "tpr_validation", "tnr_validation", "tnr_at_tpr99", "precision_1pct", "precision_10pct")
}
FULL = {name: metric_of(name).title for name in ("fs_auroc", "fs_tnr_at_tpr95")}
NOTHING = "No cell of this run has extended metrics."
Values = dict[str, Stat]


def extended_text(run: StoredRun, width: int = 100) -> str:
    """The values for a terminal of `width` characters."""
    return stacked_text(_title(run), [*_stacks(run), *class_stacks(run)], NOTHING, _legend(run), width)


def extended_markdown(run: StoredRun) -> str:
    """The values as Markdown."""
    return stacked_markdown(_title(run), [*_stacks(run), *class_stacks(run)], NOTHING, _legend(run))


def extended_csv(run: StoredRun) -> str:
    """One row per cell: means and standard deviations over seeds with six decimals, empty where not available."""
    cells = _cells(run)
    names = EXTENDED_METRICS
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id_set", "ood_set", "label", *(f"{n}/{part}" for n in names for part in ("mean", "std"))])
    for (id_set, label, ood_set), values in cells.items():
        stats = [values.get(name) for name in names]
        parts = [part for stat in stats for part in ((stat.mean, stat.std) if stat else (None, None))]
        writer.writerow([id_set, ood_set, label, *("" if part is None else f"{part:.6f}" for part in parts)])
    return out.getvalue()


def _cells(run: StoredRun) -> dict[tuple[str, str, str], Values]:
    """(ID set, label, OOD set) -> values over seeds."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in run.records:
        if record.extended:
            found.setdefault((record.id_set, record.label, record.ood_set), []).append(record)
    if not found:
        name = run.name
        raise UserError(
            f"Run '{name}' has no extended metrics. Repeat the command that made it with --metrics extended: nothing "
            "is trained again, only ID validation and shifted ID images are scored."
        )
    return {key: _stats(records) for key, records in found.items()}


def _stats(records: list[Record]) -> Values:
    found = {name: stat_of([r.extended[name] for r in records if name in r.extended]) for name in EXTENDED_METRICS}
    return {name: stat for name, stat in found.items() if stat}


def _stacks(run: StoredRun) -> list[Stack]:
    stacks = []
    cells = _cells(run)
    for id_set in dict.fromkeys(key[0] for key in cells):
        of_set = {key[1:]: values for key, values in cells.items() if key[0] == id_set}
        shifted = any("fs_auroc" in values for values in of_set.values())
        any_set = {label: values for (label, _), values in of_set.items()}
        alone = ALONE | ({"shifted_accuracy": metric_of("shifted_accuracy").title} if shifted else {})
        stacks.append(_stack(id_set, alone, [("the ID set alone", label, values) for label, values in any_set.items()]))
        against = AGAINST | (FULL if shifted else {})
        ood_sets = dict.fromkeys(ood_set for _, ood_set in of_set)
        lines = [(ood, label, values) for ood in ood_sets for (label, name), values in of_set.items() if name == ood]
        stacks.append(_stack(id_set, against, lines))
    return stacks


def _stack(id_set: str, columns: Mapping[str, str], lines: list[tuple[str, str, Values]]) -> Stack:
    items = (Item(cell, "", label, tuple(_written(v, n) for n in columns)) for cell, label, v in lines)
    return Stack(id_set, tuple(columns.values()), tuple(items))


def _written(values: Values, name: str) -> str:
    stat = values.get(name)
    if stat is None:
        return "\N{EN DASH}"
    digits, scale = (3, 1) if name == "nll" else (1, 100)
    spread = "" if stat.std is None else f" ± {scale * stat.std:.{digits}f}"
    return f"{scale * stat.mean:.{digits}f}{spread}"


def _title(run: StoredRun) -> str:
    return f"{run.name}: extended metrics"


def _legend(run: StoredRun) -> Iterator[str]:
    yield "Percent, NLL in nats; mean ± std over seeds (ddof = 1). ECE, NLL: calibration of the classifier."
    yield (
        "AURC and AUGRC (both lower is better), AUROC errors: how well the score separates wrong from correct ID "
        "predictions."
    )
    yield "OSCR: accepted and correctly classified ID against accepted OOD."
    yield "TPR val, TNR val: at the threshold that accepts 95% of ID validation. TNR99: at TPR 99%."
    yield "P at 1%, 10%: precision of a flag at TPR 95% if that share of all images were OOD."
    if any("fs_auroc" in record.extended for record in run.records):
        yield "FS: full spectrum, where shifted forms of the ID set are ID as well. docs/metrics.md has the formulas."
    yield from legend(run)
