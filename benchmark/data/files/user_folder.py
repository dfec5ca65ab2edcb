"""Makes a data set of a user's own images, named `folder:PATH` on the command line, without code.

PATH is a folder, an archive or an image. If it contains `train` and `test`, each with CLASS/IMAGE, it can be an ID set.
Otherwise all images in it, in whatever folders, are the test split of an OOD set. In tables it is called `folder:NAME`.
As an ID set, class folders without train and test are divided, and called `classes:NAME` (`class_folders.py`).
What is no usable image is left out and counted (`listing.py`, `own_images.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from oodbench.benchmark.data.files.archives import TAR
from oodbench.benchmark.data.files.cache import DecodedSplit
from oodbench.benchmark.data.files.class_folders import ClassImages, OutlierImages, as_training, list_classes
from oodbench.benchmark.data.files.decode import few
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset, Opened
from oodbench.benchmark.data.files.file_source import File, Source
from oodbench.benchmark.data.files.listing import Listing, list_images
from oodbench.benchmark.data.files.own_images import OwnImages, notes_on, open_own
from oodbench.benchmark.data.files.pixels import Fit
from oodbench.benchmark.data.own_names import free_name, readable
from oodbench.benchmark.errors import DataError, UserError, visible
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from oodbench.benchmark.store.safe_read import is_file, is_folder
from oodbench.benchmark.store.user_path import user_path

PREFIX, CLASSES, OUTLIERS = PREFIXES = ("folder:", "classes:", "outliers:")
"""Of all images in a path; and, if they are not divided into train and test, of its class folders as an ID set, and of
all images as a training split of outliers."""

Role: TypeAlias = Literal["", "id", "outliers"]
"""What a set serves as; empty for an OOD set."""

CENTRE = Fit(how="crop")

NAMED = 5
"""Damaged images that an error names."""

HOW = "read from the user's own images, an image that is not 32x32 by the centre square resized (bilinear)"


class UserFolder(FileDataset):
    """A folder, archive or image that was named on the command line or in a suite."""

    native = True
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
        if self.classes:  # a test split with labels
            advice = "Add train/CLASS/IMAGE, give trained weights, or name that folder itself, which is then divided"
            return f"'{self.name}' {self.listing.lacking}. {advice}."
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


def adopt(spec: SetSpec, role: Role = "", beside: Path | None = None) -> SetSpec:
    """Register the images at `folder:PATH` as `folder:NAME` and return the spec with that name.

    If they are not divided into train and test, they become `classes:NAME` as an ID set, or if the spec selects
    classes, and `outliers:NAME` as outliers. A relative path belongs to the folder `beside`, by default the working
    folder. Other specs are returned unchanged. Raises `UserError` for a path that does not exist or cannot be used.
    """
    prefix = next((prefix for prefix in PREFIXES if spec.name.startswith(prefix)), "")
    if not prefix:
        return spec
    path = _path(spec, prefix, beside)
    if path is None:  # the name of a set that was registered before
        path = registry.entries("dataset")[spec.name].load().path
    wanted = {"id": CLASSES, "outliers": OUTLIERS, "": PREFIX}[role] if prefix == PREFIX else prefix
    if wanted == PREFIX and spec.classes is not None:
        wanted = CLASSES
    name = _registered(path, wanted)
    if prefix == CLASSES and not registry.get("dataset", name).classes:
        raise UserError(f"'{path}' has no class folders; expected at least two of them, such as CLASS/IMAGE.png.")
    return spec._replace(name=name)


def _path(spec: SetSpec, prefix: str, beside: Path | None) -> Path | None:
    """The path that a spec gives; None if it is the name of a registered set and no path."""
    given = spec.name.removeprefix(prefix).strip()
    if not given:
        raise UserError(
            f"'{spec}' names no folder. Write {prefix}PATH; if a variable gives the path, is that set? For the "
            f"working folder, write '{prefix}.'."
        )
    path = user_path(given)
    path = path.absolute() if beside is None else beside.absolute() / path
    if is_file(path) or is_folder(path):
        return path
    if spec.name in registry.entries("dataset"):
        return None
    shown = user_path(given) if beside is None else path
    raise UserError(
        f"'{shown}' of '{spec}' does not exist. Write {prefix}PATH, PATH being a folder, zip or tar of images, or an "
        "image; it cannot hold any of the characters [ ] @ + , =."
    )


def _registered(path: Path, wanted: str) -> str:
    """The name of the data set for a path, registered if it was not before.

    `wanted` is one of `PREFIXES`. What is divided into train and test, or has no class folders, is `folder:NAME`; if
    another path has that name, `folder:PARENT/NAME`.
    """
    known = registry.entries("dataset")

    def is_taken(name: str) -> bool:
        return any(prefix + name in known and known[prefix + name].load().path != path for prefix in PREFIXES)

    own = free_name(path, _name(path), is_taken)
    names = {prefix: prefix + own for prefix in PREFIXES}
    if names[wanted] in known:
        return names[wanted]
    if names[PREFIX] in known and known[names[PREFIX]].load().listing.classes:
        return names[PREFIX]
    try:
        tree = open_own(path)
        listing = list_images(tree)
        divided = list_classes(tree) if wanted == CLASSES and not listing.classes else None
    except DataError as error:
        raise UserError(str(error)) from error
    if divided is not None:
        return _adopted(names[CLASSES], path, divided, ClassImages)
    if wanted == OUTLIERS and not listing.classes:
        return _adopted(names[OUTLIERS], path, as_training(listing), OutlierImages)
    return names[PREFIX] if names[PREFIX] in known else _adopted(names[PREFIX], path, listing, OwnImages)


def adopted() -> tuple[str, ...]:
    """What was registered as `folder:NAME` or `classes:NAME` in this process, with the paths in place of the names."""
    sets = registry.entries("dataset")
    own = [(prefix, entry) for name, entry in sets.items() for prefix in PREFIXES if name.startswith(prefix)]
    return tuple(f"{prefix}{entry.load().path}" for prefix, entry in own)


def adopt_all(named: Iterable[str]) -> None:
    """Register what another process has registered, so that both use the same names."""
    for name in named:
        adopt(SetSpec(name))


def with_absolute_path(text: str) -> str:
    """`folder:PATH` with an absolute path, so that it means the same in another working folder; else the same text."""
    prefix = next((prefix for prefix in PREFIXES if text.strip().startswith(prefix)), "")
    if not prefix:
        return text
    spec = parse_set(text)
    path = user_path(spec.name.removeprefix(prefix).strip()).absolute()
    absolute = str(spec._replace(name=f"{prefix}{path}"))
    with suppress(UserError):  # the path may hold characters that a spec cannot
        if path.exists() and parse_set(absolute) == spec._replace(name=f"{prefix}{path}"):
            return absolute
    return text


def _name(path: Path) -> str:
    """The name in tables: the folder's, or the archive's without its ending."""
    suffix = next((suffix for suffix in (".zip", *TAR) if path.name.lower().endswith(suffix)), "")
    stem = path.name[: len(path.name) - len(suffix)] if suffix and path.is_file() else path.name
    return readable(stem)


def _adopted(name: str, path: Path, listing: Listing, reader: type[OwnImages]) -> str:
    """Register a data set class for the images at a path, which are listed now and decoded later; its name."""
    file = (File((str(path),)),)
    note, shown = f"{name}: {HOW}.", visible(str(path))  # a class takes no text that is not valid Unicode
    sources = {split: (Source(file, reader(split, CENTRE), note=note),) for split in listing.splits}
    members: dict[str, object] = {"__module__": __name__, "__doc__": f"The images in {shown}."}
    members.update(path=path, listing=listing, splits=tuple(listing.splits), classes=listing.classes, sources=sources)
    members.update(origin=shown, licence="That of the user's own images", caveats=HOW)
    members.update(family="" if reader is OwnImages else PREFIX + name.partition(":")[2])
    dataset = type("UserFolder", (UserFolder,), members)
    dataset.name, dataset.title = name, f"The images in {shown}"  # type: ignore[attr-defined]
    registry.adopt("dataset", name, dataset, f"folder {path}")
    return name
