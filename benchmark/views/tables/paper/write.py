"""Tables of a paper from options: as texts in every format, as a data frame, and their references."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.user_path import user_path
from oodbench.benchmark.views.names import NO_NAMES, Names, OwnNames, display_names, read_names
from oodbench.benchmark.views.tables.paper.as_csv import paper_csv
from oodbench.benchmark.views.tables.paper.as_html import paper_html
from oodbench.benchmark.views.tables.paper.as_latex import LatexOptions, paper_latex
from oodbench.benchmark.views.tables.paper.as_markdown import paper_markdown
from oodbench.benchmark.views.tables.paper.as_text import paper_text
from oodbench.benchmark.views.tables.paper.build import cited_names, paper_tables
from oodbench.benchmark.views.tables.paper.grid import PaperTable
from oodbench.benchmark.views.tables.paper.spec import TableOptions, specs_of

if TYPE_CHECKING:
    import pandas as pd


def built(run: StoredRun, options: Mapping[str, Any]) -> list[PaperTable]:
    """The tables that options ask for; see `TableOptions`. Raises `UserError` for what is unknown in them."""
    known = TableOptions.__annotations__
    for name in options:
        if name not in known:
            raise UserError(f"Unknown option '{name}' of a table. {did_you_mean(name, known, f'Choose {_listed()}.')}")
    names = names_of(run, options)
    specs = specs_of(options)
    return [table for spec in specs for table in paper_tables(run, spec, names, bool(options.get("cite")))]


def _listed() -> str:
    return ", ".join(TableOptions.__annotations__)


def names_of(run: StoredRun, options: Mapping[str, Any]) -> Names:
    """The names of a run's rows and sets, with the user's own: a file, or names by label in Python."""
    given = options.get("names")
    if isinstance(given, Mapping):
        return display_names(run, OwnNames(rows=given, sets=given))
    return display_names(run, read_names(user_path(given)) if given else NO_NAMES)


def written(
    run: StoredRun,
    form: str,
    options: Mapping[str, Any],
    width: int = 100,
    colour: bool = False,
    bibliography: str = "",
    comment: str = "",
) -> str:
    """The tables as a text.

    Args:
        run: The run.
        form: "text", "md", "csv", "html" or "tex".
        options: What to show; see `TableOptions`.
        width: Characters of a line, for "text".
        colour: Whether the terminal shows bold and underlined text, for "text".
        bibliography: The name of the file of references without .bib, for a whole document in LaTeX.
        comment: The first line of a file in LaTeX, such as the command.
    """
    if form != "tex" and (wrong := [name for name in ("standalone", "fragment", "cite", "label") if options.get(name)]):
        raise UserError(f"--{wrong[0]} is for LaTeX alone. Add --format tex, or leave it out.")
    if options.get("standalone") and options.get("fragment"):
        raise UserError("--standalone and --fragment exclude each other. Leave out one of them.")
    tables = built(run, options)
    if form == "tex":
        standalone, label = bool(options.get("standalone")), str(options.get("label") or "")
        return paper_latex(tables, LatexOptions(standalone, label, bibliography, comment))
    if form == "text":
        return paper_text(tables, width, colour)
    return {"md": paper_markdown, "csv": paper_csv, "html": paper_html}[form](tables)


def references(run: StoredRun, options: Mapping[str, Any]) -> str:
    """The BibTeX entries of the rows, sets and networks that the tables show, sorted by their keys."""
    names = names_of(run, options)
    cited = dict.fromkeys(name for spec in specs_of(options) for name in cited_names(run, spec, names))
    return names.bibtex(cited)


def frame(run: StoredRun, options: Mapping[str, Any]) -> pd.DataFrame:
    """The one table that options ask for as a data frame of its numbers, percent or nats; words as texts.

    Rows are indexed by (group, row), columns are pairs (group, column). Raises `UserError` if there are several tables.
    """
    import pandas as pd  # half a second that the command line need not wait for

    tables = built(run, options)
    if len(tables) > 1:
        names = " and ".join(table.name for table in tables)
        raise UserError(f"There are {len(tables)} tables ({names}). Choose one with part or id_sets, or name a format.")
    (table,) = tables
    index = pd.MultiIndex.from_tuples([(row.group_text, row.text) for row in table.rows], names=["group", "row"])
    heads = pd.MultiIndex.from_tuples(
        [(head.group_text, head.text) for head in table.columns], names=["group", "column"]
    )
    nothing = float("nan")
    values = [
        [cell.mean if cell.is_text else nothing if cell.value is None else cell.value for cell in cells]
        for cells in table.cells
    ]
    return pd.DataFrame(values, index, heads)


def write_references(path: Path, text: str) -> None:
    """Write a file of references. Raises `UserError` if it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be written: {error.strerror or error}. Choose a file in a writable folder with --bib."
        ) from error
