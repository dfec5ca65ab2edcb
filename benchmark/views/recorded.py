"""Whether the cells shown have a metric, before a view has a column of dashes or rows in no order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import EXTENDED, EXTENDED_METRICS, SPREAD
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.views.metric_titles import Metric
from oodbench.benchmark.views.summary import Block


def check_recorded(blocks: Sequence[Block], metrics: Iterable[Metric]) -> None:
    """Raise `UserError` for a metric beyond the exact ones that no finished cell has, with how to compute it.

    The exact metrics are in every finished cell, the accuracy in those with a classifier. Without a finished cell
    nothing is refused: the view says why there is none.
    """
    for metric in metrics:
        if (
            _is_optional(metric)
            and has_results(blocks)
            and not any(metric.of(one) is not None for one in _done(blocks))
        ):
            raise UserError(f"No cell shown has '{metric.typed}'. {_remedy(blocks, metric)}")


def has_results(blocks: Iterable[Block]) -> bool:
    """Whether at least one cell is finished."""
    return next(_done(blocks), None) is not None


def _done(blocks: Iterable[Block]) -> Iterator[Record]:
    for block in blocks:
        for row in block.rows:
            for by_seed in row.records.values():
                yield from (record for record in by_seed.values() if record.status == OK)


def _is_optional(metric: Metric) -> bool:
    return bool(metric.rules) or metric.is_stability or metric.name in (SPREAD, *EXTENDED_METRICS)


def _remedy(blocks: Sequence[Block], metric: Metric) -> str:
    repeat = "Repeat the command that made the run"
    if metric.rules:
        return f"{repeat} with --metrics {metric.rules}: nothing is trained or scored again."
    if metric.name == SPREAD:
        return "Protocols that choose settings on several sources, val_id and leave_one_out, measure it."
    if metric.is_stability:
        return f"{repeat} without --no-stability: nothing is trained again."
    computed = sorted({name for record in _done(blocks) for name in record.extended})
    if not computed:
        return (
            f"{repeat} with --metrics {EXTENDED}: nothing is trained again, only ID validation and shifted ID images "
            "are scored."
        )
    return f"It needs images or labels that these sets lack. Choose {', '.join(computed)}."
