"""What a table for a paper shows, as data: a `TableSpec`, made from a named style and from options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.store.toml_file import parse_toml, read_toml
from oodbench.benchmark.store.user_path import user_path
from oodbench.benchmark.views.choice import parse_order, split_names
from oodbench.benchmark.views.costs import POSTHOC, TRAINED
from oodbench.benchmark.views.metric_titles import CONVENTIONS, Metric, metric_of
from oodbench.benchmark.views.summary import EVERY, GROUPS

STYLES = Path(__file__).parent / "styles"
"""The named styles, one file each."""

MAX_STYLE = 1 << 16
"""Largest style file, in bytes."""

DATA, PASSES, NETWORKS = "data", "passes", "networks"
COST_COLUMNS = (DATA, PASSES, NETWORKS)
"""Columns of what rows cost."""

NONE = "none"

WIDE, STACKED = "wide", "stacked"

CHOICES: Mapping[str, tuple[str, ...]] = {
    "layout": (WIDE, STACKED),
    "by": ("", "set", "metric"),
    "bold": ("best", NONE),
    "underline": ("second", NONE),
    "marks": (NONE, "seen", "all"),
}
"""Field -> its values, where it has few."""

LISTS = ("columns", "group_means", "group_rows", "detectors", "ood", "id_sets")
"""Fields that are lists; options give them as texts with commas, too."""

FLAGS = ("sets", "transpose", "std", "notes")

MOST_DECIMALS = 6


@dataclass(frozen=True)
class TableSpec:
    """What one table shows, and how."""

    name: str = "main"
    """The name of this table among those of its style."""
    columns: tuple[str, ...] = ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")
    """Metrics, and `data`, `passes` and `networks`."""
    sets: bool = True
    """Whether every OOD set has columns."""
    group_means: tuple[str, ...] = ()
    """Groups whose means are shown: near, far, all; empty for those that the ID set has, 'none' for no mean."""
    layout: str = WIDE
    """'wide': one line per detector, OOD sets side by side; 'stacked': OOD sets below each other."""
    by: str = ""
    """Headings of wide tables: 'set' or 'metric' above the other; 'metric' for a single metric, if empty."""
    sort: str = ""
    """What rows are sorted by, as `near:auroc`; the order of the choice, or the plan's, if empty."""
    group_rows: tuple[str, ...] = ()
    """Kinds of rows under headings of their own, in this order: posthoc, trained; none if empty."""
    transpose: bool = False
    bold: str = "best"
    underline: str = NONE
    decimals: int = 1
    marks: str = "seen"
    """Signs after numbers: 'none', 'seen', or 'all'."""
    std: bool | None = None
    """Whether deviations over seeds are shown; None for where there are several seeds."""
    notes: bool = True
    """Whether there are notes on missing numbers, costs and warnings under the table."""
    caption: str = ""
    """Text that replaces the beginning of the caption; the definitions of the metrics follow it."""
    detectors: tuple[str, ...] = ()
    ood: tuple[str, ...] = ()
    id_sets: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[Metric]:
        """The metrics among the columns."""
        return [metric_of(name) for name in self.columns if name not in COST_COLUMNS]

    @property
    def costs(self) -> list[str]:
        """The columns of costs."""
        return [name for name in self.columns if name in COST_COLUMNS]


class TableOptions(TypedDict, total=False):
    """The options of `Run.table` and `bench table` for a table of a paper; lists may be texts with commas."""

    style: str
    part: str
    columns: str | Sequence[str]
    detectors: str | Sequence[str]
    ood: str | Sequence[str]
    id_sets: str | Sequence[str]
    group_means: str | Sequence[str]
    sets: bool
    sort: str
    group_rows: str | Sequence[str]
    layout: Literal["wide", "stacked"]
    by: Literal["", "set", "metric"]
    transpose: bool
    bold: Literal["best", "none"]
    underline: Literal["second", "none"]
    decimals: int
    marks: Literal["none", "seen", "all"]
    std: bool | None
    notes: bool
    caption: str
    names: str | Path | Mapping[str, str]
    cite: bool
    standalone: bool
    fragment: bool
    label: str


def style_names() -> dict[str, str]:
    """Name of each style -> what it shows."""
    files = sorted(STYLES.glob("*.toml"))
    return {file.stem: str(parse_toml(file, MAX_STYLE)["title"]) for file in files}


