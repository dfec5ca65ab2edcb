"""What a picture is asked to show: which rows stand out or are left out, in which order, and the numbers of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.views.choice import ID, best, metric_mean, parse_order, sorted_rows
from oodbench.benchmark.views.marks import FEWER, SEEN
from oodbench.benchmark.views.metric_titles import Metric, metric_of
from oodbench.benchmark.views.plots.page import Size
from oodbench.benchmark.views.plots.style import Look
from oodbench.benchmark.views.summary import EVERY, GROUPS, Block, OodSet, Stat, TableCell, TableRow

FEW = 8
"""Up to this many rows, every row has a colour of its own and the order of the plan."""


@dataclass(frozen=True)
class Options:
    """What a picture is asked to show. The defaults are those of a run's own plots."""

    size: Size = field(default_factory=Size)
    metrics: tuple[Metric, ...] = ()
    """Empty: those of the kind of picture."""
    sort: str = ""
    """An order such as 'near:auroc'; empty: the plan's for up to `FEW` rows, else the best first by AUROC."""
    best: int | None = None
    """How many rows are drawn in colour where others are grey, and how many are shown elsewhere; None: see `FEW`."""
    highlight: tuple[str, ...] = ()
    """Labels of rows that are in colour, or shown, whatever their place."""
    log_fpr: bool = False
    """Whether false positive rates have a logarithmic axis."""
    seeds: int = 1
    """Number of the run's training seeds."""
    seed: str = ""
    """Which of them the scores belong to, as a phrase; empty if it is not known."""
    remark: str = ""
    """A warning, such as for a quick look."""
    looks: Mapping[str, Look] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """Label -> the name that is displayed; labels that are missing stand for themselves."""
    clusters: bool = True
    """Whether a heat map puts similar rows of many beside each other."""

    def name(self, label: str) -> str:
        """A row's name as it is displayed."""
        return self.names.get(label, label)

    def metrics_or(self, *names: str) -> tuple[Metric, ...]:
        """The metrics that are asked for, or those of the kind of picture."""
        return self.metrics or tuple(map(metric_of, names))


def order_of(block: Block, options: Options) -> str:
    """What a block's rows are sorted by: what is asked for, or the first metric's mean over near, far or all sets."""
    metric = options.metrics[0] if options.metrics else metric_of("auroc")
    if metric.lower_is_better is None:
        metric = metric_of("auroc")
    name = f"{metric.rules}_{metric.name}" if metric.rules else metric.name
    return options.sort or f"{next((g for g in block.groups if g in GROUPS), EVERY)}:{name}"


def order_text(block: Block, options: Options) -> str:
    """The order as a phrase for a picture's details."""
    order = parse_order(order_of(block, options))
    named = {EVERY: "mean", "near": "near mean", "far": "far mean"}
    if order.scope == ID and order.metric.name == "id_accuracy":
        return "sorted by ID accuracy"
    return f"sorted by {order.metric.full_title}, {named.get(order.scope, order.scope)}"


def ranked(block: Block, options: Options) -> list[TableRow]:
    """All rows, the best first."""
    return sorted_rows(block, order_of(block, options))


def shown(block: Block, options: Options) -> tuple[list[TableRow], bool]:
    """The rows of a picture that shows all alike, and whether they are sorted.

    The plan's order for few rows, unless an order is asked for; with `best`, the best ones and those highlighted.
    """
    if options.best is not None:
        kept = {row.label for row in best(block, options.best, order_of(block, options))} | {*options.highlight}
        return [row for row in ranked(block, options) if row.label in kept], True
    if options.sort or len(block.rows) > FEW:
        return ranked(block, options), True
    return list(block.rows), False


def in_colour(block: Block, options: Options) -> list[TableRow]:
    """The rows that stand out where the others are grey: few, or else the best ones and those highlighted."""
    if options.best is None and len(block.rows) <= FEW:
        return ranked(block, options) if options.sort else list(block.rows)
    count = FEW if options.best is None else options.best
    labels = {row.label for row in best(block, count, order_of(block, options))} | {*options.highlight}
    return [row for row in ranked(block, options) if row.label in labels]


def number_of(row: TableRow, ood: OodSet, metric: Metric) -> Stat | None:
    """A cell's number with its interval, where one is recorded."""
    if metric.name in METRICS and not metric.rules:
        return row.cells[ood.name].stats.get(metric.name)
    return metric_mean(row, [ood], metric)


def mean_of(block: Block, row: TableRow, group: str, metric: Metric) -> Stat | None:
    """A row's mean over a group of sets, with a cautious interval: the mean of the ends of the sets' own intervals.

    The sets share their ID images, so their errors are correlated, to an unknown degree. The standard deviation of a
    mean is at most the mean of the standard deviations, so this interval is at least as wide as the mean's own.
    """
    members = [s for s in block.averaged if group in (EVERY, s.group)]
    stat = metric_mean(row, members, metric)
    ends = [found.interval for s in members if (found := number_of(row, s, metric)) and found.interval]
    if stat is None or not ends or len(ends) < len(members):
        return stat
    low, high = (sum(end) / len(ends) for end in zip(*ends, strict=True))
    return replace(stat, interval=(low, high))


@dataclass(frozen=True)
class Series:
    """One mark in every row: a mean over a group of sets, or one set."""

    name: str
    group: str
    ood: OodSet | None = None

    def stat(self, block: Block, row: TableRow, metric: Metric) -> Stat | None:
        """The number of a row; None if it has none."""
        return number_of(row, self.ood, metric) if self.ood else mean_of(block, row, self.group, metric)

    def cells(self, block: Block, row: TableRow) -> list[TableCell]:
        """The cells that the number is made of."""
        sets = [self.ood] if self.ood else [s for s in block.averaged if self.group in (EVERY, s.group)]
        return [row.cells[s.name] for s in sets]


SINGLE = 4
"""Up to this many sets that are neither near nor far have a mark each; more have one for their mean."""


def series_of(block: Block) -> list[Series]:
    """The marks of a row: the near and the far mean; sets without a group each, or the mean of many."""
    groups = [group for group in GROUPS if group in block.groups]
    if groups:
        return [Series(f"{group} mean", group) for group in groups]
    if len(block.sets) <= SINGLE or not block.averaged:
        return [Series(ood.name, ood.group, ood) for ood in block.sets]
    return [Series(f"mean of {len(block.averaged)} sets", EVERY)]


def marks_of(cells: Sequence[TableCell], stat: Stat | None, seeds: int) -> str:
    """The marks of a number, as in the tables: seen in training, over fewer seeds."""
    return SEEN * any(cell.seen for cell in cells) + FEWER * (stat is not None and stat.n < seeds)


def explained(marks: str, seeds: int) -> list[str]:
    """What the marks that occur mean."""
    meanings = {SEEN: f"{SEEN} seen in training", FEWER: f"{FEWER} over fewer of the {seeds} seeds"}
    return [meaning for mark, meaning in meanings.items() if mark in marks]
