"""Breaks detectors' labels into lines, for plots and tables, and finds what all labels of a table repeat."""

from __future__ import annotations

import re
from collections.abc import Iterable

from oodbench.benchmark.records.record import IMPORTED, PRETRAINED

GIVEN_WEIGHTS = re.compile(rf"@((?:{IMPORTED}|{PRETRAINED})(?:\[[^\]]*\])?)(?= \(|$)")
"""In a label: the weights that were given in place of a recipe, such as `@checkpoint[file=mine.pt]`."""


def shared_weights(labels: Iterable[str]) -> str:
    """The given weights that all labels name, such as `checkpoint[file=mine.pt]`; empty if some name others or none."""
    found = [GIVEN_WEIGHTS.search(label) for label in labels]
    named = {match[1] if match else "" for match in found}
    return named.pop() if len(named) == 1 else ""


def without_weights(label: str) -> str:
    """A label without the given weights that it names."""
    return GIVEN_WEIGHTS.sub("", label)


def wrapped_label(label: str, width: int) -> list[str]:
    """A detector's label in lines of at most `width` characters, broken before "[" and "@", after "," and hyphens."""
    pieces = [piece for part in re.split(r"(?=[\[@])|(?<=,)|(?<=[a-z]-)", label) for piece in _chunks(part, width)]
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + len(piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return lines or [""]


def _chunks(text: str, width: int) -> list[str]:
    return [text[i : i + width] for i in range(0, len(text), width)]
