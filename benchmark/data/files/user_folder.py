"""Makes a data set of a user's own images, named `folder:PATH` on the command line, without code.

PATH is a folder or an archive. If it contains `train` and `test`, each with CLASS/IMAGE, it can be an ID set. Otherwise
all images in it, in whatever folders, are the test split of an OOD set. In tables it is called `folder:NAME`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from oodbench.benchmark.data.files.archives import Tree, open_tree
from oodbench.benchmark.data.files.decode import differing_classes, few
from oodbench.benchmark.data.files.file_dataset import FileDataset
from oodbench.benchmark.data.files.file_source import PACKED, File, Source
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.data.files.pixels import Fit
from oodbench.benchmark.errors import DataError, UserError, visible
from oodbench.benchmark.plugins.dataset import Dataset
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec
from oodbench.benchmark.store.safe_read import is_file, is_folder
from oodbench.benchmark.store.user_path import user_path

PREFIX = "folder:"

CENTRE = Fit(how="crop")

HOW = "read from the user's own images, in RGB, an image that is not 32x32 by the centre square resized (bilinear)"


class UserFolder(FileDataset):
    """A folder or archive of images that was named on the command line."""

    path: ClassVar[Path]

    def absent(self, split: str, data_dir: Path) -> str:
        """Say that the folder or the split does not exist."""
        if not self.path.exists():
            return f"'{self.path}' of '{self.name}' is gone."
        return f"'{self.name}' has no {split} split: an ID set needs the folders train and test in '{self.path}'."


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
            f"'{path}' of '{spec}' does not exist. Write folder:PATH, PATH being a folder, zip or tar of images; it "
            "cannot hold any of the characters [ ] @ + , =."
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
    suffix = next(suffix for suffix in PACKED if path.name.lower().endswith(suffix))
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
        tree = open_tree(path)
    except DataError as error:
        raise UserError(str(error)) from error
    tops = {member.name.partition("/")[0] for member in tree.members if "/" in member.name}
    file = (File((str(path),)),)
    note, shown = f"{name}: {HOW}.", visible(str(path))  # a class takes no text that is not valid Unicode
    members: dict[str, object] = {"__module__": __name__, "__doc__": f"The images in {shown}.", "path": path}
    if {"train", "test"} <= tops:
        classes = _classes(tree)
        sources = {s: (Source(file, ImageTree(classes, CENTRE, under=s), note=note),) for s in ("train", "test")}
        members.update(splits=("train", "test"), classes=classes, sources=sources)
    else:
        members.update(splits=("test",), sources={"test": (Source(file, ImageTree(fit=CENTRE), note=note),)})
    members.update(origin=shown, licence="That of the user's own images", caveats=HOW)
    dataset = type("UserFolder", (UserFolder,), members)
    dataset.name, dataset.title = name, f"The images in {shown}"  # type: ignore[attr-defined]
    return dataset


def _classes(tree: Tree) -> tuple[str, ...]:
    """The class folders of `train`, sorted. Raises `UserError` unless `test` has the same and there are two or more."""
    folders: dict[str, set[str]] = {"train": set(), "test": set()}
    for member in tree.members:
        split, _, rest = member.name.partition("/")
        if split in folders:
            folders[split].add(rest.partition("/")[0] if "/" in rest else "")
    try:
        for split, names in folders.items():
            differing_classes(tree.path / split, names, sorted(folders["train"] - {""}))
    except DataError as error:
        raise UserError(str(error)) from error
    if len(folders["train"]) < 2:
        raise UserError(
            f"'{tree.path / 'train'}' has one class, {few(sorted(folders['train']))}; an ID set needs two or more."
        )
    return tuple(sorted(folders["train"]))
