"""Matches class folders, and the class names in other copies of a data set, with the classes of its card.

A class may have any name, a folder may not: 'T-shirt/top' is two folders, and 'A' and 'a' are one on many file systems.
Copies of a set also write one name in several ways: the Hugging Face Hub's Fashion-MNIST has 'T - shirt / top'.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from oodbench.benchmark.store.atomic import SLUG, slug, unique_slug


def folder_names(classes: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each class that every file system accepts, different for different classes.

    It is the class's own name where that is such a name, and else its slug with a hash.
    """
    slugs = [unique_slug(name) for name in classes]
    count = Counter(name.casefold() for name in slugs)
    return tuple(
        found if count[found.casefold()] == 1 else _hashed(name) for name, found in zip(classes, slugs, strict=True)
    )


def label_of_folder(folders: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Folder -> label, without the folders that stand for no class.

    A folder stands for a class if it has the class's name, the name from `folder_names`, or, where that identifies one
    class, the same letters and digits in the same order. Unicode's composed and decomposed accents are the same.
    """
    exact = {_composed(name): label for label, name in enumerate(classes)}
    portable = {name: label for label, name in enumerate(folder_names(classes))}
    spelled = Counter(letters(name) for name in classes)
    loose = {letters(name): label for label, name in enumerate(classes) if spelled[letters(name)] == 1}
    found = {}
    for folder in folders:
        name = _composed(folder)
        label = exact.get(name, portable.get(name, loose.get(letters(name)) if letters(name) else None))
        if label is not None:
            found[folder] = label
    return found


def class_folder(path: str, classes: Sequence[str]) -> str:
    """The class folder of 'CLASS/IMAGE', empty if there is none; more than one level only if a class has that name."""
    for name in classes:
        if "/" in name and path.startswith(f"{name}/"):
            return name
    return path.partition("/")[0] if "/" in path else ""


def same_classes(names: Sequence[object], classes: Sequence[str]) -> bool:
    """Whether a list names the classes in their order, as folders would (`label_of_folder`)."""
    texts = [name for name in names if isinstance(name, str)]
    labels = label_of_folder(texts, classes)
    return len(texts) == len(names) and [labels.get(name) for name in texts] == list(range(len(classes)))


def advice(classes: Sequence[str], absent: Iterable[str]) -> str:
    """For a message: the folder's name for the first absent class that is no folder name itself; empty if all are."""
    for name, folder in zip(classes, folder_names(classes), strict=True):
        if name in absent and folder != name:
            return f" The folder of '{name}' can be named '{folder}'."
    return ""


def letters(name: str) -> str:
    """The letters, digits and combining marks of a name, in its order."""
    return "".join(c for c in _composed(name) if c.isalnum() or unicodedata.category(c).startswith("M"))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _hashed(name: str) -> str:
    digest = hashlib.sha256(_composed(name).encode(errors="surrogatepass")).hexdigest()
    return f"{slug(name)[: SLUG - 9]}-{digest[:8]}"
