"""Makes a data set of a user's own images, named `folder:PATH` on the command line, without code.

PATH is a folder, an archive or an image. If it contains `train` and `test`, each with CLASS/IMAGE, it can be an ID set.
Otherwise all images in it, in whatever folders, are the test split of an OOD set. In tables it is called `folder:NAME`.
What is no usable image is left out and counted (`listing.py`, `own_images.py`).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from oodbench.benchmark.data.files.archives import TAR
from oodbench.benchmark.data.files.cache import DecodedSplit
from oodbench.benchmark.data.files.decode import few
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset, Opened
from oodbench.benchmark.data.files.file_source import File, Source
from oodbench.benchmark.data.files.listing import Listing, list_images
from oodbench.benchmark.data.files.own_images import OwnImages, notes_on, open_own
from oodbench.benchmark.data.files.pixels import Fit
from oodbench.benchmark.errors import DataError, UserError, visible
from oodbench.benchmark.plugins.dataset import Dataset
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec
from oodbench.benchmark.store.safe_read import is_file, is_folder
from oodbench.benchmark.store.user_path import user_path

PREFIX = "folder:"

CENTRE = Fit(how="crop")

NAMED = 5
"""Damaged images that an error names."""

HOW = "read from the user's own images, an image that is not 32x32 by the centre square resized (bilinear)"


class UserFolder(FileDataset):
    """A folder, archive or image that was named on the command line."""

    path: ClassVar[Path]
    listing: ClassVar[Listing]
    """What was in it when it was named."""

    def absent(self, split: str, data_dir: Path) -> str:
        """Say that the folder does not exist any more."""
        return f"'{self.path}' of '{self.name}' is gone."

    def lacks(self, split: str) -> str:
        """Say what keeps it from being an ID set."""
        if not self.listing.lacking:
            return super().lacks(split)
        return f"'{self.name}' {self.listing.lacking}. Both need the same class folders: train/CLASS/IMAGE."

    def open(self, split: str, access: Access) -> Opened:
        """As for every set of files, and every class must have an image to learn from."""
        opened = super().open(split, access)
        labels = opened.images.labels
        if split == "train" and labels is not None:
            absent = np.setdiff1d(np.arange(len(self.classes)), labels)
            if len(absent):
                raise DataError(
                    f"'{self.name}' (train) has no usable image of {few([self.classes[label] for label in absent])}. "
                    f"Add some, or remove the class.{''.join(f' {note}' for note in opened.notes[1:])}"
                )
        return opened

    def listed(self) -> tuple[str, ...]:
        """The number of images, and what was left out by name."""
        counts = [f"{len(entries):,} {split}" for split, entries in self.listing.splits.items()]
        classes = f" of {len(self.classes)} classes" if self.classes else ""
        return f"{self.name}: {' and '.join(counts)} images{classes}.", *notes_on(self.name, self.listing)

    def refusal(self, split: str, entry: DecodedSplit) -> str:
        """The error for damaged images."""
        count, first = len(entry.bad), "; ".join(entry.bad[:NAMED])
        more = f"; and {count - NAMED:,} more" if count > NAMED else ""
        which = "1 image that is" if count == 1 else f"{count:,} images that are"
        return (
            f"'{self.name}' ({split}) has {which} damaged: {first}{more}. Replace or remove "
            f"{'it' if count == 1 else 'them'}, or leave damaged images out with --skip-bad-images."
        )

    def notes(self, split: str, source: Source, entry: DecodedSplit) -> list[str]:
        """The notes of every set of files, and what was left out or is worth a remark, with counts."""
        if entry.images.lazy is not None:  # whose note is about images of 32 x 32
            source = replace(source, note="")
        first, *others = [*super().notes(split, source, entry), ""]
        return [note for note in (first, *notes_on(self.name, self.listing), *others) if note]


def adopt(spec: SetSpec) -> SetSpec:
    """Register the images at `folder:PATH` as `folder:NAME` and return the spec with that name.

    Other specs are returned unchanged. Raises `UserError` for a path that does not exist or cannot be used.
    """
    if not spec.name.startswith(PREFIX) or spec.name in registry.entries("dataset"):
        return spec
    given = spec.name.removeprefix(PREFIX).strip()
    if not given:
        raise UserError(
            f"'{spec}' names no folder. Write folder:PATH; if a variable gives the path, is that set? For the "
            "working folder, write 'folder:.'."
        )
    path = user_path(given)
    if not is_file(path) and not is_folder(path):
        raise UserError(
            f"'{path}' of '{spec}' does not exist. Write folder:PATH, PATH being a folder, zip or tar of images, or an "
            "image; it cannot hold any of the characters [ ] @ + , =."
        )
    path = path.absolute()
    name = PREFIX + _name(path)
    known = registry.entries("dataset").get(name)
    if known is None:
        registry.adopt("dataset", name, _dataset(name, path), f"folder {path}")
    elif (earlier := known.load().path) != path:
        raise UserError(f"'{earlier}' and '{path}' would both be called '{name}' in tables. Rename one of them.")
    return spec._replace(name=name)


def adopted() -> tuple[Path, ...]:
    """The paths that were registered as `folder:PATH` in this process."""
    sets = registry.entries("dataset")
    return tuple(entry.load().path for name, entry in sets.items() if name.startswith(PREFIX))


def adopt_all(paths: Iterable[Path]) -> None:
    """Register the paths that another process has registered, so that both use the same names."""
    for path in paths:
        adopt(SetSpec(f"{PREFIX}{path}"))


def _name(path: Path) -> str:
    """The name in tables: the folder's, with '-' for what a name of a data set cannot hold.

    Names in other scripts end in a hash, because little or nothing else is left of them.
    """
    suffix = next((suffix for suffix in (".zip", *TAR) if path.name.lower().endswith(suffix)), "")
    stem = path.name[: len(path.name) - len(suffix)] if suffix and path.is_file() else path.name
    stem = unicodedata.normalize("NFC", stem)
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.")
    if readable and stem.isascii():
        return readable
    digest = hashlib.sha256(stem.encode(errors="surrogatepass")).hexdigest()
    return f"{readable or 'images'}-{digest[:8]}"


def _dataset(name: str, path: Path) -> type[Dataset]:
    """A data set class for the images at a path, which are listed now and decoded later."""
    try:
        listing = list_images(open_own(path))
    except DataError as error:
        raise UserError(str(error)) from error
    file = (File((str(path),)),)
    note, shown = f"{name}: {HOW}.", visible(str(path))  # a class takes no text that is not valid Unicode
    sources = {split: (Source(file, OwnImages(split, CENTRE), note=note),) for split in listing.splits}
    members: dict[str, object] = {"__module__": __name__, "__doc__": f"The images in {shown}."}
    members.update(path=path, listing=listing, splits=tuple(listing.splits), classes=listing.classes, sources=sources)
    members.update(origin=shown, licence="That of the user's own images", caveats=HOW)
    dataset = type("UserFolder", (UserFolder,), members)
    dataset.name, dataset.title = name, f"The images in {shown}"  # type: ignore[attr-defined]
    return dataset
