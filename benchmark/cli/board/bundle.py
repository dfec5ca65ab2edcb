"""`bench bundle`: pack a run into one file that others can check; check or unpack one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from oodbench.benchmark.cli.base import PATH, Command, data_dir_option, results_option
from oodbench.benchmark.errors import UserError


@click.command(
    cls=Command,
    short_help="Pack a run into one file that others can check.",
    examples="""
    bench bundle digits -o digits.bundle.zip
    bench bundle digits -o mine.bundle.zip --name "My method"
    bench bundle --check digits.bundle.zip
    bench bundle digits.bundle.zip --unpack theirs
    """,
)
@click.argument("what", metavar="RUN|FILE")
@click.option(
    "-o", "--output", "file", default=None, type=PATH, metavar="FILE", help="The file.  [default: RUN.bundle.zip]"
)
@click.option("--name", default="", metavar="NAME", help="What a leaderboard calls it.  [default: the run's name]")
@click.option("--weights", is_flag=True, help="Put the networks' weights into the file, too.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--check", is_flag=True, help="Check the bundle FILE in place of writing one; exit code 1 if it is wrong."
)
@click.option(
    "--unpack",
    "folder",
    default=None,
    type=PATH,
    metavar="DIR",
    help="Unpack the bundle FILE into a new results folder.",
)
@data_dir_option
@results_option
def bundle(
    what: str,
    file: Path | None,
    name: str,
    weights: bool,
    overwrite: bool,
    check: bool,
    folder: Path | None,
    data_dir: Path,
    results: Path,
) -> None:
    """Pack a finished run into one file: records, scores, groups of images, hashes and versions, but no images.

    RUN is a name or a folder. The file has no paths, dates or names of machines, and equal runs give equal bytes.
    Whoever has it can compute every metric, interval and mark again; 'bench leaderboard' makes a page of several.

    With --check, FILE is such a file, and every difference is printed; 'bench verify FILE' does the same. With
    --unpack, it becomes a results folder for 'bench table', 'bench compare' and 'bench run --from'.
    """
    from oodbench.benchmark.store.user_path import user_path

    if (check or folder is not None) and (file or name or weights or overwrite):
        raise UserError("--check and --unpack read a bundle, so leave out -o, --name, --weights and --overwrite.")
    if check:
        check_bundle(user_path(what))
    if folder is not None:
        _unpack(user_path(what), folder)
    if not check and folder is None:
        _pack(what, file, name, weights, results, data_dir, overwrite)


def check_bundle(file: Path) -> None:
    """Print every problem of a bundle and a summary; exit code 1 if there is a problem."""
    from oodbench.benchmark.verify.bundles.check import check_file

    verdict = check_file(file)
    for problem in verdict.problems:
        click.echo(problem)
    click.echo(f"{file.name}: {verdict.summary()}")
    if verdict.problems:
        sys.exit(1)


def _pack(
    run: str, file: Path | None, name: str, weights: bool, results: Path, data_dir: Path, overwrite: bool
) -> None:
    from oodbench.benchmark.store.hashes import file_sha256
    from oodbench.benchmark.verify.bundles.contents import LEFT_OUT
    from oodbench.benchmark.verify.bundles.pack import bundle as pack

    written = pack(run, file or "", name=name, weights=weights, results=results, data_dir=data_dir, overwrite=overwrite)
    click.echo(f"{written}: {written.stat().st_size:,} bytes, SHA-256 {file_sha256(written)}")
    click.echo(f"Every number was computed again from the scores in it. Left out: {'; '.join(LEFT_OUT)}.")


def _unpack(file: Path, folder: Path) -> None:
    from oodbench.benchmark.verify.bundles.read import read_bundle

    run = read_bundle(file, folder)
    click.echo(f"{run.path}: unpacked, not checked; 'bench verify {file}' does that.")
