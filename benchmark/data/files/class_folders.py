"""A user's own images without train and test, as an ID set: PATH/CLASS/IMAGE, or PATH/val/CLASS/IMAGE; or as outliers.

The first is divided. In the order of names, because pictures of one series have neighbouring names and would otherwise
be in both splits, the last fifth of each class is the test split. The second has a test split alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from oodbench.benchmark.data.files.class_names import label_of_folder
from oodbench.benchmark.data.files.decode import few
from oodbench.benchmark.data.files.listing import (
    Entry,
    Listing,
    by_name,
    class_order,
    find_layout,
    lacking_of,
    list_images,
    once,
    remarks_on,
)
from oodbench.benchmark.data.files.own_images import OwnImages
from oodbench.benchmark.data.files.tree import LeftOut, Tree
from oodbench.benchmark.errors import DataError

TEST_SHARE = 0.2
"""Of the images of each class of a folder that is divided."""

DIVIDED = "there is no train and no test, so that the last fifth of each class, by name, is the test split"

FEWEST = 3
"""Images that a class of such a folder needs: one each to train, to validate and to test."""


@dataclass(frozen=True)
class ClassImages(OwnImages):
    """One split of class folders, as `list_classes` finds it."""

    def listed(self, tree: Tree) -> Listing:
        """The listing with labels."""
        listing = list_classes(tree)
        if listing is None:
            raise DataError(f"'{tree.path}' has no class folders any more; expected CLASS/IMAGE.")
        return listing


@dataclass(frozen=True)
class OutlierImages(OwnImages):
    """All images of a folder as a training split."""

    def listed(self, tree: Tree) -> Listing:
        """The listing with that split."""
        return as_training(list_images(tree))


def as_training(listing: Listing) -> Listing:
    """A listing of images for tests, as one of images for training."""
    return listing._replace(splits={"train": listing.splits["test"]}, lacking="")


def list_classes(tree: Tree) -> Listing | None:
    """List class folders that are not divided into train and test; None if there are no two of them.

    Raises `DataError` for a class with too few images to be divided.
    """
    images, left_out = by_name(tree)
    files = len(images) + len(left_out)
    names = [name for name, _ in images]
    layout = find_layout(tree.path, names)
    if "train" in layout.folders:
        return None
    tested = "test" in layout.folders
    under = f"{layout.under}{layout.folders['test']}/" if tested else _place(names)
    folder_of = {index: _folder(name, under) for name, index in images}
    classes = class_order(unicodedata.normalize("NFC", folder) for folder in folder_of.values() if folder)
    if len(classes) < 2:
        return None
    left_out += [LeftOut(name, "in no class folder") for name, index in images if not folder_of[index]]
    label = label_of_folder(filter(None, folder_of.values()), classes)
    used = once(tree, [(name, index) for name, index in images if folder_of[index]], left_out)
    entries = [Entry(index, label[folder_of[index]]) for _, index in used]
    remarks = remarks_on(layout, classes)
    if tested:
        splits, lacking = {"test": tuple(entries)}, lacking_of(tree.path, layout)
    else:
        splits, lacking = _divided(tree, entries, classes), ""
        remarks = (DIVIDED, *remarks)
    return Listing(splits, tuple(classes), tuple(sorted(left_out)), files, remarks, lacking)


def _divided(tree: Tree, entries: Sequence[Entry], classes: Sequence[str]) -> dict[str, tuple[Entry, ...]]:
    of_class: dict[int, list[Entry]] = {}
    for entry in entries:
        assert entry.label is not None
        of_class.setdefault(entry.label, []).append(entry)
    small = [classes[label] for label, own in sorted(of_class.items()) if len(own) < FEWEST]
    if small:
        raise DataError(
            f"'{tree.path}' has fewer than {FEWEST} images of {few(small)}; each class needs one to train, one to "
            "validate and one to test. Add some, or remove the class."
        )
    test = {entry for own in of_class.values() for entry in own[len(own) - max(1, round(TEST_SHARE * len(own))) :]}
    return {
        "train": tuple(entry for entry in entries if entry not in test),
        "test": tuple(entry for entry in entries if entry in test),
    }


def _place(names: Sequence[str]) -> str:
    """The folder that holds the class folders: the first with several, below folders that are alone."""
    under, below = "", [name.split("/") for name in names]
    while len({parts[0] for parts in below if len(parts) > 1}) == 1:
        below = [parts for parts in below if len(parts) > 1]
        if all(len(parts) == 2 for parts in below):
            break
        under += f"{below[0][0]}/"
        below = [parts[1:] for parts in below]
    return under


def _folder(name: str, under: str) -> str:
    """The class folder of an image; empty if it is in none."""
    inside = name.removeprefix(under) if name.startswith(under) else ""
    return inside.partition("/")[0] if "/" in inside else ""
