"""`bench score`: score images with a detector that 'bench export' wrote."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oodbench.benchmark.cli.base import PATH, Command, plugin_option
from oodbench.benchmark.cli.streams import OutputError, note
from oodbench.benchmark.errors import StoreError, UserError, visible
from oodbench.benchmark.store.user_path import user_path

if TYPE_CHECKING:
    from oodbench.benchmark.standalone.bundle.monitor import FileVerdict

COLUMNS = ("image", "score", "decision", "predicted")


@click.command(
    cls=Command,
    short_help="Score images with an exported detector.",
    examples="""
    bench score vim.safetensors photo.png
    bench score vim.safetensors camera/ --csv scores.csv
    bench score vim.safetensors camera/ --report drift.html
    bench score vim.safetensors camera/ --tpr 0.99 --csv -
    """,
)
@click.argument("file", metavar="FILE", type=PATH)
@click.argument("images", metavar="IMAGES...", nargs=-1, required=True, type=PATH)
@click.option("--csv", "table", default="", metavar="FILE|-", help="Write the scores as CSV; '-' is standard output.")
@click.option(
    "--report",
    default=None,
    type=PATH,
    metavar="FILE.html|.md|.json",
    help="Compare the scores with those of ID validation images.",
)
@click.option(
    "--tpr",
    default=None,
    type=float,
    metavar="SHARE",
    help="Share of ID images to accept.  [default: FILE's]",
)
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="auto, cpu, cuda or mps.")
@click.option(
    "--block",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    help="Images per forward call; 1 is fastest for one image.  [default: the run's]",
)
@click.option("--threads", default=0, type=click.IntRange(0), metavar="N", help="CPU threads.  [default: the run's]")
@click.option(
    "--weights-file",
    default=None,
    type=PATH,
    metavar="FILE",
    help="The weights, if FILE has only their hash.",
)
@plugin_option
def score(
    file: Path,
    images: tuple[Path, ...],
    table: str,
    report: Path | None,
    tpr: float | None,
    device: str,
    block: int,
    threads: int,
    weights_file: Path | None,
    plugins: tuple[Path, ...],
) -> None:
    """Score images: one line for each, with its score, whether it is accepted, and the predicted class.

    IMAGES are files, folders with all folders in them, and zip or tar archives. An image is accepted if its score is at
    most the threshold. Exit code 0 if all images are accepted, 1 if one is rejected, 2 if one cannot be read.
    """
    from oodbench.benchmark.standalone.bundle.drift import Drift, Tally
    from oodbench.benchmark.standalone.bundle.drift_page import check_kind, write_report
    from oodbench.benchmark.standalone.bundle.load import load_monitor

    if report is not None:
        check_kind(report)
    monitor = load_monitor(
        file, device=device, tpr=tpr, block=block, threads=threads, weights=weights_file or "", plugins=plugins
    )
    tally = Tally()
    with _writer(table) as write:
        for verdict in monitor.score_files(images):
            tally.add(verdict)
            if verdict.score is None:
                note(visible(f"'{verdict.name}' {verdict.problem}."))
            else:
                write(verdict)
    if not (tally.scores or tally.unusable):
        raise UserError(f"There are no images in {', '.join(repr(str(place)) for place in images)}.")
    if report is not None and tally.scores:
        drift = Drift.of(monitor, tally)
        note("\n".join(map(visible, drift.sentences())))
        note(f"Report: {', '.join(map(str, write_report(drift, report)))}")
    unusable = f", {tally.unusable:,} not usable" if tally.unusable else ""
    counts = f"{tally.accepted:,} accepted, {tally.rejected:,} rejected{unusable}"
    note(f"{counts}; accepted: score <= {monitor.threshold:.6g}.")
    sys.exit(2 if tally.unusable else 1 if tally.rejected else 0)


@contextmanager
def _writer(table: str) -> Iterator[Callable[[FileVerdict], None]]:
    """How a verdict is written: as a line on standard output, or as a row of a CSV file."""
    if not table:
        yield lambda verdict: click.echo("\t".join(map(visible, _row(verdict, 6))))
        return
    try:
        with (
            nullcontext(sys.stdout)
            if table == "-"
            else user_path(table).open("w", newline="", encoding="utf-8") as file
        ):
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(COLUMNS)
            yield lambda verdict: rows.writerow(_row(verdict, 17))
    except OutputError:
        raise
    except OSError as error:
        raise StoreError(f"Cannot write '{table}': {error.strerror or error}. Choose another --csv.") from error


def _row(verdict: FileVerdict, digits: int) -> tuple[str, ...]:
    """Name, score, decision and predicted class."""
    decision = "accepted" if verdict.accepted else "rejected"
    return verdict.name, f"{verdict.score:.{digits}g}", decision, verdict.predicted
