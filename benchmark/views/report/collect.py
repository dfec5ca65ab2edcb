"""Fills a `ReportData` from stored runs: one, or several, side by side on the sets that all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError, visible
from oodbench.benchmark.metrics.names import EXTENDED_METRICS, LOWER_IS_BETTER, METRICS
from oodbench.benchmark.records.beside import runs_beside
from oodbench.benchmark.records.record import WARNING
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.report import data
from oodbench.benchmark.views.report.metric_help import HELP, TITLES
from oodbench.benchmark.views.report.tables import Tables
from oodbench.benchmark.views.summary import summary_of

MACHINE = ("processor", "device", "device_name", "threads", "platform")


def report_data(runs: Sequence[StoredRun], results: Path, *, command: str = "", title: str = "") -> data.ReportData:
    """Everything that a report of these runs shows.

    Args:
        runs: The runs, as `read_stored_run` gives them. The pairs of sets that several runs have on the same images are
            shown in one table; a run's other ID sets in tables of its own.
        results: The results folder, for the stores of runs that are in no results folder.
        command: The command line that makes the report, which the page names.
        title: The report's title; by default the names of the runs.

    Raises:
        UserError: If there is no run, or if one is given twice.
    """
    if not runs:
        raise UserError("A report needs a run; got none.")
    tables, notes = Tables(), []
    joined = None
    if len(runs) > 1:
        joined, why = _beside(runs, results)
        notes += why
        if joined:
            summary = summary_of(joined)
            tables.add(joined, "", summary, summary.blocks)
    shown = {record.key for record in joined.records} if joined else set()
    for run in runs:
        summary = summary_of(run)
        left = {r.id_set for r in run.records if not r.key or r.key not in shown}
        tables.add(run, run.name, summary, [block for block in summary.blocks if block.id_set in left])
    return data.ReportData(
        title=visible(title or " + ".join(run.name for run in runs)),
        made=data.Made(metadata.version("oodbench"), command),
        runs=[_run(run) for run in runs],
        notes=[visible(note) for note in notes],
        seeds=sorted({seed for run in runs for seed in summary_seeds(run)}),
        metrics=_metrics(tables),
        id_sets=tables.blocks,
        rows=tables.rows,
        cells=tables.cells,
        levels=[],
        distributions=[],
        pairs=[],
        pictures=[],
        mistakes=[],
        published=[],
        texts=tables.texts.lines,
    )


def summary_seeds(run: StoredRun) -> list[int]:
    """The seeds of a run, in order."""
    return sorted({*run.info.get("seeds", ()), *(record.seed for record in run.records)})


def _beside(runs: Sequence[StoredRun], results: Path) -> tuple[StoredRun | None, list[str]]:
    """The runs side by side, with what they do not share; None, with the reason, if they have no common pair."""
    folders = [run.path for run in runs]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"Name each run once; got {', '.join(str(folder) for folder in folders)}.")
    try:
        joined = runs_beside(folders, results)
    except UserError as error:
        return None, [str(error)]
    return joined, list(joined.info.get("beside", ()))


def _run(run: StoredRun) -> data.Run:
    info = run.info
    suite = info.get("suite") or {}
    notes = [visible(str(note)) for note in info.get("notes", ())]
    lists: list[tuple[str, str]] = [("skipped", "what"), ("unavailable", "name")]
    skipped = [
        [visible(str(one.get(key, ""))), visible(str(one.get("reason", "")))]
        for name, key in lists
        for one in info.get(name, ())
    ]
    return data.Run(
        name=run.name,
        command="\n".join(str(part["line"]) for part in info.get("parts", ()) if part.get("line")),
        suite=str(suite.get("name", "")),
        suite_title=str(suite.get("title", "")),
        seeds=summary_seeds(run),
        machine={name: str(info[name]) for name in MACHINE if info.get(name) not in (None, "")},
        versions=_versions(info),
        notes=[note for note in notes if not note.startswith(WARNING)],
        warnings=[note.removeprefix(WARNING) for note in notes if note.startswith(WARNING)],
        skipped=skipped,
        unfinished=[visible(sentence) for sentence in run.unfinished],
        passes=str(info.get("passes") or ""),
    )


def _versions(info: Mapping[str, Any]) -> dict[str, str]:
    """Of oodbench first, its commit, Python, then of packages by name."""
    commit = info.get("commit")
    found = {"oodbench": info.get("version"), "python": info.get("python")}
    if isinstance(commit, Mapping):
        found["commit"] = f"{commit.get('id', '')}{', with uncommitted changes' * bool(commit.get('dirty'))}"
    found |= dict(sorted((info.get("packages") or {}).items()))
    return {name: str(version) for name, version in found.items() if version}


def _metrics(tables: Tables) -> list[data.Metric]:
    present = {metric for cell in tables.cells for metric in cell.stats}
    names = [*METRICS, *(name for name in EXTENDED_METRICS if name in present)]
    return [
        data.Metric(name, TITLES.get(name, name), name in LOWER_IS_BETTER, HELP.get(name, ""), name in METRICS)
        for name in names
        if name in present or name == "auroc"
    ]