def specs_of(options: Mapping[str, Any]) -> list[TableSpec]:
    """The tables that options ask for: those of the style, or a plain one, with what else is given in each of them.

    Raises:
        UserError: For an unknown style, part, column, value or metric, and for two conventions of FPR95 in one table.
    """
    style, part = str(options.get("style") or ""), str(options.get("part") or "")
    base = read_style(style) if style else [TableSpec()]
    if part:
        known = [spec.name for spec in base]
        base = [spec for spec in base if spec.name == part]
        if not base:
            raise UserError(f"There is no part '{part}' in the style '{style}'. Choose {' or '.join(known)}.")
    fields = {field.name for field in dataclasses.fields(TableSpec)} - {"name"}
    given = {name: value for name, value in options.items() if name in fields and value is not None}
    return [checked(replace(spec, **_values(given, "the options")), "the options") for spec in base]


def read_style(name: str) -> list[TableSpec]:
    """The tables of a style, by its name or as a path that ends in .toml."""
    known = list(style_names())
    path = user_path(name) if name.endswith(".toml") else STYLES / f"{name}.toml"
    if not name.endswith(".toml") and name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"Unknown style '{name}'. {hint}{' ' * bool(hint)}Choose {', '.join(known)}, or a .toml file.")
    data = read_toml(path, MAX_STYLE, "The style file")
    tables, where = data.get("table"), f"the style file '{path}'"
    if not isinstance(tables, list) or not tables or not all(isinstance(one, dict) for one in tables):
        raise UserError(f"{where[0].upper()}{where[1:]} describes no table. Begin each with a line [[table]].")
    if unknown := [key for key in data if key not in ("title", "table")]:
        raise UserError(f"'{unknown[0]}' stands outside of [[table]] in {where}, where only title may.")
    specs = [checked(TableSpec(**_values(table, where)), where) for table in tables]
    names = [spec.name for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UserError(f"Two tables of {where} are called '{twice}'. Give each a name of its own.")
    return specs


def _values(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of fields in their types."""
    fields = {field.name: field for field in dataclasses.fields(TableSpec)}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in fields:
            hint = did_you_mean(name, fields, f"Choose {', '.join(fields)}.")
            raise UserError(f"'{name}' in {where} is not a field of a table. {hint}")
        if name in LISTS:
            is_list = isinstance(value, str) or (isinstance(value, Iterable) and all(isinstance(v, str) for v in value))
            if not is_list:
                raise UserError(f"'{name}' in {where} must be a list of names, got {value!r}.")
            found[name] = tuple(split_names(value))
        elif name in FLAGS and not isinstance(value, bool):
            raise UserError(f"'{name}' in {where} must be true or false, got {value!r}.")
        elif name == "decimals" and (isinstance(value, bool) or not isinstance(value, int)):
            raise UserError(f"'decimals' in {where} must be a whole number, got {value!r}.")
        elif name not in FLAGS and name != "decimals" and not isinstance(value, str):
            raise UserError(f"'{name}' in {where} must be a text, got {value!r}.")
        else:
            found[name] = value
    return found


def checked(spec: TableSpec, where: str) -> TableSpec:
    """A spec whose names are known, with metrics under their names in `records.csv`; raises `UserError` otherwise."""
    for name, choices in CHOICES.items():
        if (value := getattr(spec, name)) not in choices:
            known = ", ".join(choice for choice in choices if choice)
            raise UserError(f"{name} = '{value}' in {where}: expected one of {known}.")
    if not 0 <= spec.decimals <= MOST_DECIMALS:
        raise UserError(f"decimals = {spec.decimals} in {where}: expected a number from 0 to {MOST_DECIMALS}.")
    _check_words(spec.group_means, (*GROUPS, EVERY, NONE), "group_means", where)
    _check_words(spec.group_rows, (POSTHOC, TRAINED), "group_rows", where)
    if NONE in spec.group_means and len(spec.group_means) > 1:
        raise UserError(f"group_means in {where} is 'none' and something else. Leave out one of them.")
    if spec.sort:
        parse_order(spec.sort)
    columns = [name if name.lower() in COST_COLUMNS else _column_name(metric_of(name)) for name in spec.columns]
    columns = list(dict.fromkeys(name.lower() if name.lower() in COST_COLUMNS else name for name in columns))
    found = replace(spec, columns=tuple(columns))
    if not found.metrics:
        raise UserError(f"columns in {where} has no metric. Add one, such as auroc.")
    if len({CONVENTIONS[name] for name in columns if name in CONVENTIONS}) > 1:
        raise UserError(
            "fpr_at_tpr95 (ID is the positive class) and openood_fpr95 (OOD is the positive class) are both called "
            "FPR95 and are not in one table. Choose one of them for --columns."
        )
    return found


def _column_name(metric: Metric) -> str:
    return f"{metric.rules}_{metric.name}" if metric.rules else metric.name


def _check_words(words: Iterable[str], known: Sequence[str], name: str, where: str) -> None:
    for word in words:
        if word not in known:
            raise UserError(f"'{word}' for {name} in {where}: expected {', '.join(known)}.")
