"""`bench outputs`: begin a folder of logits, features or scores, and check what is in one."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import click

from oodbench.benchmark.cli.base import PATH, Command, Group, fail
from oodbench.benchmark.errors import UserError, first_line, visible

FILES = {
    "save_outputs.py": "save_outputs.py",
    "example_long.csv": "outputs_long.csv",
    "example_wide.csv": "outputs_wide.csv",
    "outputs.toml": "outputs.toml",
}
"""File in the folder -> its template. The one that makes it a folder of outputs is the last."""


@click.group(
    cls=Group,
    short_help="Begin and check folders of logits, features or scores.",
    examples="""
    bench outputs init my_outputs
    bench outputs check my_outputs
    bench outputs check scores.csv
    """,
)
def outputs() -> None:
    """Begin and check folders of logits, features and scores for 'bench run --outputs' and '--scores'."""


@outputs.command(
    cls=Command,
    short_help="Begin a folder of outputs.",
    examples="""
    bench outputs init my_outputs
    """,
)
@click.argument("folder", type=PATH, metavar="DIR")
def init(folder: Path) -> None:
    """Write outputs.toml and an example of each format to a new or empty folder.

    outputs.toml names sets, groups and classes; all of it is optional. save_outputs.py shows how arrays are saved from
    Python, and the two CSV files how scores are written.
    """
    shipped = resources.files("oodbench.benchmark.cli") / "templates"
    texts = {name: (shipped / f"{template}.txt").read_text(encoding="utf-8") for name, template in FILES.items()}
    _write(folder, texts)
    click.echo(f"Wrote {', '.join(FILES)} to {visible(str(folder))}.")
    click.echo(f"Save arrays there as save_outputs.py shows, then: bench outputs check {visible(str(folder))}")


@outputs.command(
    cls=Command,
    short_help="Check a folder of outputs, or a CSV file of scores.",
    examples="""
    bench outputs check my_outputs
    bench outputs check scores.csv --higher id
    """,
)
@click.argument("path", type=PATH, metavar="DIR|FILE.csv")
@click.option(
    "--higher",
    type=click.Choice(["ood", "id"]),
    help="What higher scores mean.  [default: what the files say, or ood]",
)
def check(path: Path, higher: str | None) -> None:
    """Print the sets, arrays and methods that were found, and everything that is wrong with them.

    All values are read. Exit code 2 if something must be corrected.
    """
    from oodbench.benchmark.data.outputs.report import report

    found = report(path, higher)
    for line in found.lines:
        click.echo(visible(line))
    for note in found.notes:
        click.echo(f"Note: {visible(note)}")
    for problem in found.problems[:-1]:
        click.echo(f"Error: {visible(problem)}", err=True)
    if found.problems:
        fail(visible(found.problems[-1]))
    click.echo("Nothing is wrong." if not found.notes else "Nothing must be corrected.")


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Write files to a new or empty folder, all or none. Raises `UserError` if anything is there."""
    try:
        with ExitStack() as undo:
            if not folder.exists():
                folder.mkdir(parents=True)
                undo.callback(folder.rmdir)
            if any(folder.iterdir()):
                raise UserError(f"'{folder}' is not empty, and was not changed. Name a new or an empty folder.")
            for name, text in texts.items():
                with (folder / name).open("x", encoding="utf-8") as file:
                    undo.callback((folder / name).unlink)
                    file.write(text)
            undo.pop_all()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"The folder '{folder}' cannot be used: {reason}. Name a new or an empty folder.") from error
