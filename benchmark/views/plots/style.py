"""Shared by all plots: named styles, axes placed in inches, looks that work without colour, reproducible files.

Axes are placed by hand because matplotlib's layout engines draw every figure a second time to measure it.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oodbench.benchmark.errors import UserError, first_line, unknown, visible
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.views.labels import wrapped_label

STYLE: Any = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib, so that text looks the same everywhere
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "oodbench",  # element ids are random without one
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # publishers refuse Type 3
}
"""What all styles share. No text is smaller than 8 points, so that a picture can be printed at its own size."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#7F7F7F")
"""Okabe and Ito's palette without yellow, which is too pale for a line, and black, which hides hatches; plus a grey."""

DASHES: tuple[Any, ...] = (
    "-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (10, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5, 1, 1.5)), (0, (2, 1))
)  # fmt: skip
"""One for each of eight detectors, so that they differ without colour."""

HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "oo", "||||", "++++")

RED, DARK, PALE = "#B00020", "#555555", "#C9C9C9"
"""Warnings; remarks; curves that only give the range."""


@dataclass(frozen=True)
class PlotStyle:
    """A named style: what differs from `STYLE`, and the colours."""

    help: str
    rc: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of matplotlib."""
    titles: bool = True
    """Whether pictures have a title; warnings, such as for shortened training, are always there."""
    colours: tuple[str, ...] = COLOURS
    groups: Mapping[str, str] = field(default_factory=lambda: {"near": "#0072B2", "far": "#D55E00", "": "#009E73"})
    """Colour of a group of OOD sets; of those without a group under ''."""
    colour_map: str = "cividis"
    """matplotlib's name of a colour map whose lightness rises from the lowest value to the highest."""
    pale: str = PALE


STYLES: Mapping[str, PlotStyle] = {
    "screen": PlotStyle("titles and colour; the default"),
    "paper": PlotStyle("no titles, which belong into the caption; TrueType text in PDF", titles=False),
    "grey": PlotStyle(
        "black and greys only, for print without colour",
        colours=("#000000", "#6E6E6E", "#000000", "#6E6E6E", "#9A9A9A"),
        groups={"near": "#000000", "far": "#6E6E6E", "": "#9A9A9A"},
        colour_map="gray",
        pale="#D8D8D8",
    ),
    "slides": PlotStyle("text of 14 points; give it a --size of 13 inches", rc={"font.size": 14}),
}
"""Name -> style, for `bench plot --style`."""

_current: ContextVar[PlotStyle] = ContextVar("plot style", default=STYLES["screen"])


def setting(name: str) -> Any:
    """A field of the style in force."""
    return getattr(_current.get(), name)


