"""`bench table`: print a run's tables."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oodbench.benchmark.cli.base import Command, results_option
from oodbench.benchmark.cli.run import print_table
from oodbench.benchmark.cli.runs import read_runs
from oodbench.benchmark.cli.views.table_options import given_options, paper_options
from oodbench.benchmark.errors import UserError

if TYPE_CHECKING:
    from oodbench.benchmark.records.run import StoredRun


@click.command(
    cls=Command,
    short_help="Print a run's table, or compare it with published numbers.",
    examples="""
    bench table digits
    bench table digits --format md
    bench table results/runs/digits --format tex > table.tex
    bench table lee2018 --against lee2018
    bench table lee2018 --metrics lee2018
    bench table digits --metrics extended
    bench table small wide
    bench table digits --style openood --format tex --bib references.bib > table.tex
    bench table digits --detectors msp,odin,vim --columns auroc,fpr95 --sort near:auroc
    bench table digits --detectors=-random,-constant --columns auroc,data,passes --group-rows trained,posthoc
    """,
)
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    default="text",
    show_default=True,
    type=click.Choice(["text", "md", "tex", "csv", "html"]),
    help="Format of the table.",
)
@click.option("--against", default="", metavar="NAME|FILE.csv", help="Compare with published numbers.")
@click.option(
    "--metrics",
    default="exact",
    show_default=True,
    metavar="NAME",
    help="Show extended metrics, or those by a paper's rules: extended, lee2018.",
)
@paper_options
@results_option
def table(
    run_names: tuple[str, ...], form: str, against: str, metrics: str, bib: Path | None, results: Path, **options: Any
) -> None:
    """Rebuild a run's tables from its records, and print one.

    RUN is a name or a folder. 'bench list references' lists the published numbers for --against. --metrics shows what
    'bench run --metrics' has computed.

    Several runs are shown in one table, on the pairs of sets that all of them have on the same images; rows that would
    have the same label are distinguished by what differs. Its files are in the results folder, in compare/RUN+RUN.

    The options from --style on print a table for a paper, with names in place of labels, and write no files of the run.
    Its FPR95 says which class is positive, and two conventions are never in one table. In LaTeX it is a fragment for
    \\input, which needs the packages booktabs and graphicx.
    """
    from oodbench.benchmark.metrics.released_scripts import check_rules
    from oodbench.benchmark.views.tables import files as tables
    from oodbench.benchmark.views.tables.html import table_html

    check_rules(metrics, "bench table --help")
    given = given_options(options)
    run_ = read_runs(run_names, results)
    if given or bib:
        if against or metrics != "exact":
            raise UserError(
                "--against and --metrics print tables of their own. Leave them out, or the options for a table of a "
                "paper, whose --columns takes extended metrics, such as ece."
            )
        click.echo(_paper(run_, form, given, bib), nl=False)
        return
    tables.write_tables(run_)
    if against or metrics != "exact":
        from oodbench.benchmark.cli.text import beside_text

        width = shutil.get_terminal_size((110, 40)).columns
        click.echo(beside_text(run_, against, metrics, form, width), nl=False)
    elif form == "text":
        print_table(run_)
    else:
        writer = {
            "md": tables.table_markdown,
            "tex": tables.table_latex,
            "csv": tables.table_csv,
            "html": table_html,
        }[form]
        click.echo(writer(run_), nl=False)


def _paper(run: StoredRun, form: str, options: dict[str, Any], bib: Path | None) -> str:
    """A table for a paper, whose references are written to a file if one is named."""
    from oodbench.benchmark.views.tables.paper.write import references, write_references, written

    if bib is not None and form == "tex":
        options = {"cite": True, **options}
    width = shutil.get_terminal_size((140, 40)).columns
    command = " ".join(["bench", "table", *map(shlex.quote, sys.argv[2:])]) if sys.argv[1:2] == ["table"] else ""
    text = written(run, form, options, width, sys.stdout.isatty(), bib.stem if bib else "", command)
    if bib is not None:
        write_references(bib, references(run, options))
    return text
