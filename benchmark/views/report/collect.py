"""Fills a `ReportData` from stored runs: one, or several, side by side on the sets that all of them have."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from oodbench.benchmark.comparisons.column import AUROC
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.errors import UserError, visible
from oodbench.benchmark.metrics.names import EXTENDED_METRICS, METRICS, SPREAD
from oodbench.benchmark.records.beside import runs_beside
from oodbench.benchmark.records.paths import cache_of
from oodbench.benchmark.records.record import WARNING
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.costs import DATA
from oodbench.benchmark.views.metric_titles import Metric, metric_of
from oodbench.benchmark.views.names import NO_NAMES, OwnNames
from oodbench.benchmark.views.over_id_sets import over_id_sets
from oodbench.benchmark.views.report import data
from oodbench.benchmark.views.report.curves import LEVELS, PARTS
from oodbench.benchmark.views.report.mistakes import OnSet, mistakes_of
from oodbench.benchmark.views.report.pairs import pairs_of
from oodbench.benchmark.views.report.pictures import with_pictures
from oodbench.benchmark.views.report.published import PublishedLine, published_of
from oodbench.benchmark.views.report.tables import Tables
from oodbench.benchmark.views.summary import summary_of

PICTURES = 24
"""Images in each list of mistakes, by default."""

MOST = 7_150_000
"""Bytes of a report's data, which pictures fill at most; a page adds its scripts."""

LEAST_SHARE = 7
"""One part in so many of these bytes is for pictures in any case."""

MACHINE = {"processor": "Processor", "device": "Device", "threads": "Threads a job", "platform": "Platform"}
"""What `run.json` says of the machine -> what it is called."""


@dataclass(frozen=True)
class Lookups:
    """What a report asks others for, because it lies above the views or on the disk; None leaves it out."""

    images: Callable[[StoredRun], ScoredImages] | None = None
    """Where the images of a run, or of several side by side, are looked up: their groups, names and pixels."""
    published: Callable[[StoredRun], Iterable[PublishedLine]] | None = None
    """The published numbers that a run has counterparts of (`papers.report_lines`)."""


def report_data(
    runs: Sequence[StoredRun],
    results: Path,
    lookups: Lookups | None = None,
    *,
    pictures: int = PICTURES,
    command: str = "",
    title: str = "",
    names: OwnNames = NO_NAMES,
    most: int = MOST,
) -> data.ReportData:
    """Everything that a report of these runs shows.

    Args:
        runs: The runs, as `read_stored_run` gives them. The pairs of sets that several runs have on the same images are
            shown in one table; a run's other ID sets in tables of its own.
        results: The results folder, for the stores of runs that are in no results folder.
        lookups: Where to find images and published numbers.
        pictures: Images in each list of mistakes at most; 0 for a report without images and without their names.
        command: The command line that makes the report, which the page names.
        title: The report's title; by default the names of the runs.
        names: The user's names of rows and sets, which override those that plug-ins declare.
        most: Bytes of the data, as JSON; pictures that would take more are left out.

    Raises:
        UserError: If there is no run, or if one is given twice.
    """
    if not runs:
        raise UserError("A report needs a run; got none.")
    lookups = lookups or Lookups()
    collected = _Collected(results, lookups, pictures, names)
    kept: set[str] = set()
    if len(runs) > 1 and (joined := collected.beside(runs)):
        collected.add(joined, "")
        runs = joined.parts  # whose names differ
        kept = {record.key for record in joined.records}
    for run in runs:
        collected.add(run, run.name, kept)
    tables = collected.tables
    found = data.ReportData(
        title=visible(title or " + ".join(run.name for run in runs)),
        made=data.Made(metadata.version("oodbench"), command),
        runs=[_run(run) for run in runs],
        notes=[visible(note) for note in collected.notes],
        seeds=sorted({seed for run in runs for seed in _seeds(run)}),
        metrics=_metrics(tables),
        id_sets=tables.blocks,
        rows=tables.rows,
        cells=tables.cells,
        levels=[level / PARTS for level in LEVELS],
        distributions=tables.curves.found,
        pairs=collected.pairs,
        pictures=[],
        mistakes=[],
        published=collected.published,
        texts=tables.texts.lines,
        references=sorted(tables.references.items()),
        class_lists=tables.classes.lists,
        explained=[[value, phrase] for value, phrase in DATA.items()],
    )
    room = max(most // LEAST_SHARE, most - len(data.to_json(found)))
    shown, album = with_pictures(collected.mistakes, pictures, room)
    return msgspec.structs.replace(found, mistakes=shown, pictures=album)


class _Collected:
    """The parts of a report as runs are added."""

    def __init__(self, results: Path, lookups: Lookups, pictures: int, names: OwnNames) -> None:
        self.results, self.lookups, self.count = results, lookups, pictures
        self.tables = Tables(own_names=names)
        self.notes: list[str] = []
        self.pairs: list[data.Pairs] = []
        self.mistakes: list[tuple[OnSet, ScoredImages | None]] = []
        self.published: list[data.PublishedNumber] = []

    def beside(self, runs: Sequence[StoredRun]) -> StoredRun | None:
        """The runs side by side; None, with the reason in the notes, if they have no common pair of sets."""
        folders = [run.path for run in runs]
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise UserError(f"Name each run once; got {', '.join(str(folder) for folder in folders)}.")
        try:
            joined = runs_beside(folders, self.results)
        except UserError as error:
            self.notes.append(str(error))
            return None
        self.notes += joined.info.get("beside", ())
        return joined

    def add(self, run: StoredRun, name: str, shown_before: Container[str] = ()) -> None:
        """Add the ID sets of a run that have cells with other keys than those `shown_before`."""
        left = {record.id_set for record in run.records if not record.key or record.key not in shown_before}
        summary = summary_of(run)
        blocks = [block for block in summary.blocks if block.id_set in left]
        if not blocks:
            return
        mean = over_id_sets(summary) if len(blocks) == len(summary.blocks) else None
        cache = cache_of((run.parts or (run,))[0].path, self.results)
        images = self.lookups.images(run) if self.lookups.images else None
        lines = list(self.lookups.published(run)) if self.lookups.published else []
        for shown in self.tables.add(run, name, cache, [*blocks, *([mean] if mean else [])]):
            if shown.block.over:
                continue
            pairs, notes = pairs_of(shown, cache, images)
            self.pairs += pairs
            self.notes += notes
            self.published += published_of(shown, lines)
            if self.count:
                self.mistakes += [(on, images) for on in mistakes_of(shown, cache, self.count)]


def _seeds(run: StoredRun) -> list[int]:
    """The seeds of a run, in order."""
    return sorted({*run.info.get("seeds", ()), *(record.seed for record in run.records)})


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
        seeds=_seeds(run),
        machine={title: str(info[name]) for name, title in MACHINE.items() if info.get(name) not in (None, "")}
        | ({"GPU": str(info["device_name"])} if str(info.get("device", "cpu")) != "cpu" else {}),
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
    names = [*METRICS, *(name for name in (*EXTENDED_METRICS, SPREAD) if name in present)]
    return [_metric(metric_of(name)) for name in names if name in present or name == AUROC]


def _metric(metric: Metric) -> data.Metric:
    explained = f"{metric.help[:1].upper()}{metric.help[1:]}."
    return data.Metric(metric.name, metric.full_title, bool(metric.lower_is_better), explained, metric.name in METRICS)
