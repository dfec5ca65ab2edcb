"""A run, or several side by side, as one page for the browser: what `bench report` and `report` write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oodbench.benchmark.comparisons.scored_images import ImagesOfRuns, ScoredImages
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.papers.report_lines import published_lines
from oodbench.benchmark.records.beside import beside_dir
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.runner.run_data import adopt_folders
from oodbench.benchmark.runner.run_view import view_of_run
from oodbench.benchmark.store.user_path import user_path
from oodbench.benchmark.views.names import NO_NAMES, read_names
from oodbench.benchmark.views.report.collect import PICTURES, Lookups, report_data
from oodbench.benchmark.views.report.page import write_report

NAME = "report.html"
"""The file's default name, in the folder of the run."""


def report(
    runs: str | Path | StoredRun | Sequence[str | Path | StoredRun],
    out: str | Path | None = None,
    *,
    results: str | Path = "results",
    data_dir: str | Path = "data",
    images: int = PICTURES,
    title: str = "",
    names: str | Path | None = None,
    command: str = "",
) -> Path:
    """Write a run, or several side by side, as one HTML file that opens from disk without a network.

    It is made from records and stored scores; torch is not needed. The images, whose mistakes it shows, are read from
    `data_dir` where they are there.

    Args:
        runs: A run, its name or its folder; or several.
        out: The file to write; by default `report.html` in the run's folder, or in `compare/RUN+RUN` of the results
            folder.
        results: The results folder.
        data_dir: The folder with the files of data sets.
        images: Pictures in each list of mistakes at most; 0 shows neither images nor their names, for private data.
        title: The page's title; by default the names of the runs.
        names: A file of names of rows and sets, and of citations, in place of those that plug-ins declare
            (`names.toml`).
        command: The command line that the page names as its own.

    Returns:
        The path of the file.

    Raises:
        UserError: If there is no such run, or its files or the file of names cannot be read.

    Example:
        >>> from oodbench.benchmark import report
        >>> report("digits", "report.html")  # doctest: +SKIP
    """
    if images < 0:
        raise UserError(f"images is {images}; expected 0 or more pictures in each list.")
    if out is not None and user_path(out).is_dir():
        raise UserError(f"'{out}' is a folder. Name the file to write, such as '{Path(out) / NAME}'.")
    folder, given = user_path(results), [runs] if isinstance(runs, str | Path | StoredRun) else list(runs)
    stored = [
        part
        for one in given
        for run in [one if isinstance(one, StoredRun) else read_stored_run(run_dir(folder, str(one)))]
        for part in (run.parts or (run,))
    ]
    for run in stored:
        adopt_folders(run.info)

    def images_of_one(run: StoredRun) -> ScoredImages:
        store = cache_of(run.path, folder) / "data"
        return ScoredImages(Library(user_path(data_dir), store, view=view_of_run(run.info)))

    def images_of(run: StoredRun) -> ScoredImages:
        if not run.parts:
            return images_of_one(run)
        return ImagesOfRuns({part.name: images_of_one(part) for part in run.parts})

    lookups = Lookups(images_of, published_lines)
    own = read_names(user_path(names)) if names else NO_NAMES
    data = report_data(stored, folder, lookups, pictures=images, command=command, title=title, names=own)
    if out is None:
        return write_report(data, _default_path(stored, folder), "--results")
    return write_report(data, user_path(out))


def _default_path(runs: Sequence[StoredRun], results: Path) -> Path:
    if len(runs) == 1:
        return runs[0].path / NAME
    return beside_dir([run.path for run in runs], [run.name for run in runs], results) / NAME
