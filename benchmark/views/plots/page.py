"""A picture laid out in inches before it is drawn: heading, panels, legend, each with a size that is known.

Nothing is measured by drawing twice, and nothing is placed that does not fit: a picture grows downwards with its
content, and a size that is asked for and is too small is one sentence.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.views.plots import measure
from oodbench.benchmark.views.plots.style import RED, plain, setting

WIDTH = 7.2
"""Inches of a picture's width by default: the text width of a page with two columns."""

NARROW = 5.0
"""Below this width names stand above panels and legends below them."""

SMALLEST = 4.0
"""Inches of a picture's width, at least, unless another one is asked for."""

EDGE = 0.06
"""Inches that stay free at every edge."""

GAP = 0.1
"""Inches between the parts of a picture."""

LEGEND = {"borderpad": 0.0, "borderaxespad": 0.0, "handletextpad": 0.8, "columnspacing": 1.8, "labelspacing": 0.35}
HANDLE = 2.6


@dataclass(frozen=True)
class Size:
    """The size that is asked for, in inches; without a height, the content decides."""

    width: float = WIDTH
    height: float | None = None
    exact: bool = False
    """Whether the picture has this width even if it needs less."""

    def at_most(self, width: float) -> Size:
        """This size, or a narrower one with room for a heading."""
        return replace(self, width=min(self.width, max(width, SMALLEST)))

    @property
    def inner(self) -> float:
        """The width without the free edges."""
        return self.width - 2 * EDGE

    @property
    def narrow(self) -> bool:
        """Whether it is about as wide as a column of a paper."""
        return self.width < NARROW

    def stretch(self, fixed: float, flexible: float, smallest: float) -> float:
        """The factor of flexible heights, such as panels', with which the parts fill the height that is asked for.

        Args:
            fixed: Height of all that has one size, such as headings.
            flexible: Height of all that can be stretched, at its natural size.
            smallest: Factor below which it cannot be read.

        Raises:
            UserError: If the picture does not fit.
        """
        if self.height is None:
            return 1.0
        factor = (self.height - fixed) / flexible
        if factor < smallest:
            least = fixed + smallest * flexible + 0.05
            raise UserError(
                f"The picture does not fit into {self.width:g} x {self.height:g} inches: at this width its text needs "
                f"a height of {least:.1f}. Choose a larger --size, fewer detectors or sets, or give the width alone."
            )
        return factor


@dataclass(frozen=True)
class Heading:
    """Title, details and a warning at the top of a picture, folded to its width."""

    title: str
    detail: str
    remark: str
    height: float

    def draw(self, page: Page) -> None:
        """Draw it at the top of the page."""
        top = EDGE
        for text, scale, more in (
            (self.title, TITLE, {"weight": "bold"}),
            (self.remark, 1.0, {"weight": "bold", "color": RED}),
            (self.detail, 1.0, {}),
        ):
            if text:
                page.text(EDGE, top, plain(text), fontsize=measure.points(scale), **more)
                top += measure.height_of(text, measure.points(scale))


TITLE = 1.1
"""Size of a title, in units of the other text."""


def heading(size: Size, title: str, details: Iterable[str] = (), remark: str = "") -> Heading:
    """Fold the heading's texts. A style for papers has none but the warning: what it says belongs into the caption."""
    details = [detail for detail in details if detail]
    if not setting("titles"):
        title, details = "", []
    large = measure.points(TITLE)
    title = measure.folded(title, size.inner, large, "bold")
    remark = measure.folded(remark, size.inner, None, "bold")
    detail = measure.folded(_joined(details, size.inner), size.inner)
    heights = [(title, large), (remark, measure.points()), (detail, measure.points())]
    height = sum(measure.height_of(text, points) for text, points in heights if text)
    return Heading(title, detail, remark, height + (EDGE if height else 0.0))


def _joined(parts: Sequence[str], width: float) -> str:
    """Parts separated by semicolons, in lines that end after one of them."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}; {part}" if lines else part
        if lines and measure.width_of(longer + ";") > width:
            lines[-1] += ";"
            lines.append(part)
        else:
            lines[-1:] = [longer]
    return "\n".join(lines)


@dataclass(frozen=True)
class Legend:
    """A legend whose size is known: as many columns as fit, names folded."""

    handles: Sequence[Artist]
    texts: Sequence[str]
    columns: int
    width: float
    height: float

    def draw(self, page: Page, left: float, top: float) -> None:
        """Draw it with its top left corner at these inches from the page's."""
        if self.handles:
            page.figure.legend(
                list(self.handles), [plain(text) for text in self.texts], loc="upper left", ncols=self.columns,
                bbox_to_anchor=page.place(left, top), handlelength=HANDLE, frameon=False, fontsize=measure.points(),
                **LEGEND,
            )  # fmt: skip


def legend(handles: Sequence[Artist], names: Sequence[str], width: float) -> Legend:
    """Arrange a legend within `width` inches."""
    em = measure.points() / 72
    handle = (HANDLE + LEGEND["handletextpad"]) * em
    texts = [measure.folded(name, width - handle - 0.02) for name in names]
    if not texts:
        return Legend((), (), 1, 0.0, 0.0)
    wide = [handle + measure.width_of(text) for text in texts]
    between = LEGEND["columnspacing"] * em
    for columns in range(len(texts), 0, -1):
        parts = _split(range(len(texts)), columns)
        total = sum(max(wide[i] for i in part) for part in parts) + between * (len(parts) - 1)
        if total <= width or columns == 1:
            break
    tall = [sum(measure.height_of(texts[i]) for i in part) + LEGEND["labelspacing"] * em * len(part) for part in parts]
    return Legend(handles, texts, columns, total, max(tall) + 0.02)


def _split(items: range, parts: int) -> list[range]:
    """Contiguous parts of nearly equal size, the longer ones first, as matplotlib fills the columns of a legend."""
    size, longer = divmod(len(items), parts)
    ends = [0]
    for part in range(parts):
        ends.append(ends[-1] + size + (part < longer))
    return [items[a:b] for a, b in pairwise(ends) if b > a]


@dataclass(frozen=True)
class Page:
    """A figure on which everything is placed in inches from its top left corner."""

    figure: Figure
    width: float
    height: float

    @classmethod
    def of(cls, width: float, height: float) -> Page:
        """An empty page."""
        return cls(Figure(figsize=(width, height)), width, height)

    def place(self, left: float, top: float) -> tuple[float, float]:
        """A point in the figure's own coordinates."""
        return left / self.width, 1 - top / self.height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes whose top left corner and size are given."""
        x, y = self.place(left, top + height)
        return self.figure.add_axes((x, y, width / self.width, height / self.height))

    def sheet(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without lines, whose coordinates are inches from their own top left corner."""
        axes = self.axes(left, top, width, height)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        return axes

    def text(self, left: float, top: float, text: str, **more: object) -> None:
        """Write a text whose top left corner is given; not escaped."""
        self.figure.text(*self.place(left, top), text, **{"va": "top", "ha": "left", **more})  # type: ignore[arg-type]
