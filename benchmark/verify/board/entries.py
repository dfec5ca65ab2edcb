"""Reads the bundles of a folder for a leaderboard: those that verify, and why the others are refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from oodbench.benchmark.errors import OodbenchError, UserError, visible
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.hashes import file_sha256
from oodbench.benchmark.verify.bundles.check import bundle_images, check_unpacked
from oodbench.benchmark.verify.bundles.container import LIMITS, Limits
from oodbench.benchmark.verify.bundles.images import BundleImages
from oodbench.benchmark.verify.bundles.unpack import Unpacked, unpack
from oodbench.benchmark.verify.run import Verdict
from oodbench.benchmark.views.summary import Summary, summary_of

SUFFIX = ".zip"
"""Ends the names of the files that are read."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A bundle that verifies."""

    file: Path
    sha256: str
    """Of the file."""
    bundle: Unpacked
    run: StoredRun
    verdict: Verdict
    """What was checked."""

    @property
    def name(self) -> str:
        """What the board calls it."""
        return self.bundle.contents.name

    @property
    def page(self) -> str:
        """The name of its page and of its copy on the site, without suffix."""
        return unique_slug(self.name)

    @cached_property
    def summary(self) -> Summary:
        """Its run, arranged for display."""
        return summary_of(self.run)

    @cached_property
    def images(self) -> BundleImages:
        """The groups of its images."""
        return bundle_images(self.bundle)


@dataclass(frozen=True)
class Refused:
    """A bundle that is not on the boards."""

    file: str
    """The name of its file."""
    why: str
    """A sentence."""


def bundle_files(folder: Path) -> list[Path]:
    """The bundles of a folder, by name. Raises `UserError` if there is no such folder, or no such file in it."""
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}'. Put bundles into one: 'bench bundle RUN -o FILE' writes them.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX)
    if not files:
        raise UserError(f"'{folder}' has no file that ends in {SUFFIX}. 'bench bundle RUN -o FILE' writes bundles.")
    return files


def read_entries(
    folder: Path, work: Path, said: Callable[[str], None], limits: Limits = LIMITS
) -> tuple[list[Entry], list[Refused]]:
    """The bundles of a folder, by the names of their files: those that verify, and the others.

    Args:
        folder: Has the bundles, files whose names end in `.zip`.
        work: An empty folder to unpack them into.
        said: Called with a line on each.
        limits: The most that is read of each.

    Raises:
        UserError: As for `bundle_files`.
    """
    files = bundle_files(folder)
    entries: list[Entry] = []
    refused: list[Refused] = []
    for number, file in enumerate(files):
        try:
            entries.append(_entry(file, work / str(number), entries, limits))
            said(f"{visible(file.name)}: {entries[-1].verdict.summary()}")
        except (OodbenchError, OSError) as error:
            refused.append(Refused(visible(file.name), str(error)))
            said(f"{visible(file.name)}: refused: {refused[-1].why}")
    unique, of_one_name = _unlike_names(entries)
    for one in of_one_name:
        said(f"{one.file}: refused: {one.why}")
    return unique, [*refused, *of_one_name]


def _entry(file: Path, folder: Path, others: Iterable[Entry], limits: Limits) -> Entry:
    """Unpack and check a bundle. Raises `UserError` that says why it is refused."""
    bundle = unpack(file, folder, limits)
    for other in others:
        if other.bundle.sha256 == bundle.sha256:
            raise UserError(f"It has the same content as '{other.file.name}'. Leave one of the two out.")
    verdict = check_unpacked(bundle)
    if verdict.problems:
        more = f" And {len(verdict.problems) - 1} more problems." if len(verdict.problems) > 1 else ""
        raise UserError(f"It does not verify: {verdict.problems[0].rstrip('.')}.{more}")
    return Entry(file, file_sha256(file), bundle, read_stored_run(bundle.run_dir), verdict)


def _unlike_names(entries: list[Entry]) -> tuple[list[Entry], list[Refused]]:
    """Entries whose names no other has: a board cannot know which of several is meant."""
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(_plain(entry.name), []).append(entry)
    refused = [one for of_name in by_name.values() if len(of_name) > 1 for one in _all_of_one_name(of_name)]
    return [entry for entry in entries if len(by_name[_plain(entry.name)]) == 1], refused


def _plain(name: str) -> str:
    """A name without what readers may not see: case, width and outer spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _all_of_one_name(entries: list[Entry]) -> Iterator[Refused]:
    for entry in entries:
        others = " and ".join(f"'{visible(other.file.name)}'" for other in entries if other is not entry)
        yield Refused(
            visible(entry.file.name),
            f"It is called '{visible(entry.name)}', and so is {others}, with other content. Leave out all but one, or "
            "give one another name: bench bundle RUN --name NAME.",
        )
