"""Decides by names alone which files of a user's own folder or archive are images, of which split and class.

Nothing is decoded here. What is not used is listed with the reason, and in the order of names, so that the same files
always give the same listing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import splitext
from typing import NamedTuple

from oodbench.benchmark.data.files.class_names import label_of_folder
from oodbench.benchmark.data.files.decode import MAX_IMAGE, differing_classes, few
from oodbench.benchmark.data.files.pixels import SUFFIXES
from oodbench.benchmark.data.files.tree import LeftOut, Member, Tree
from oodbench.benchmark.errors import DataError, counted

LISTING_VERSION = 2
"""Part of the cache key of decoded images. Raise it when the same files would give another listing."""

OWN_SUFFIXES = (*SUFFIXES, ".jpe", ".jfif", ".mpo", ".pgm", ".pnm", ".tif", ".tiff", ".gif")
"""File names that count as images among a user's own, in upper case too."""

UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".xcf", ".ico", ".tga", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".dcm", ".nii", ".npy", ".eps"),
)
"""Suffixes of pictures in formats that are not read."""

ROLES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
"""Role -> names of its folder, in lower case."""

MOST_NAMES = 3
"""Names that a note gives for each reason."""

MOST_REASONS = 10
"""Reasons that a note gives."""


class Entry(NamedTuple):
    """An image: its position among the tree's members, and its class's (None in a set without classes)."""

    position: int
    label: int | None = None


class Listing(NamedTuple):
    """What a user's own folder or archive contains."""

    splits: Mapping[str, tuple[Entry, ...]]
    """Split -> its images, sorted by path: 'train' and 'test', or only 'test'."""
    classes: tuple[str, ...]
    """Names of the classes; empty for a set without labels."""
    left_out: tuple[LeftOut, ...]
    """The files that are in no split, sorted by path."""
    files: int
    """All files, used or not."""
    remarks: tuple[str, ...] = ()
    """What a reader of a table should know, as clauses: a split that stands for another, an order of classes."""
    lacking: str = ""
    """What keeps it from being an ID set, as a clause that follows its name; empty if nothing does."""


class Layout(NamedTuple):
    """Where the splits are: the path of the folder that holds them, with '/' at its end, and role -> folder."""

    under: str
    folders: Mapping[str, str]


def list_images(tree: Tree) -> Listing:
    """List the images of a folder or archive.

    Raises `DataError` if there is none, or if training and test images have different classes.
    """
    images, left_out = by_name(tree)
    files = len(left_out) + len(images)
    if not files:
        raise DataError(
            f"'{tree.path}' contains no files; expected images, such as IMAGE.png, or train/CLASS/IMAGE.png and "
            "test/CLASS/IMAGE.png for an ID set."
        )
    if not images:
        found = f": {by_reason(left_out)}" if left_out else ""
        raise DataError(f"'{tree.path}' contains no images that can be used, among {counted(files, 'file')}{found}.")
    layout = find_layout(tree.path, [name for name, _ in images])
    if "train" in layout.folders and "test" in layout.folders:
        return _labelled(tree, images, layout, left_out, files)
    used = once(tree, images, left_out)
    lacking = lacking_of(tree.path, layout)
    return Listing({"test": tuple(Entry(i) for _, i in used)}, (), tuple(sorted(left_out)), files, (), lacking)


def by_name(tree: Tree) -> tuple[list[tuple[str, int]], list[LeftOut]]:
    """The images of a tree, with their positions, sorted by path; and the files that are none."""
    left_out, images = list(tree.left_out), []
    for index, member in enumerate(tree.members):
        if reason := not_read(member):
            left_out.append(LeftOut(member.name, reason))
        else:
            images.append((member.name, index))
    return sorted(images), left_out


def not_read(member: Member) -> str:
    """Why a file is not read, by its name and size; empty if it is."""
    suffix = splitext(member.name)[1].lower()
    if suffix in OWN_SUFFIXES:
        return f"of more than {MAX_IMAGE:,} bytes" if member.size > MAX_IMAGE else ""
    return "in a format that is not read" if suffix in UNREAD else "not an image"


def by_reason(left_out: Iterable[LeftOut]) -> str:
    """Files by reason, the most frequent first: 'not an image (2: a.txt, b.txt), hidden (1: .x)'."""
    groups: dict[str, list[str]] = {}
    for name, reason in left_out:
        groups.setdefault(reason, []).append(name)
    order = sorted(groups, key=lambda reason: (-len(groups[reason]), reason))
    parts = []
    for reason in order[:MOST_REASONS]:
        names = sorted(groups[reason])
        shown = [*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])]
        parts.append(f"{reason} ({len(names):,}: {', '.join(shown)})")
    if others := sum(len(groups[reason]) for reason in order[MOST_REASONS:]):
        parts.append(f"for other reasons ({others:,})")
    return ", ".join(parts)


