"""Sizes of texts in inches, before anything is drawn, and texts folded into lines that fit a width.

Widths are those of matplotlib's own renderer at the resolution of the PNG files, and cached: a run's pictures repeat
the same names hundreds of times. The style in force (`style.styled`) decides on family and size.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.plots.style import plain

DPI = 160
"""Pixels per inch of PNG files."""

LINE = 1.2
"""Height of a line of text in units of the font's size, at most."""

SLACK = 1.02
"""SVG and PDF place glyphs without hinting, and are up to two percent wider."""

BREAKS = re.compile(r"(?=[\[@(])|(?<=[,\s/_+:])|(?<=[a-z0-9]-)")
"""Where a name may be broken into lines."""


def points(scale: float = 1.0) -> float:
    """The size of the style's text, in points."""
    return scale * float(mpl.rcParams["font.size"])


def line_height(size: float | None = None) -> float:
    """The height of one line of text of `size` points (by default the style's), in inches."""
    return LINE * (points() if size is None else size) / 72


def height_of(text: str, size: float | None = None) -> float:
    """The height in inches of a text with line ends."""
    return (text.count("\n") + 1) * line_height(size)


def width_of(text: str, size: float | None = None, weight: str = "normal") -> float:
    """The width in inches of the longest line of a text, at `size` points (by default the style's)."""
    families = tuple(mpl.rcParams["font.family"])
    wanted = points() if size is None else size
    return max(_width(line, wanted, weight, families) for line in text.split("\n"))


def widest(texts: Iterable[str], size: float | None = None, weight: str = "normal") -> float:
    """The width in inches of the widest of the texts; 0 for none."""
    return max((width_of(text, size, weight) for text in texts), default=0.0)


def folded(text: str, width: float, size: float | None = None, weight: str = "normal") -> str:
    """The text in lines of at most `width` inches, with control characters made visible; a word may be cut in two.

    Lines that are there already stay. The result is not escaped for matplotlib: see `style.plain`.
    """
    lines = [line for part in text.split("\n") for line in _folded(visible(part), width, size, weight)]
    return "\n".join(lines)


def drawn(text: str, width: float, size: float | None = None, weight: str = "normal") -> str:
    """`folded`, as matplotlib takes it: a dollar sign is not math."""
    return plain(folded(text, width, size, weight))


def _folded(text: str, width: float, size: float | None, weight: str) -> list[str]:
    if width_of(text, size, weight) <= width:
        return [text]
    lines = [""]
    for piece in BREAKS.split(text):
        if not lines[-1] or width_of((lines[-1] + piece).rstrip(), size, weight) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
        while width_of(lines[-1].rstrip(), size, weight) > width and len(lines[-1]) > 1:
            fits = _fitting(lines[-1], width, size, weight)
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return [line.strip() for line in lines if line.strip()] or [""]


def _fitting(text: str, width: float, size: float | None, weight: str) -> int:
    """How many characters of the text fit the width, one at least; cut in parts of about the same length."""
    parts = math.ceil(width_of(text, size, weight) / width)
    count = max(1, min(int(len(text) * width / width_of(text, size, weight)), math.ceil(len(text) / parts)))
    while count > 1 and width_of(text[:count], size, weight) > width:
        count -= 1
    return count


@lru_cache(maxsize=1)
def _renderer() -> Any:
    renderer: Any = RendererAgg  # it has no types
    return renderer(8, 8, DPI)


@lru_cache(maxsize=1 << 15)
def _width(line: str, size: float, weight: str, families: tuple[str, ...]) -> float:
    if not line:
        return 0.0
    font = FontProperties(family=list(families), size=size, weight=weight)
    width, _, _ = _renderer().get_text_width_height_descent(line, font, False)
    return SLACK * float(width) / DPI
