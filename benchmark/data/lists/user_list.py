"""Makes a data set of a user's own list, named `list:FILE.txt` on the command line, without code.

FILE has lines of `path label`, paths from the file's own folder. With labels from 0 on, the set has classes and can be
an ID set: `test_NAME.txt` then has its training and validation images in `train_NAME.txt` and `val_NAME.txt` beside it,
if these are there. With -1 in all lines, it is an OOD set. In tables it is called `list:NAME`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from oodbench.benchmark.data.files.file_source import File
from oodbench.benchmark.data.lists.listed import ListedDataset, ListSource
from oodbench.benchmark.data.lists.parse import UNLABELLED, read_list
from oodbench.benchmark.data.lists.reader import SAMPLED, ListReader
from oodbench.benchmark.data.own_names import free_name
from oodbench.benchmark.errors import DataError, UserError, visible
from oodbench.benchmark.plugins.dataset import Dataset
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.safe_read import is_file
from oodbench.benchmark.store.user_path import user_path

PREFIX, SUFFIX = "list:", ".txt"

ROOTS = (".", "../../images_largescale", "../../images_classic")
"""Where paths in a list may start, from its own folder: there, or where those of OpenOOD's lists do."""

SPLITS = {"train": "train_", "val": "val_", "test": "test_"}
"""Split -> how the names of its lists begin."""


class UserList(ListedDataset):
    """A list that was named on the command line."""

    path: ClassVar[Path]
    native = True
    optional = ("train", "val")

    def absent(self, split: str, data_dir: Path) -> str:
        """Say that the list or its images do not exist any more."""
        return f"The {split} images of '{self.name}', listed in '{self.path}', are gone."

    def lacks(self, split: str) -> str:
        """Say which list a split would be."""
        if split == "train" and self.path.name.startswith(SPLITS["test"]):
            beside = self.path.with_name(SPLITS["train"] + self.path.name.removeprefix(SPLITS["test"]))
            return f"'{self.name}' has no training images: there is no list '{beside}'."
        return f"'{self.name}' has no {split} images; they would be in train_NAME.txt beside a list test_NAME.txt."


def adopt_list(spec: SetSpec, beside: Path | None = None) -> SetSpec:
    """Register the list at `list:FILE.txt` as `list:NAME` and return the spec with that name.

    If another list has it, the name is `list:FOLDER/NAME`.

    A relative path belongs to the folder `beside`, by default the working folder. Other specs are returned unchanged.
    Raises `UserError` for a file that does not exist or is not a list.
    """
    if not spec.name.startswith(PREFIX) or spec.name in registry.entries("dataset"):
        return spec
    given = user_path(spec.name.removeprefix(PREFIX).strip())
    path = given.absolute() if beside is None else beside.absolute() / given
    if path.suffix != SUFFIX or not is_file(path):
        problem = "does not exist" if path.suffix == SUFFIX else "does not end in .txt"
        raise UserError(
            f"'{spec}' names no list: '{path}' {problem}. Write list:FILE.txt, FILE having lines such as "
            "'cat/001.png 3'."
        )
    known = registry.entries("dataset")

    def is_taken(name: str) -> bool:
        return PREFIX + name in known and known[PREFIX + name].load().path != path

    name = PREFIX + free_name(path, unique_slug(path.stem), is_taken)
    if name not in known:
        try:
            registry.adopt("dataset", name, _dataset(name, path), f"list {path}")
        except DataError as error:
            raise UserError(str(error)) from error
    return spec._replace(name=name)


def adopted_lists() -> tuple[str, ...]:
    """The lists that were registered in this process, as `list:FILE.txt`."""
    sets = registry.entries("dataset")
    return tuple(f"{PREFIX}{entry.load().path}" for name, entry in sets.items() if name.startswith(PREFIX))


def with_absolute_path(text: str) -> str:
    """`list:FILE.txt` with an absolute path; the same text for the name of a list that was registered."""
    spec = parse_set(text)
    path = user_path(spec.name.removeprefix(PREFIX).strip()).absolute()
    return str(spec._replace(name=f"{PREFIX}{path}")) if is_file(path) else text


def _dataset(name: str, path: Path) -> type[Dataset]:
    """A data set class for a list and those beside it."""
    paths = {"test": path}
    if path.name.startswith(SPLITS["test"]):
        rest = path.name.removeprefix(SPLITS["test"])
        others = {split: path.with_name(SPLITS[split] + rest) for split in ("train", "val")}
        paths = {**{split: other for split, other in others.items() if is_file(other)}, **paths}
    count = _classes(list(paths.values()))
    sources = {
        split: (ListSource((File((str(file),)),), ListReader(_root(file), count)),) for split, file in paths.items()
    }
    shown = visible(str(path))
    members: dict[str, object] = {"__module__": __name__, "__doc__": f"The images listed in {shown}."}
    members |= {"path": path, "splits": tuple(paths), "sources": sources}
    members |= {"classes": tuple(f"class {label}" for label in range(count)), "membership": f"The list {path.name}"}
    members |= {"origin": shown, "licence": "That of the user's own images", "caveats": "The user's own list."}
    dataset = type("UserList", (UserList,), members)
    dataset.name, dataset.title = name, f"The images listed in {shown}"  # type: ignore[attr-defined]
    return dataset


def _classes(paths: list[Path]) -> int:
    """The number of classes of lists: one more than their largest label; 0 if no image has a label."""
    labels = [read_list(path).labels for path in paths]
    largest = max(int(of_list.max()) for of_list in labels)
    if largest < 0:
        return 0
    for path, of_list in zip(paths, labels, strict=True):
        if of_list.min() < 0:
            without = int((of_list < 0).sum())
            raise DataError(
                f"The list '{path}' has the label {UNLABELLED}, no class, for {without:,} of {len(of_list):,} images; "
                "an ID set has a class for each, an OOD set for none."
            )
    return largest + 1


def _root(path: Path) -> str:
    """Where the paths in a list start: the first of `ROOTS` that has any of some of its images."""
    names = read_list(path).names
    some = names[:: max(1, len(names) // SAMPLED)]
    for root in ROOTS:
        if any((path.parent / root / name).is_file() for name in some):
            return root
    raise DataError(
        f"None of the {len(names):,} images that '{path}' names is there, such as '{path.parent / names[0]}'. Paths "
        "start from the list's own folder."
    )
