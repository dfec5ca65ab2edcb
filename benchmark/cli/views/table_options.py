"""The options of `bench table` that make a table for a paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from oodbench.benchmark.cli.base import PATH

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--style",
        default="",
        metavar="NAME|FILE.toml",
        help="A table as a paper or board prints it: lee2018, openood, mos, or a file of your own. Options change it.",
    ),
    click.option("--part", default="", metavar="NAME", help="One of a style's tables: main, appendix."),
    click.option(
        "--detectors",
        metavar="LIST",
        help="Rows, in this order: labels, names, patterns with *, all; -NAME leaves out (--detectors=-random).",
    ),
    click.option("--ood", metavar="LIST", help="OOD sets: names, patterns with *, near, far, all; -NAME leaves out."),
    click.option("--id", "id_sets", metavar="LIST", help="ID sets."),
    click.option(
        "--columns",
        metavar="LIST",
        help="Metrics of records.csv: auroc, fpr95 (ID positive), openood_fpr95 (OOD positive), tnr95, aupr_in, "
        "id_accuracy, ece, ...; and what rows cost: data, passes, networks.",
    ),
    click.option("--group-means", metavar="LIST", help="Means over groups of OOD sets: near, far, all; or none."),
    click.option("--sets/--no-sets", default=None, help="Show every OOD set, or means alone."),
    click.option("--sort", metavar="GROUP:METRIC", help="Best row first: near:auroc, svhn:fpr95, all:auroc."),
    click.option("--group-rows", metavar="LIST", help="Kinds of rows under headings: trained, posthoc."),
    click.option(
        "--layout", type=click.Choice(["wide", "stacked"]), help="OOD sets side by side, or below each other."
    ),
    click.option("--by", type=click.Choice(["set", "metric"]), help="Heading of wide tables: sets, or metrics."),
    click.option("--transpose", is_flag=True, default=None, help="Detectors as columns."),
    click.option(
        "--names", type=PATH, metavar="FILE.toml", help="Names of rows and sets, and citations, in place of ours."
    ),
    click.option("--bold", type=click.Choice(["best", "none"]), help="What is bold."),
    click.option("--underline", type=click.Choice(["second", "none"]), help="What is underlined."),
    click.option("--decimals", type=int, help="Decimals of percentages, from 0 to 6."),
    click.option("--marks", type=click.Choice(["none", "seen", "all"]), help="Signs after numbers."),
    click.option("--std/--no-std", default=None, help="Deviations over seeds; by default where there are several."),
    click.option("--notes/--no-notes", default=None, help="What must be said under the table."),
    click.option("--caption", metavar="TEXT", help="Beginning of the caption; definitions follow it."),
    click.option("--label", metavar="TEXT", help="LaTeX: the label of the table."),
    click.option("--fragment", is_flag=True, default=None, help=r"LaTeX: tables alone, for \input."),
    click.option("--standalone", is_flag=True, default=None, help="LaTeX: a document that compiles as it is."),
    click.option("--cite/--no-cite", default=None, help=r"LaTeX: \cite behind names; by default with --bib."),
    click.option(
        "--bib", type=PATH, metavar="FILE.bib", help="Write the references of the rows, sets and networks shown."
    ),
)


def paper_options(function: F) -> F:
    """All options for a table of a paper."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, without empty ones."""
    return {name: value for name, value in options.items() if value not in (None, "")}
