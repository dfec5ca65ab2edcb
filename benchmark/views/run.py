"""A run as Python users and notebooks see it: data frames, tables in every format, HTML."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from typing_extensions import Unpack

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.beside import runs_beside
from oodbench.benchmark.records.csv_file import records_csv
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.records.record import FAILED, OK, SKIPPED
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.store.npy import stored_scores
from oodbench.benchmark.store.user_path import user_path
from oodbench.benchmark.views.by_class import shown_by_cell
from oodbench.benchmark.views.summary import EVERY, GROUPS, Block, Stat, TableRow, summary_of
from oodbench.benchmark.views.tables.files import summarise, table_csv
from oodbench.benchmark.views.tables.html import table_html
from oodbench.benchmark.views.tables.latex import table_latex
from oodbench.benchmark.views.tables.layout import COLUMNS
from oodbench.benchmark.views.tables.markdown import table_markdown
from oodbench.benchmark.views.tables.paper.spec import TableOptions
from oodbench.benchmark.views.tables.paper.write import frame, references, written
from oodbench.benchmark.views.tables.text import text_table

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["text", "md", "csv", "tex", "html"]

FORMATS: Mapping[str, Callable[[StoredRun], str]] = {
    "text": text_table,
    "md": table_markdown,
    "csv": table_csv,
    "tex": table_latex,
    "html": table_html,
}
"""Name of a format -> what renders a run's tables in it."""

MEAN = "{} mean"
MEANS = tuple(MEAN.format(group) for group in (*GROUPS, EVERY))
"""How columns of the data frame name a mean over the sets of a group."""

TEXT_COLUMNS = (
    *("id_set", "ood_set", "group", "detector", "recipe", "backbone", "status", "reason", "key", "notes"),
    "label",
    "run",
)
"""Columns of `records.csv` in which an empty field is an empty string, not a missing value."""