def style_named(name: str) -> PlotStyle:
    """The style of this name, or a file of matplotlib's style parameters (`*.mplstyle`) on top of the default.

    Raises:
        UserError: If there is neither, or the file is not one of parameters.
    """
    if name in STYLES:
        return STYLES[name]
    if not name.endswith(".mplstyle"):
        raise unknown("plot style", name, (*STYLES, "FILE.mplstyle"), "bench plot --help")
    try:
        parameters = mpl.rc_params_from_file(name, use_default_template=False)
    except (OSError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise UserError(f"--style {name} cannot be read as matplotlib's parameters: {first_line(error)}.") from error
    return PlotStyle("a file", rc={str(key): value for key, value in parameters.items()})


LEGEND_CHARACTERS = 30

MIN_INCHES, MAX_INCHES = 4.5, 40
"""Limits of a figure's size: it must have room for its title, and stops growing with its rows and columns."""


@dataclass(frozen=True)
class Look:
    """How one detector is drawn, in every plot of a run."""

    colour: str
    dash: Any
    hatch: str


@dataclass(frozen=True)
class FigureMargins:
    """Inches around the axes and between them."""

    left: float
    right: float
    top: float
    bottom: float
    across: float = 0.0
    down: float = 0.0


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Label -> its look. Colours, dashes and hatches repeat with different periods, so combinations rarely do."""
    colours = setting("colours")
    return {
        label: Look(colours[i % len(colours)], DASHES[i % len(DASHES)], HATCHES[i % len(HATCHES)])
        for i, label in enumerate(dict.fromkeys(labels))
    }


@contextmanager
def styled(style: PlotStyle | None = None) -> Iterator[None]:
    """Use a style regardless of the user's matplotlib settings, which are restored afterwards."""
    chosen = style or STYLES["screen"]
    token = _current.set(chosen)
    try:
        with mpl.rc_context():
            mpl.rcdefaults()
            parameters: Any = {**STYLE, **_sizes(chosen.rc)}
            mpl.rcParams.update(parameters)
            yield
    finally:
        _current.reset(token)


def _sizes(rc: Mapping[str, Any]) -> dict[str, Any]:
    """A style's parameters; its size of text is that of all text, where it does not say otherwise."""
    names = ("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    return {**(dict.fromkeys(names, rc["font.size"]) if "font.size" in rc else {}), **rc}


def grid(rows: int, columns: int, size: tuple[float, float], margins: FigureMargins) -> tuple[Figure, list[list[Axes]]]:
    """A figure with `rows` x `columns` axes of `size` (width, height) inches each."""
    m = margins
    w = min(size[0], (MAX_INCHES - m.left - m.right) / columns - m.across)
    h = min(size[1], (MAX_INCHES - m.top - m.bottom) / rows - m.down)
    width = max(m.left + columns * w + (columns - 1) * m.across + m.right, MIN_INCHES)
    height = m.top + rows * h + (rows - 1) * m.down + m.bottom
    figure = Figure(figsize=(width, height))
    lefts = [(m.left + column * (w + m.across)) / width for column in range(columns)]
    bottoms = [(height - m.top - (row + 1) * h - row * m.down) / height for row in range(rows)]
    axes = [[figure.add_axes((left, bottom, w / width, h / height)) for left in lefts] for bottom in bottoms]
    return figure, axes


def text_inches(texts: Iterable[str], points: float = 8) -> float:
    """Approximate width of the longest of the texts; an exact one would take a drawing."""
    return max((len(text) for text in texts), default=0) * points * 0.6 / 72


def plain(text: str) -> str:
    """Text in which a dollar sign is not math and control characters, except line ends, are made visible."""
    return "\n".join(map(visible, text.split("\n"))).replace("$", r"\$")


def folded(label: str, width: int = LEGEND_CHARACTERS) -> str:
    """A detector's label, wrapped to fit beside the axes."""
    return plain("\n".join(wrapped_label(label, width)))


def stacked(heading: str) -> str:
    """An OOD set's heading, with the part in parentheses on a second line."""
    return plain("\n(".join(heading.rsplit(" (", 1)))


def legend_inches(labels: Iterable[str]) -> float:
    """The width that `legend_beside` needs."""
    return text_inches(line for label in labels for line in wrapped_label(label, LEGEND_CHARACTERS)) + 0.6


def legend_beside(figure: Figure, axes: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Draw a legend to the right of the axes, aligned with their top."""
    texts = [folded(label) for label in labels]
    right = 1 + 0.1 / (axes.get_position().width * figure.get_figwidth())
    axes.legend(list(handles), texts, loc="upper left", bbox_to_anchor=(right, 1.0), borderaxespad=0.0)


def title(figure: Figure, text: str, detail: str = "") -> None:
    """Write the title at the top left, and details on a second line. Takes 0.4 inches."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.08 / height, plain(text), va="top", fontsize=8.5, weight="bold")
    figure.text(0.1 / width, 1 - 0.25 / height, plain(detail), va="top")


def ink_on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has more contrast with `colour` (WCAG's relative luminance)."""
    luminance = sum(share * part**2.2 for share, part in zip((0.2126, 0.7152, 0.0722), colour, strict=False))
    return "black" if luminance > 0.18 else "white"


def say(axes: Axes, text: str, x: float = 0.5, y: float = 0.5) -> None:
    """Write a text in place of what cannot be drawn."""
    axes.text(x, y, plain(text), transform=axes.transAxes, ha="center", va="center", color="#555555", style="italic")


def remark(figure: Figure, text: str) -> None:
    """Write a warning in red at the top right."""
    width, height = figure.get_size_inches()
    figure.text(1 - 0.1 / width, 1 - 0.08 / height, plain(text), va="top", ha="right", color="#B00020", weight="bold")


FORMATS: Mapping[str, Mapping[str, Any]] = {
    "png": {"dpi": 160, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
}
"""Format of a file -> how it is written, without a date."""


def rendered(figure: Figure, form: str) -> bytes:
    """A figure in one of `FORMATS`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, **FORMATS[form])
    return buffer.getvalue()


DEFAULT_FORMATS = ("png", "svg")


def saved(
    figure: Figure, folder: Path, name: str, formats: Sequence[str] = DEFAULT_FORMATS, option: str = "--results"
) -> list[Path]:
    """Write NAME.png and NAME.svg, or other formats; leave a file that would not change alone.

    `option` is what chose the folder, for the error if it cannot be written.
    """
    paths = []
    for form in formats:
        content, path = rendered(figure, form), folder / f"{name}.{form}"
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content, option)
        paths.append(path)
    return paths
