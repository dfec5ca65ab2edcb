"""Reads data frames for pictures: numbers and scores become a summary like that of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.errors import MetricError, UserError
from oodbench.benchmark.metrics.exact import checked_scores, evaluate
from oodbench.benchmark.records.record import FAILED, OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.plots.scores import Pair
from oodbench.benchmark.views.summary import ABSENT, Block, Summary, summary_of

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("label", "ood_set", "metric", "mean")
SCORES = ("label", "ood_set", "id_scores", "ood_scores")
"""Columns that the frames must have."""


@dataclass(frozen=True)
class FrameScores:
    """Scores of a data frame."""

    pairs: Mapping[tuple[str, str, str], Pair | str]

    def read(self, block: Block, label: str, ood_set: str) -> Pair | str:
        """The (N,) scores of the ID set and the (M,) scores of the OOD set, or why there are none."""
        return self.pairs.get((block.id_set, label, ood_set), "not run")


def summary_content(numbers: pd.DataFrame) -> Summary:
    """The summary of a frame with a row per number: `Run.summary()`, or columns `NUMBERS` by hand; means in [0, 1].

    Raises:
        UserError: If a column is missing, or the frame has no numbers of single OOD sets.
    """
    _check(numbers, NUMBERS)
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in numbers.to_dict("records"):
        if row.get("scope", "set") != "set":
            continue
        cell = cells.setdefault(_place(row), {"row": row, "metrics": {}, "intervals": {}})
        if row["mean"] == row["mean"]:  # not NaN
            cell["metrics"][row["metric"]] = float(row["mean"])
            low, high = row.get("low"), row.get("high")
            if low is not None and high is not None and low == low and high == high:
                cell["intervals"][row["metric"]] = (float(low), float(high))
    if not cells:
        raise UserError("The frame has no numbers of OOD sets: expected rows whose `scope` is 'set'.")
    return _summary(_record(place, **cell) for place, cell in cells.items())


def scores_content(scores: pd.DataFrame) -> tuple[Summary, FrameScores]:
    """The summary of a frame with a row per detector and OOD set: `Run.scores()`, or columns `SCORES` by hand.

    Raises:
        UserError: If a column is missing, or a row has scores from which no metric can be computed.
    """
    _check(scores, SCORES)
    pairs: dict[tuple[str, str, str], Pair | str] = {}
    records = []
    for row in scores.to_dict("records"):
        place, metrics = _place(row), {}
        if row["id_scores"] is None or row["ood_scores"] is None:
            pairs[place] = row.get("status") or FAILED
        else:
            try:
                metrics = evaluate(row["id_scores"], row["ood_scores"])
                pair = checked_scores(row["id_scores"], "id_scores"), checked_scores(row["ood_scores"], "ood_scores")
            except MetricError as error:
                raise UserError(f"Scores of '{place[1]}' on '{place[2]}': {error}") from error
            pairs[place] = pair
        records.append(_record(place, row, metrics, {}))
    return _summary(records), FrameScores(pairs)


def _check(frame: pd.DataFrame, columns: Iterable[str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(
            f"The frame has no column {', '.join(map(repr, missing))}; expected {', '.join(columns)}, as Run.summary() "
            "gives them for numbers and Run.scores() for scores."
        )
    if not len(frame):
        raise UserError("The frame is empty; expected a row per detector and OOD set.")


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row.get("id_set", "ID")), str(row["label"]), str(row["ood_set"])


def _record(
    place: tuple[str, str, str], row: Mapping[str, Any], metrics: Mapping[str, float], intervals: Mapping[str, Any]
) -> Record:
    id_set, label, ood_set = place
    status = OK if metrics else str(row.get("status") or FAILED)
    lost = FAILED if status in (ABSENT, OK) and not metrics else status
    return Record(
        id_set=id_set, ood_set=ood_set, group=str(row.get("group") or ""), seen=bool(row.get("seen", False)),
        outlier_source=bool(row.get("outlier_source", False)), detector=str(row.get("detector", label)), settings={},
        recipe=str(row.get("recipe", "")), recipe_settings={}, backbone=str(row.get("backbone", "")), seed=0,
        label=label, status=lost, metrics=metrics, intervals=intervals,
    )  # fmt: skip


def _summary(records: Iterable[Record]) -> Summary:
    return summary_of(StoredRun(Path("a data frame"), {}, list(records)))
