"""A folder of tar shards as WebDataset writes them, as one tree of images.

NAME-000000.tar holds KEY.jpg and KEY.cls, the number of its class, or KEY.json with it as "label" or "cls". Shards may
lie in `train` and `test` folders. The image is then the member FOLDER/CLASS/NAME-000000/KEY.jpg of the tree, and
FOLDER/NAME-000000/KEY.jpg if it has no class.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from oodbench.benchmark.data.files.archives import open_tree
from oodbench.benchmark.data.files.listing import OWN_SUFFIXES
from oodbench.benchmark.data.files.tree import LeftOut, Member, Tree
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.store.safe_read import parse_json

LABELS = (".cls", ".json")
"""Suffixes of the files with an image's class."""

MAX_LABEL = 1 << 20
"""Bytes of such a file."""


def shards_in(folder: Tree) -> list[Path]:
    """The shards of a folder of nothing else: its tar files, if it holds no images."""
    names = [member.name for member in folder.members]
    if any(name.lower().endswith(OWN_SUFFIXES) for name in names):
        return []
    return [folder.path / name for name in sorted(names) if name.lower().endswith(".tar")]


class Shards:
    """The images in tar shards, which are not compressed."""

    def __init__(self, path: Path, shards: list[Path]) -> None:
        self.path = path
        self.members: list[Member] = []
        self.left_out: list[LeftOut] = []
        self.linked: Mapping[str, str] = {}
        self._places: list[tuple[Tree, int]] = []
        for shard in shards:
            self._add(shard)

    def _add(self, shard: Path) -> None:
        tree = open_tree(shard, own=True)
        inside = shard.relative_to(self.path)
        folder = "" if inside.parent == Path() else f"{inside.parent.as_posix()}/"
        labels = {
            _key(member.name): position
            for position, member in enumerate(tree.members)
            if member.name.endswith(LABELS) and member.size <= MAX_LABEL
        }
        self.left_out += [LeftOut(f"{inside.as_posix()}/{name}", reason) for name, reason in tree.left_out]
        for position, member in enumerate(tree.members):
            if not member.name.lower().endswith(OWN_SUFFIXES):
                continue
            place = labels.get(_key(member.name))
            label = "" if place is None else _label(tree, place, shard)
            name = f"{folder}{f'{label}/' if label else ''}{inside.stem}/{member.name}"
            self.members.append(Member(name, member.size))
            self._places.append((tree, position))

    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (index, content) in stored order."""
        for index in sorted(wanted):
            yield index, self.read_one(index)

    def read_one(self, index: int) -> bytes:
        """The content of one image."""
        tree, position = self._places[index]
        return tree.read_one(position)

    def stamp(self, index: int) -> str:
        """The stamp of its shard, and its place there."""
        tree, position = self._places[index]
        return tree.stamp(position)


def _key(name: str) -> str:
    """What the files of one sample share: the path up to the first dot of the file's name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _label(tree: Tree, position: int, shard: Path) -> str:
    """The class in a .cls or .json file, as text; empty for a .json file without one."""
    content, name = tree.read_one(position), tree.members[position].name
    try:
        found = parse_json(content) if name.endswith(".json") else content.decode().strip()
    except ValueError as error:
        raise DataError(f"'{name}' in '{shard}' is not a label: {error}.") from error
    if isinstance(found, dict):
        found = found.get("label", found.get("cls", ""))
        if found == "":
            return ""
    if isinstance(found, bool) or not re.fullmatch(r"\d{1,7}", str(found)):
        raise DataError(f"'{name}' in '{shard}' is {str(found)[:40]!r}; expected the number of a class.")
    return str(found)
