"""`bench data`: list, download and verify the files of data sets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oodbench.benchmark.cli.base import Command, Group, data_dir_option, fail, plugin_option, results_option
from oodbench.benchmark.errors import DataError, UserError, counted, visible

if TYPE_CHECKING:
    from oodbench.benchmark.data.files.cache import DataCache
    from oodbench.benchmark.data.files.download import Progress
    from oodbench.benchmark.data.files.file_dataset import FileDataset
    from oodbench.benchmark.data.files.inventory import Finding


@click.group(
    cls=Group,
    examples="""
    bench data list
    bench data fetch cifar10 svhn
    bench data verify
    """,
)
def data() -> None:
    """List, download and verify the files of data sets."""


def _cards(names: tuple[str, ...], plugins: tuple[Path, ...]) -> list[FileDataset]:
    """The named data sets, or all that need files if none is named. A name that needs no files is an error."""
    from oodbench.benchmark.data.files.file_dataset import FileDataset
    from oodbench.benchmark.data.own_sets import adopt
    from oodbench.benchmark.plugins.registry import registry
    from oodbench.benchmark.plugins.specs import parse_set

    for file in plugins:
        registry.load_file(file)
    if not names:
        entries = [entry for entry in registry.entries("dataset").values() if not entry.reason()]
        return [card() for entry in entries if issubclass(card := entry.load(), FileDataset)]
    cards = [registry.get("dataset", adopt(parse_set(name)).name)() for name in names]
    for card in cards:
        if not isinstance(card, FileDataset):
            raise UserError(f"Data set '{card.name}' needs no files: it is part of oodbench or is generated.")
    return cards


def _cache(results: Path) -> DataCache:
    from oodbench.benchmark.data.files.cache import DataCache

    return DataCache(results / "cache" / "data")


def _line(found: Finding) -> str:
    from oodbench.benchmark.data.files.inventory import DESCRIPTIONS

    if found.path is None:
        return f"{found.set:26} {found.split:5}  {found.status:9}  {found.reason}"
    description = f"{found.path}, {found.size:,} bytes, SHA-256 {found.sha256} ({DESCRIPTIONS[found.status]})"
    return f"{found.set:26} {found.split:5}  {'available':9}  {description}"


@data.command(
    "list",
    cls=Command,
    short_help="List available and missing files.",
    examples="""
    bench data list
    bench data list cifar10 svhn --data-dir data
    bench data list folder:my_images
    """,
)
@click.argument("names", nargs=-1)
@data_dir_option
@results_option
@plugin_option
def list_(names: tuple[str, ...], data_dir: Path, results: Path, plugins: tuple[Path, ...]) -> None:
    """List the files that data sets need: the available ones, and where to put missing ones.

    For a folder of your own (folder:PATH): the number of images, and the files that are skipped, with the reasons.
    """
    from oodbench.benchmark.data.files.inventory import findings

    cache = _cache(results)
    for card in _cards(names, plugins):
        for found in findings(card, data_dir, cache):
            click.echo(_line(found))
        for remark in card.listed():
            click.echo(visible(remark))


@data.command(
    cls=Command,
    short_help="Download and verify files.",
    examples="""
    bench data fetch cifar10 svhn
    bench data fetch textures --data-dir data
    """,
)
@click.argument("names", nargs=-1, required=True)
@data_dir_option
@plugin_option
def fetch(names: tuple[str, ...], data_dir: Path, plugins: tuple[Path, ...]) -> None:
    """Download the files of data sets and verify them. Interrupted downloads are resumed."""
    from oodbench.benchmark.data.files.download import fetch as fetch_file
    from oodbench.benchmark.data.files.inventory import to_fetch

    failed = []
    for card in _cards(names, plugins):
        try:
            files = to_fetch(card, data_dir)
            if not files:
                click.echo(f"{card.name}: all files are available.")
            for file in files:
                with _watched(file.names[0]) as progress:
                    path = fetch_file(file, data_dir, progress)
                click.echo(f"{card.name}: {path}, {path.stat().st_size:,} bytes, verified.")
        except DataError as error:
            failed.append(str(error))
            click.echo(f"{card.name}: {error}", err=True)
    if failed:
        fail(f"{len(failed)} of {len(names)} data sets are not complete.")


@contextmanager
def _watched(name: str) -> Iterator[Progress]:
    """A line with the progress of a download, if standard error is a terminal."""
    shown = sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if shown:
            click.echo(f"\r{name}: {done / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB", nl=False, err=True)

    yield progress
    if shown:
        click.echo("\r\x1b[K", nl=False, err=True)


@data.command(
    cls=Command,
    short_help="Verify the available files and their decoded pixels.",
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
    """Read every available file again, and verify its checksum and its decoded pixels.

    Exit code 1 if a file cannot be read or has another checksum than its data set declares.
    """
    from oodbench.benchmark.data.files.inventory import BROKEN, OTHER, findings
    from oodbench.benchmark.data.pictures.check import remove_damaged

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
            click.echo(f"{', '.join(map(str, damaged))}: damaged and removed; it is decoded again when needed.")
    for path in remove_damaged(cache.root) if cache.root is not None else ():
        click.echo(f"{path}: damaged and removed; it is made again when needed.")
    if wrong:
        one = "file is unreadable or differs from what its data set declares"
        more = "files are unreadable or differ from what their data sets declare"
        click.echo(f"{counted(wrong, one, more)}.", err=True)
        sys.exit(1)
