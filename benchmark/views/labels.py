"""Breaks detectors' labels into lines, for plots and tables."""

from __future__ import annotations

import re


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
