"""The 1,000 classes of ImageNet-1k, by WordNet identifier (WNID), and which of them a class name stands for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from oodbench.benchmark.data.files.class_names import letters

WNID = re.compile(r"(n\d{8})(?:[\W_].*)?")
"""An identifier, which a name may follow: 'n01440764', 'n01440764_tench'."""


class ImageNetClass(NamedTuple):
    """One class."""

    wnid: str
    has_renditions: bool
    """Whether ImageNet-R has renditions of it: one of the 200 classes of OpenOOD's ImageNet-200."""
    names: tuple[str, ...]
    """Its names in WordNet 3.0, the usual one first. Two classes may have the same: crane, maillot."""


@cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """The classes in the order of their identifiers, which is that of the heads of torchvision and timm."""
    table = files(__package__).joinpath("imagenet_classes.tsv").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines()[1:])
    return tuple(ImageNetClass(wnid, mark == "1", tuple(names.split(", "))) for wnid, mark, names in rows)


def imagenet_wnids(with_renditions: bool = False) -> tuple[str, ...]:
    """The 1,000 identifiers in order; with `with_renditions`, the 200 of ImageNet-R."""
    return tuple(c.wnid for c in imagenet_classes() if c.has_renditions or not with_renditions)


@cache
def _names() -> dict[str, str]:
    return {c.wnid: c.names[0] for c in imagenet_classes()}


def named_class(name: str) -> str:
    """A class as it is shown: a WordNet identifier with its usual name, 'n01440764 (tench)'; other names unchanged."""
    known = _names().get(name) if WNID.fullmatch(name) else None
    return f"{name} ({known})" if known else name


def outputs_of(classes: Sequence[str], labels: Sequence[str]) -> tuple[int, ...] | None:
    """The output of a head that stands for each class of a set.

    A class is matched by its identifier, or by a name that is one output's alone: the output's own label, or, if labels
    are identifiers, a name in WordNet; only letters and digits count, and not their case.

    Args:
        classes: Names of the set's classes, (K,), such as those of its folders.
        labels: What the outputs stand for, (M,): WordNet identifiers, or names.

    Returns:
        (K,) different numbers from 0 to M - 1; None if one of the classes has no output, or two have the same.
    """
    numbers = {label: output for output, label in enumerate(labels)}
    named = _outputs_by_name(tuple(labels))
    found: list[int] = []
    for name in classes:
        wnid = WNID.fullmatch(name)
        output = numbers.get(name, numbers.get(wnid[1]) if wnid else named.get(letters(name).casefold()))
        if output is None:
            return None
        found.append(output)
    return tuple(found) if len(set(found)) == len(found) else None


@cache
def _outputs_by_name(labels: tuple[str, ...]) -> dict[str, int]:
    """A name in letters and digits -> the only output that has it."""
    words = {c.wnid: c.names for c in imagenet_classes()}
    outputs: dict[str, set[int]] = defaultdict(set)
    for output, label in enumerate(labels):
        for name in words.get(label, (label,)):
            outputs[letters(name).casefold()].add(output)
    return {name: found.pop() for name, found in outputs.items() if name and len(found) == 1}