class Run(StoredRun):
    """A finished or interrupted run, read from its folder.

    Attributes:
        path: The run's folder, with `records.csv`, the tables and `plots/`.
        info: The content of `run.json`: options as given and as resolved, software, machine, pairs of sets, notes.
        records: One `Record` per cell (ID set, OOD set, detector with settings and recipe, seed), in plan order.
        parts: Of several runs side by side (`beside`), the runs; else empty.
        missing: The command that continues an unfinished run -> the number of cells without a record; else empty.

    Example:
        >>> from oodbench.benchmark import read_run
        >>> run = read_run("digits")  # doctest: +SKIP
        >>> run.to_frame().groupby("detector")["auroc"].mean()  # doctest: +SKIP
        >>> print(run.table(format="md"))  # doctest: +SKIP
    """

    def to_frame(self) -> pd.DataFrame:
        """Return the records as a pandas data frame, one row per cell: the columns of `records.csv`.

        Metrics and interval ends are fractions in [0, 1], missing where not available. `settings` holds dictionaries
        with the settings that differ from the detector's defaults; `seen` is boolean; `seconds` is rounded to 1 ms. If
        `--add` joined cells of unlike origins, `label` names the row of each: group by it.
        """
        import pandas as pd  # half a second that the command line need not wait for

        header, *rows = csv.reader(io.StringIO(records_csv(self.records)))
        columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
        read: dict[str, Callable[[str], Any]] = {"settings": json.loads, "seen": json.loads}
        read |= dict.fromkeys(TEXT_COLUMNS, str)
        values = {name: list(map(read.get(name, _number), texts)) for name, texts in columns.items()}
        return pd.DataFrame(values, columns=header)

    @overload
    def table(self, format: None = None, **options: Unpack[TableOptions]) -> pd.DataFrame: ...

    @overload
    def table(self, format: Format, **options: Unpack[TableOptions]) -> str: ...

    def table(self, format: Format | None = None, **options: Unpack[TableOptions]) -> pd.DataFrame | str:
        """Return the table of a run: one row per ID set and detector, means over seeds; or a table for a paper.

        Args:
            format: None for a data frame, or a format for text with standard deviations, marks and notes: "text" (for
                the terminal), "md", "csv", "tex" or "html".
            **options: Those of `bench table`, for a table of a paper: `style` ("lee2018", "openood", "mos" or a file),
                `part`, `detectors`, `ood`, `id_sets`, `columns`, `group_means`, `sets`, `sort`, `group_rows`, `layout`,
                `by`, `transpose`, `names` (a file, or names by label), `bold`, `underline`, `decimals`, `marks`, `std`,
                `notes`, `caption`; for "tex" also `label`, `fragment`, `standalone` and `cite`.

        Returns:
            A data frame in percent, indexed by (`id_set`, `detector`), whose columns are pairs (OOD set, metric) with
            `tnr_at_tpr95`, `auroc`, `detection_accuracy`, `aupr_in` and `aupr_out` of every OOD set, then the means
            over `near` and `far` sets; the first column is ("", "id_accuracy"). Missing where not available. With
            options, the data frame of that table: rows by (group, name), columns by (group, heading). Or the text.

        Raises:
            UserError: For a format or option that does not exist, or a row, set, metric or group that the run has not.

        Example:
            >>> run = read_run("digits")  # doctest: +SKIP
            >>> run.table("tex", style="openood", detectors="msp,odin,vim", sort="near:auroc")  # doctest: +SKIP
        """
        if format is not None and format not in FORMATS:
            raise UserError(f"Unknown format '{format}'. Choose {', '.join(FORMATS)}, or None for a data frame.")
        if options:
            return written(self, format, options) if format is not None else frame(self, options)
        if format is not None:
            return FORMATS[format](self)
        import pandas as pd

        rows = {(b.id_set, row.label): _numbers(b, row) for b in summary_of(self).blocks for row in b.rows}
        index = pd.MultiIndex.from_tuples(list(rows), names=["id_set", "detector"])
        found = dict.fromkeys(column for row in rows.values() for column in row)
        columns = sorted(found, key=lambda column: column[0] in MEANS)  # stable: sets in order, then the means
        values = [[row.get(column, float("nan")) for column in columns] for row in rows.values()]
        return pd.DataFrame(values, index, pd.MultiIndex.from_tuples(columns, names=["ood_set", "metric"]), dtype=float)

    def references(self, **options: Unpack[TableOptions]) -> str:
        """Return the BibTeX entries of the rows, sets and networks that `table` shows with the same options.

        Example:
            >>> Path("references.bib").write_text(read_run("digits").references(detectors="vim"))  # doctest: +SKIP
        """
        return references(self, options)

    def summary(self) -> pd.DataFrame:
        """Return every number of the tables in long form, for plots and pivots: one row per number.

        Returns:
            A data frame with `id_set`, `label` and what the row is, `scope` ('set', 'near', 'far', 'all', 'worst' or
            'id'), `ood_set`, `group`, `metric`, `mean` (a fraction), `std` over seeds, the ends `low` and `high` of the
            95% interval over draws of test images, `seen`, `status` and `reason`.

        Example:
            >>> numbers = read_run("digits").summary()  # doctest: +SKIP
            >>> plot_dots(numbers[numbers["id_set"] == "digits"])  # doctest: +SKIP
        """
        return summarise(self)

    def classes(self) -> pd.DataFrame:
        """Return the AUROCs by class of a run with extended metrics (`metrics="extended"`), in long form.

        Returns:
            A data frame with one row per class and per pair of classes of every row and OOD set: `id_set`, `label`,
            `ood_set`, `id_class` and `ood_class` ("" for all images of the set), `auroc` (a fraction, the mean over
            seeds), and for single classes `images`, and the ends `low` and `high` of the 95% interval over draws of
            test images; missing for pairs. Without labels there are no rows.

        Example:
            >>> found = read_run("digits").classes().query("label == 'msp' and ood_set == 'greek'")  # doctest: +SKIP
            >>> found.pivot(index="id_class", columns="ood_class", values="auroc")  # doctest: +SKIP
        """
        import pandas as pd

        columns = ("id_set", "label", "ood_set", "id_class", "ood_class", "auroc", "images", "low", "high")
        rows = [(*cell, *line) for cell, found in shown_by_cell(self.records).items() for line in found.lines()]
        return pd.DataFrame(rows, columns=list(columns)).astype({"auroc": float, "low": float, "high": float})

    def scores(self, seed: int | None = None, results: str | Path = "results") -> pd.DataFrame:
        """Return the stored scores of every cell of one seed, for plots of one's own.

        Args:
            seed: The seed; None for the run's first.
            results: The results folder, for a run whose folder does not lie in one.

        Returns:
            A data frame with one row per cell: `id_set`, `ood_set`, `group`, `outlier_source`, `seen`, `label`,
            `status`, and `id_scores` and `ood_scores`, arrays of (N,) and (M,) scores, higher = more OOD; None where
            the cell has no result or its scores are not in the cache.

        Example:
            >>> plot_roc(read_run("digits").scores().query("ood_set == 'greek'"))  # doctest: +SKIP
        """
        import pandas as pd

        first = min((record.seed for record in self.records), default=0)
        cache = cache_of(self.path, user_path(results))
        columns = ("id_set", "ood_set", "group", "outlier_source", "seen", "label", "status")
        rows = [
            {
                **{name: getattr(record, name) for name in columns},
                **{name: stored_scores(cache, record.artifacts, name) for name in ("id_scores", "ood_scores")},
            }
            for record in self.records
            if record.seed == (first if seed is None else seed)
        ]
        return pd.DataFrame(rows, columns=[*columns, "id_scores", "ood_scores"])

    def beside(self, *others: Run) -> Run:
        """Return this run and others as one, to show and compare them side by side.

        It has the pairs of sets that all runs have on the same images; rows that would have the same label are told
        apart by what differs: the backbone, the file of weights, the epochs, the run, ... Nothing is written.

        Raises:
            UserError: If no pair of sets has the same images in all runs, or a run is given twice.

        Example:
            >>> read_run("small").beside(read_run("wide")).table(format="md")  # doctest: +SKIP
        """
        folders = [part.path for run in (self, *others) for part in (run.parts or (run,))]
        return public(runs_beside(folders, folders[0].parent.parent))

    def report(self, out: str | Path | None = None, **options: Any) -> Path:
        """Write the run as one HTML file to read, sort and search in a browser: `report` with this run.

        Args:
            out: The file to write; by default `report.html` in the run's folder.
            options: Other arguments of `report`: `data_dir`, `images`, `title`, `names`, `results`.

        Returns:
            The path of the file.

        Example:
            >>> read_run("digits").report("report.html", images=0)  # doctest: +SKIP
        """
        # The public API lies above the views; it is found by name, as it finds its own names.
        written: Path = import_module("oodbench.benchmark").report(self, out, **options)
        return written

    def __repr__(self) -> str:
        counts = {status: sum(record.status == status for record in self.records) for status in (OK, FAILED, SKIPPED)}
        counts["missing"] = sum(self.missing.values())
        found = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no cells"
        return f"<Run '{self.name}': {found}; {self.path}>"

    def _repr_html_(self) -> str:
        return table_html(self)


