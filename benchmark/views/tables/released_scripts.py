"""A run's values by the metric rules of a released script, next to the exact metrics of the same scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import RULE_METRICS
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.summary import Stat, audit_of, has_rules, stat_of
from oodbench.benchmark.views.tables.layout import COLUMNS
from oodbench.benchmark.views.tables.stacked import Item, Stack, stacked_markdown, stacked_text

NOTHING = "No cell of this run has a score on a scale to which the rules apply."


def audit_text(run: StoredRun, rules: str, width: int = 100) -> str:
    """The comparison for a terminal of `width` characters."""
    return stacked_text(_title(run, rules), _stacks(run, rules), NOTHING, _legend(run, rules), width)


def audit_markdown(run: StoredRun, rules: str) -> str:
    """The comparison as Markdown."""
    return stacked_markdown(_title(run, rules), _stacks(run, rules), NOTHING, _legend(run, rules))


def audit_csv(run: StoredRun, rules: str) -> str:
    """The comparison as CSV: one row per cell, means and std over seeds as fractions with six decimals."""
    names = [*COLUMNS, *(f"{rules}_{name}" for name in RULE_METRICS)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["id_set", "ood_set", "label", "seeds", *(f"{n}/{part}" for n in names for part in ("mean", "std"))]
    )
    for (id_set, label, ood_set), stats in _cells(run, rules).items():
        seeds = max(stat.n for stat in stats.values())
        writer.writerow([id_set, ood_set, label, seeds, *(text for name in names for text in _csv_stat(stats[name]))])
    return out.getvalue()


def _csv_stat(stat: Stat) -> tuple[str, str]:
    return f"{stat.mean:.6f}", "" if stat.std is None else f"{stat.std:.6f}"


def _cells(run: StoredRun, rules: str) -> dict[tuple[str, str, str], dict[str, Stat]]:
    """(ID set, label, OOD set) -> exact metrics by name, and those by the rules with the rules' name as a prefix."""
    if not any(has_rules(record, rules) for record in run.records):
        raise _without(run, rules)
    found = {}
    for key, by_rules in audit_of(run, rules).items():
        exact = [r for r in run.records if (r.id_set, r.label, r.ood_set) == key and has_rules(r, rules)]
        stats = {name: stat_of([record.metrics[name] for record in exact]) for name in COLUMNS}
        named = {f"{rules}_{name}": stat for name, stat in by_rules.items()}
        found[key] = {name: stat for name, stat in {**stats, **named}.items() if stat}
    return found


def _without(run: StoredRun, rules: str) -> UserError:
    name = run.name
    available = sorted({f"'{rule}'" for record in run.records for rule in record.audit})
    only = f", only by {' and '.join(available)}" if available else ""
    return UserError(
        f"Run '{name}' has no metrics by the rules '{rules}'{only}. Repeat the command that made it with --metrics "
        f"{rules}: nothing is trained or scored again."
    )


def _stacks(run: StoredRun, rules: str) -> list[Stack]:
    cells = _cells(run, rules)
    heads = ("exact", "exact on float32", f"rules {rules}", "rules - exact")
    items: dict[str, list[Item]] = {}
    for key, stats in cells.items():
        items.setdefault(key[0], []).extend(_items(key, stats, rules))
    return [Stack(id_set, heads, tuple(of_set)) for id_set, of_set in items.items()]


def _items(key: tuple[str, str, str], stats: dict[str, Stat], rules: str) -> Iterator[Item]:
    _, label, ood_set = key
    for name, title in COLUMNS.items():
        exact, ruled = stats[name], stats[f"{rules}_{name}"]
        shift = f"{100 * (ruled.mean - exact.mean):+.1f}"
        numbers = (_written(exact), _written(stats[f"{rules}_float32_{name}"]), _written(ruled), shift)
        yield Item(f"{ood_set}, {label}", "", title, numbers)
    for name, title in (("top_bin_id", "top bin, ID"), ("top_bin_ood", "top bin, OOD")):
        yield Item(f"{ood_set}, {label}", "", title, ("", "", _written(stats[f"{rules}_{name}"]), ""))


def _written(stat: Stat) -> str:
    return f"{100 * stat.mean:.1f}" + (f" ± {100 * stat.std:.1f}" if stat.std is not None else "")


def _title(run: StoredRun, rules: str) -> str:
    return f"{run.name}: exact metrics, and those by the rules '{rules}'"


def _legend(run: StoredRun, rules: str) -> Iterator[str]:
    yield (
        "Percent; mean ± std over seeds (ddof = 1). Exact: of the score, which does not saturate. Exact on float32: of "
        "the confidence defined in the method's paper, ties counting half. Top bin: the share of confidences that the "
        f"grid of the rules '{rules}' cannot divide further. docs/appendix/metrics_saturation.md describes the rules "
        "and the effect of saturation."
    )
    without = {r.label for r in run.records if r.status == OK and not has_rules(r, rules)}
    if without:
        yield f"Without values by these rules: {', '.join(sorted(without))}."