def class_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their labels: sorted, but numbers by value, so that 10 follows 9."""
    names = set(names)
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def find_layout(path: Path, names: Sequence[str]) -> Layout:
    """Find train, test and val at the top, or in folders that are the only one on their level.

    Such a folder may itself be called train or test: what is in it decides, if both splits are there.
    """
    under, below = "", [name.split("/") for name in names]
    first = Layout("", {})
    while True:
        tops = {parts[0] for parts in below if len(parts) > 1}
        folders = {role: folder for role in ROLES if (folder := _one_folder(path, under, role, sorted(tops)))}
        if "test" not in folders and "val" in folders:
            folders["test"] = folders.pop("val")
        if {"train", "test"} <= folders.keys():
            return Layout(under, folders)
        if folders and not first.folders:
            first = Layout(under, folders)
        if len(tops) != 1:
            return first
        below = [parts[1:] for parts in below if len(parts) > 1]
        under += f"{tops.pop()}/"


def _one_folder(path: Path, under: str, role: str, tops: Sequence[str]) -> str:
    found = [top for top in tops if top.lower() in ROLES[role]]
    if len(found) > 1:
        raise DataError(
            f"'{path / under}' contains {few(found)}, and only one folder can be the {role} split. Put them together, "
            "or rename one."
        )
    return found[0] if found else ""


def lacking_of(path: Path, layout: Layout) -> str:
    """What keeps a folder without both train and test from being an ID set, as a clause that follows its name."""
    place, present = f"'{path / layout.under}'", few(sorted(layout.folders.values()))
    if "train" in layout.folders:
        return (
            f"has no test split, which an ID set needs: {place} contains {present}, but neither test nor val; name "
            f"{present} itself to have a fifth of it as test split"
        )
    found = f"{present}, but no train" if present else "neither train nor test"
    return f"has no train split, which an ID set needs: {place} contains {found}"


def _labelled(
    tree: Tree, images: Sequence[tuple[str, int]], layout: Layout, left_out: list[LeftOut], files: int
) -> Listing:
    """The listing of a tree with CLASS/IMAGE in train and test."""
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    folder_of: dict[int, str] = {}
    role_of = {layout.folders[role]: role for role in rows}
    for name, index in images:
        inside = name.removeprefix(layout.under) if name.startswith(layout.under) else ""
        top, _, rest = inside.partition("/")
        role = role_of.get(top, "") if rest else ""
        folder_of[index] = rest.partition("/")[0] if "/" in rest else ""
        if role and folder_of[index]:
            rows[role].append((name, index))
        else:
            left_out.append(LeftOut(name, "in no class folder" if role else f"not in {' or '.join(role_of)}"))
    place = {role: tree.path / f"{layout.under}{layout.folders[role]}" for role in rows}
    for role in rows:
        if not rows[role]:
            raise DataError(
                f"'{place[role]}' has images in no class folder only; expected CLASS/IMAGE. For an OOD set, name that "
                "folder itself."
            )
    folders = {role: {folder_of[index] for _, index in rows[role]} for role in rows}
    classes = class_order(unicodedata.normalize("NFC", folder) for folder in folders["train"])
    for role in rows:
        differing_classes(place[role], folders[role], classes)
    if len(classes) < 2:
        raise DataError(f"'{place['train']}' has one class, {few(classes)}; an ID set needs two or more.")
    splits = {}
    for role in rows:
        label = label_of_folder(folders[role], classes)
        used = once(tree, rows[role], left_out)
        splits[role] = tuple(Entry(index, label[folder_of[index]]) for _, index in used)
    return Listing(splits, tuple(classes), tuple(sorted(left_out)), files, remarks_on(layout, classes))


def remarks_on(layout: Layout, classes: Sequence[str]) -> tuple[str, ...]:
    """What a reader of a table should know of a layout and an order of classes."""
    remarks = []
    if layout.folders.get("test", "").lower() in ROLES["val"]:
        remarks.append(f"there is no test, so that the images in {layout.folders['test']} are the test split")
    if list(classes) != sorted(classes):
        remarks.append(
            "classes are in the order of their numbers, as in timm; torchvision's ImageFolder has 10 before 2"
        )
    return tuple(remarks)


def once(tree: Tree, images: Sequence[tuple[str, int]], left_out: list[LeftOut]) -> list[tuple[str, int]]:
    """The images without links to images that are among them already."""
    linked = tree.linked
    seen = {name for name, _ in images if name not in linked}
    used = []
    for name, index in images:
        if name in linked:
            if linked[name] in seen:
                left_out.append(LeftOut(name, "a link to an image that is used already"))
                continue
            seen.add(linked[name])
        used.append((name, index))
    return used
