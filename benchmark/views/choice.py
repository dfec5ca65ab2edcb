"""Which rows and sets a view shows, and in which order: by name, by pattern, by group, by a metric.

Tables, plots, pages and the short table at the end of a run choose alike, because all of them ask here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.views.metric_titles import Metric, metric_of
from oodbench.benchmark.views.recorded import check_recorded, has_results
from oodbench.benchmark.views.summary import (
    EVERY,
    GROUPS,
    Block,
    OodSet,
    Stat,
    Summary,
    TableRow,
    mean_over,
    means_of,
    worst_of,
)

NEAREST, LISTED = 3, 8
"""Numbers of known names that an error suggests where some are similar, and where none is."""

ID = "id"
"""Stands for the ID set in an order: `id:id_accuracy`, `id:ece`."""

Wanted = str | Iterable[str]
"""Names and patterns: a list, or one text with commas."""


def split_names(wanted: Wanted) -> list[str]:
    """Names as a list; a text is split at the commas that are outside of brackets and parentheses."""
    items = re.split(r",(?![^\[\]]*\])(?![^()]*\))", wanted) if isinstance(wanted, str) else wanted
    return [item.strip() for item in items if item.strip()]


def choose_rows(labels: Iterable[str], wanted: Wanted, names: Mapping[str, str] | None = None) -> list[str]:
    """The labels of the rows that are wanted, in the order in which they are named.

    Args:
        labels: Labels of all rows, such as `vim`, `odin[temperature=10]@joint` and `msp (epochs=2)`.
        wanted: Labels; plain names, for the row of that label or else all rows of that detector; patterns with `*`;
            `all`; and `-NAME`, which leaves rows out again. Nothing, or only what is left out, means all others.
        names: Label -> the name that is displayed, which can be wanted, too, in any case.

    Raises:
        UserError: A name that no row has, with the nearest ones, or a choice that leaves no row.
    """
    labels = list(dict.fromkeys(labels))
    shown = {label: name for label, name in (names or {}).items() if label in labels}
    return _chosen("detector", labels, split_names(wanted), lambda item: _rows_named(item, labels, shown))


def choose_sets(sets: Iterable[OodSet], wanted: Wanted) -> list[str]:
    """The names of the OOD sets that are wanted, in the order in which they are named.

    `wanted` are names, patterns with `*`, the groups `near` and `far`, `all`, and `-NAME`, as for `choose_rows`. Raises
    `UserError` for a name that no set has, or a choice that leaves no set.
    """
    sets = list(sets)
    names = list(dict.fromkeys(ood.name for ood in sets))
    return _chosen("OOD set", names, split_names(wanted), lambda item: _sets_named(item, sets))


def choose_id_sets(known: Iterable[str], wanted: Wanted) -> list[str]:
    """The names of the ID sets that are wanted; the same as `choose_sets`, without groups."""
    names = list(dict.fromkeys(known))
    return _chosen("ID set", names, split_names(wanted), lambda item: _matching(item, names))


def chosen(
    summary: Summary,
    rows: Wanted = (),
    sets: Wanted = (),
    id_sets: Wanted = (),
    names: Mapping[str, str] | None = None,
) -> Summary:
    """A summary of the rows, OOD sets and ID sets that are wanted; means and worst are over the sets that remain.

    What is wanted applies to every ID set that has it, with its own near and far. An ID set of which nothing remains is
    left out. `judged` stays as it is: it was judged among all rows of the run. `names` is as for `choose_rows`.

    Raises:
        UserError: For a name that no ID set has, or a choice that leaves nothing.
    """
    order = choose_id_sets((block.id_set for block in summary.blocks), id_sets)
    blocks = sorted((b for b in summary.blocks if b.id_set in order), key=lambda block: order.index(block.id_set))
    labels = choose_rows((row.label for block in blocks for row in block.rows), rows, names)
    items = split_names(sets)
    choose_sets((ood for block in blocks for ood in block.sets), items)  # raises if an item is unknown everywhere
    kept = [_restricted(block, labels, _sets_in(block, items)) for block in blocks]
    found = tuple(block for block in kept if block.rows and block.sets)
    if summary.blocks and not found:
        raise UserError("No ID set has both a chosen detector and a chosen OOD set. Choose more of either.")
    return replace(summary, blocks=found)


def _sets_in(block: Block, wanted: Sequence[str]) -> list[str]:
    """The OOD sets of one ID set that are wanted; items that it does not have are those of others."""
    names = [ood.name for ood in block.sets]
    return _picked(names, wanted, lambda item: _sets_named(item, block.sets))


def _restricted(block: Block, labels: Sequence[str], names: Sequence[str]) -> Block:
    sets = tuple(ood for name in names for ood in block.sets if ood.name == name)
    averaged = tuple(ood for ood in sets if ood in block.averaged)
    rows = sorted((row for row in block.rows if row.label in labels), key=lambda row: labels.index(row.label))
    return replace(block, sets=sets, averaged=averaged, rows=tuple(_only(row, sets, averaged) for row in rows))


def _only(row: TableRow, sets: Sequence[OodSet], averaged: Sequence[OodSet]) -> TableRow:
    names = [ood.name for ood in sets]
    return replace(
        row,
        cells={name: row.cells[name] for name in names},
        records={name: row.records[name] for name in names},
        means=means_of(row.records, averaged),
        worst=worst_of(averaged, row.cells),
    )


Named = Callable[[str], list[str]]
"""Finds what an item of a choice names; nothing if it names nothing."""


def _chosen(what: str, known: Sequence[str], wanted: Sequence[str], named: Named) -> list[str]:
    for item in wanted:
        name = item[1:].strip() if _drops(item, known) else item
        if not _is_every(name, known) and not named(name):
            raise _unknown(what, name, known)
    found = _picked(known, wanted, named)
    if known and not found:
        raise UserError(f"The choice '{','.join(wanted)}' leaves no {what}. Choose from {_listed(known)}.")
    return found


def _picked(known: Sequence[str], wanted: Sequence[str], named: Named) -> list[str]:
    """What the items name, in their order; all that is known, if there is no item or the first one leaves out."""
    found = dict.fromkeys(known if not wanted or _drops(wanted[0], known) else ())
    for item in wanted:
        drops = _drops(item, known)
        name = item[1:].strip() if drops else item
        matching = known if _is_every(name, known) else named(name)
        found = {one: None for one in found if one not in matching} if drops else found | dict.fromkeys(matching)
    return list(found)


def _drops(item: str, known: Sequence[str]) -> bool:
    return item.startswith("-") and item not in known


def _is_every(item: str, known: Sequence[str]) -> bool:
    return item == EVERY and EVERY not in known


def _rows_named(item: str, labels: Sequence[str], names: Mapping[str, str]) -> list[str]:
    if item in labels or "*" in item:
        return _matching(item, labels)
    same = [label for label in labels if plain_label(label) == item]
    return same or [label for label, name in names.items() if name.casefold() == item.casefold()]


def _sets_named(item: str, sets: Sequence[OodSet]) -> list[str]:
    names = [ood.name for ood in sets]
    if item in GROUPS and item not in names:
        return [ood.name for ood in sets if ood.group == item]
    return _matching(item, names)


def _matching(item: str, names: Sequence[str]) -> list[str]:
    """The names that an item is or, with `*` for any characters, matches; brackets in names mean themselves."""
    if item in names:
        return [item]
    pattern = ".*".join(map(re.escape, item.split("*")))
    return [name for name in names if "*" in item and re.fullmatch(pattern, name)]


def plain_label(label: str) -> str:
    """The detector's name in a row's label, without settings, recipe and what tells rows apart."""
    return re.split(r"[\[@]| \(", label, maxsplit=1)[0]


def _unknown(what: str, name: str, known: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(name, list(known), n=NEAREST, cutoff=0.5)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {_listed(known)}."
    return UserError(f"There is no {what} '{name}' to show. {hint}")


def _listed(known: Sequence[str]) -> str:
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return ", ".join(known[:LISTED]) + more


# Order


@dataclass(frozen=True)
class Order:
    """What rows are sorted by: a metric on one OOD set, or its mean over a group of them."""

    scope: str
    """The name of an OOD set, 'near', 'far', 'all', or 'id' for a number of the ID set alone."""
    metric: Metric


def parse_order(text: str) -> Order:
    """An order as typed: `near:auroc`, `svhn:fpr95`, `all:auroc`, or a metric alone, for its mean over all sets.

    Raises `UserError` for an unknown metric, or one of which no value is the better one.
    """
    scope, _, name = text.strip().rpartition(":")
    metric = metric_of(name)
    if metric.lower_is_better is None:
        raise UserError(f"Rows cannot be sorted by '{name}', of which neither a low nor a high value is better.")
    return Order(ID if metric.name == "id_accuracy" else scope.strip() or EVERY, metric)


def check_order(blocks: Iterable[Block], by: str | Order) -> Order:
    """An order by which at least one row of the blocks has a number.

    Raises `UserError` if no block has its group or set, no cell its metric, or no row the number on all of its sets.
    Without a finished cell nothing is refused, so that the table of a run that failed can be looked at.
    """
    order = parse_order(by) if isinstance(by, str) else by
    blocks = list(blocks)
    if not has_results(blocks):
        return order
    known = list(dict.fromkeys(scope for block in blocks for scope in _scopes(block)))
    name = f"{order.scope}:{order.metric.typed}"
    if known and order.scope not in known:
        raise UserError(
            f"Rows cannot be sorted by '{name}': '{order.scope}' is neither a group nor an OOD set shown. "
            f"Choose {_listed(known)}, as in '{known[0]}:{order.metric.typed}'."
        )
    if order.scope == ID and not (order.metric.is_of_row or _is_set(blocks, ID)):
        raise UserError(
            f"Rows cannot be sorted by '{name}': {order.metric.title} depends on the OOD set. Choose one, or a group, "
            f"as in '{known[0]}:{order.metric.typed}'."
        )
    check_recorded(blocks, [order.metric])
    if not any(stat_by(block, row, order) for block in blocks for row in block.rows):
        raise UserError(
            f"Rows cannot be sorted by '{name}', which no row shown has on all of these OOD sets. Finish the run, or "
            "sort by an OOD set that it has finished."
        )
    return order


def _is_set(blocks: Iterable[Block], name: str) -> bool:
    return any(ood.name == name for block in blocks for ood in block.sets)


def _scopes(block: Block) -> list[str]:
    groups = [group for group in GROUPS if any(ood.group == group for ood in block.averaged)]
    return [*groups, EVERY, *(ood.name for ood in block.sets), ID]


def stat_by(block: Block, row: TableRow, order: Order) -> Stat | None:
    """The number that a row is sorted by; None if the row lacks it."""
    named = [ood for ood in block.sets if ood.name == order.scope]
    if order.scope == ID and not named:
        return value_of_row(row, order.metric)
    sets = named or scope_sets(block.averaged, order.scope)
    return metric_mean(row, sets, order.metric)


def scope_sets(averaged: Sequence[OodSet], scope: str) -> list[OodSet]:
    """The sets of a group among those that means are over; of 'all', every one."""
    return [ood for ood in averaged if scope == EVERY or ood.group == scope]


def value_of_row(row: TableRow, metric: Metric) -> Stat | None:
    """A number that is the same for all OOD sets: of the first that has it."""
    if metric.name == "id_accuracy":
        return row.id_accuracy
    found = (mean_over([by_seed], metric.of) for by_seed in row.records.values())
    return next((stat for stat in found if stat), None)


def metric_mean(row: TableRow, sets: Sequence[OodSet], metric: Metric) -> Stat | None:
    """A metric's mean over OOD sets, seed by seed, then over seeds; None unless some seed has all of the sets."""
    return mean_over([row.records[ood.name] for ood in sets], metric.of)


def sorted_rows(block: Block, by: str | Order) -> list[TableRow]:
    """A block's rows, best first; equal ones in the order of the plan, those without the number last.

    A block without the group or set keeps its order: call `check_order` on all blocks to refuse such a name.
    """
    order = parse_order(by) if isinstance(by, str) else by
    sign = 1 if order.metric.lower_is_better else -1
    stats = {row.label: stat_by(block, row, order) for row in block.rows}
    return sorted(block.rows, key=lambda row: _place(stats[row.label], sign))


def _place(stat: Stat | None, sign: int) -> tuple[bool, float]:
    return (True, 0.0) if stat is None else (False, sign * stat.mean)


def best(block: Block, count: int, by: str | Order) -> list[TableRow]:
    """The `count` best rows of those that have the number, best first; without sanity rows."""
    order = parse_order(by) if isinstance(by, str) else by
    able = [row for row in sorted_rows(block, order) if stat_by(block, row, order) and not row.first.sanity]
    return able[:count]