def _number(text: str) -> float:
    """A whole number, a fraction to the last bit, or NaN where `records.csv` has an empty field."""
    number: float = json.loads(text) if text else float("nan")
    return number


def _numbers(block: Block, row: TableRow) -> dict[tuple[str, str], float]:
    """A row's means in percent, by (OOD set or group, metric)."""
    found: dict[tuple[str, str], Stat | None] = {("", "id_accuracy"): row.id_accuracy}
    found |= {(s.name, metric): row.cells[s.name].stats.get(metric) for s in block.sets for metric in COLUMNS}
    found |= {(MEAN.format(group), m): row.means.get((group, m)) for group in block.groups for m in COLUMNS}
    return {column: 100 * stat.mean if stat else float("nan") for column, stat in found.items()}


def read_run(run: str | Path, results: str | Path = "results") -> Run:
    """Read a run from its folder. Needs neither torch nor the images.

    Args:
        run: The name of a run in the results folder, or the run's own folder.
        results: The results folder.

    Raises:
        UserError: If there is no such run, or its files cannot be read.

    Example:
        >>> read_run("digits").table().round(1)  # doctest: +SKIP
    """
    return public(read_stored_run(run_dir(user_path(results), str(run))))


def public(run: StoredRun) -> Run:
    """A run as read from disk, with the methods of `Run`."""
    return Run(run.path, run.info, run.records, run.missing, run.parts)
