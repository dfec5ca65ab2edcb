"""`bench data`: what is at hand, downloading, checking."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oodbench.benchmark.cli.base import CONTEXT, Command, data_dir_option, fail, plugin_option, results_option
from oodbench.benchmark.errors import DataError, UserError

if TYPE_CHECKING:
    from oodbench.benchmark.data.files.cache import DataCache
    from oodbench.benchmark.data.files.download import Progress
    from oodbench.benchmark.data.files.file_dataset import FileDataset
    from oodbench.benchmark.data.files.inventory import Finding


@click.group(context_settings=CONTEXT)
def data() -> None:
    """Look after the files of data sets."""


def _cards(names: tuple[str, ...], plugins: tuple[Path, ...]) -> list[FileDataset]:
    """The sets of files by name; all of them for none. A name that needs no file is an error."""
    from oodbench.benchmark.data.files.file_dataset import FileDataset
    from oodbench.benchmark.plugins.registry import registry

    for file in plugins:
        registry.load_file(file)
    if not names:
        entries = [entry for entry in registry.entries("dataset").values() if not entry.reason()]
        return [card() for entry in entries if issubclass(card := entry.load(), FileDataset)]
    cards = [registry.get("dataset", name)() for name in names]
    for card in cards:
        if not isinstance(card, FileDataset):
            raise UserError(
                f"Data set '{card.name}' has no files to look after: it comes with oodbench or is computed."
            )
    return cards


def _cache(results: Path) -> DataCache:
    from oodbench.benchmark.data.files.cache import DataCache

    return DataCache(results / "cache" / "data")


def _line(found: Finding) -> str:
    from oodbench.benchmark.data.files.inventory import DESCRIPTIONS

    if found.path is None:
        return f"{found.set:26} {found.split:5}  {found.status:9}  {found.reason}"
    told = f"{found.path}, {found.size:,} bytes, SHA-256 {found.sha256} ({DESCRIPTIONS[found.status]})"
    return f"{found.set:26} {found.split:5}  {'there':9}  {told}"


@data.command(
    "list",
    cls=Command,
    examples="""
    bench data list
    bench data list cifar10 svhn --data-dir data
    """,
)
@click.argument("names", nargs=-1)
@data_dir_option
@results_option
@plugin_option
def list_(names: tuple[str, ...], data_dir: Path, results: Path, plugins: tuple[Path, ...]) -> None:
    """Say of every set of files what is at hand, from which file, or which file to put where."""
    from oodbench.benchmark.data.files.inventory import findings

    cache = _cache(results)
    for card in _cards(names, plugins):
        for found in findings(card, data_dir, cache):
            click.echo(_line(found))


@data.command(
    cls=Command,
    examples="""
    bench data fetch cifar10 svhn
    bench data fetch textures --data-dir data
    """,
)
@click.argument("names", nargs=-1, required=True)
@data_dir_option
@plugin_option
def fetch(names: tuple[str, ...], data_dir: Path, plugins: tuple[Path, ...]) -> None:
    """Download the files of the named sets, going on where an earlier attempt stopped, and check them."""
    from oodbench.benchmark.data.files.download import fetch as fetch_file
    from oodbench.benchmark.data.files.inventory import to_fetch

    failed = []
    for card in _cards(names, plugins):
        try:
            files = to_fetch(card, data_dir)
            if not files:
                click.echo(f"{card.name}: everything is there.")
            for file in files:
                with _watched(file.names[0]) as progress:
                    path = fetch_file(file, data_dir, progress)
                click.echo(f"{card.name}: {path}, {path.stat().st_size:,} bytes, checked.")
        except DataError as error:
            failed.append(str(error))
            click.echo(f"{card.name}: {error}", err=True)
    if failed:
        fail(f"{len(failed)} of {len(names)} sets are not complete.")


@contextmanager
def _watched(name: str) -> Iterator[Progress]:
    """A line that tells how far a download is; on a terminal only."""
    shown = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if shown:
            click.echo(f"\r{name}: {done / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB", nl=False, err=True)

    yield progress
    if shown:
        click.echo("\r\x1b[K", nl=False, err=True)


@data.command(
    cls=Command,
    examples="""
    bench data verify
    bench data verify cifar10
    """,
)
@click.argument("names", nargs=-1)
@data_dir_option
@results_option
@plugin_option
def verify(names: tuple[str, ...], data_dir: Path, results: Path, plugins: tuple[Path, ...]) -> None:
    """Read every file at hand again and compare it with its card; check the decoded pixels, too.

    Exit code 1 if a file that has a checksum is another one, or cannot be read.
    """
    from oodbench.benchmark.data.files.inventory import BROKEN, OTHER, findings

    cache = _cache(results)
    wrong = 0
    for card in _cards(names, plugins):
        for split in card.splits:
            for path in card.available_files(split, data_dir):
                cache.forget(path)
        for found in findings(card, data_dir, cache):
            if found.path is not None or found.status == BROKEN:
                click.echo(_line(found))
            wrong += found.status in (OTHER, BROKEN)
    for stem, side in cache.entries():
        if damaged := cache.damaged(stem, side):
            cache.drop(stem)
            click.echo(f"{', '.join(map(str, damaged))}: not what was decoded; removed, to be decoded again.")
    if wrong:
        click.echo(f"{wrong} files are not what their cards describe.", err=True)
        sys.exit(1)
