"""`bench table`: print a run's tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from oodbench.benchmark.cli.base import Command, results_option
from oodbench.benchmark.cli.run import print_table
from oodbench.benchmark.cli.runs import read_runs


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
    """,
)
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    default="text",
    show_default=True,
    type=click.Choice(["text", "md", "tex", "csv"]),
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
@results_option
def table(run_names: tuple[str, ...], form: str, against: str, metrics: str, results: Path) -> None:
    """Rebuild a run's tables from its records, and print one.

    RUN is a name or a folder. 'bench list references' lists the published numbers for --against. --metrics shows what
    'bench run --metrics' has computed.

    Several runs are shown in one table, on the pairs of sets that all of them have on the same images; rows that would
    have the same label are distinguished by what differs. Its files are in the results folder, in compare/RUN+RUN.
    """
    from oodbench.benchmark.metrics.released_scripts import check_rules
    from oodbench.benchmark.views.tables import files as tables
    from oodbench.benchmark.views.tables import latex as table_latex
    from oodbench.benchmark.views.tables import markdown as table_markdown

    check_rules(metrics, "bench table --help")
    run_ = read_runs(run_names, results)
    tables.write_tables(run_)
    if against or metrics != "exact":
        from oodbench.benchmark.cli.text import beside_text

        width = shutil.get_terminal_size((110, 40)).columns
        click.echo(beside_text(run_, against, metrics, form, width), nl=False)
    elif form == "text":
        print_table(run_)
    else:
        writer = {"md": table_markdown.table_markdown, "tex": table_latex.table_latex, "csv": tables.table_csv}[form]
        click.echo(writer(run_), nl=False)
