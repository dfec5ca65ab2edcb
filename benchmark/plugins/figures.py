"""`Figures`, the base class of a paper's figures; `FigureInputs`, what they are drawn from; `Picture`, the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.inputs import Classifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A drawn figure with its caption."""

    name: str
    """File name without extension: 'figure' and the panel, with a suffix if one panel has several pictures."""
    figure: Figure
    """The Matplotlib figure, which is saved as PNG and SVG."""
    caption: str
    """Markdown: what is shown, on which data, with which settings, how it differs from the paper, and what was
    measured."""


class FigureInputs(Protocol):
    """What a paper's figures are drawn from: data sets, a seed, and a finished run."""

    @property
    def seed(self) -> int:
        """The seed for everything random in a figure."""
        ...

    @property
    def library(self) -> Any:
        """The data sets, as a `Library`."""
        ...

    @property
    def run(self) -> Any:
        """The run to draw from, as a `Run`. Raises `UserError` if there is none."""
        ...

    def summary(self) -> Any:
        """Return the run's records by ID set and table row, with mean and standard deviation over seeds."""
        ...

    def scores(self) -> Any:
        """Return a reader of the stored scores of the run's first seed."""
        ...

    def images(self, name: str, part: str = "test") -> ImageSet:
        """Return the images of a data set by name, such as 'digits[0-6]'."""
        ...

    def checkpoint(self, record: Any) -> Any:
        """Return what a cell's classifier is rebuilt from, or the reason why it cannot be rebuilt, as a string."""
        ...

    def classifier(self, record: Any) -> Classifier:
        """Return the trained classifier of a cell."""
        ...


class Figures(Plugin):
    """The figures of one paper, redrawn from toy experiments and from a finished run.

    Define `panels` and `draw`. A panel is the unit that is drawn or skipped: a whole figure ('4') or part of one
    ('3ab').
    """

    panels: ClassVar[Mapping[str, str]] = {}
    """Panel -> title, in the paper's order. A panel is the figure's number, followed by letters if only part of the
    figure."""
    RENAMED: ClassVar[Mapping[str, str]] = {"plates": "this name was replaced; write `panels`."}
    from_run: ClassVar[frozenset[str]] = frozenset()
    """The panels that are drawn from a run."""
    suites: ClassVar[tuple[str, ...]] = ()
    """Suites whose runs are used if the user names no run, in order of preference."""

    def missing(self, panel: str, inputs: FigureInputs) -> str | None:
        """Say why a panel cannot be drawn. Asked before anything is drawn.

        Panels in `from_run` are asked about only if there is a run.

        Args:
            panel: A key of `panels`.
            inputs: Data sets, seed and run.

        Returns:
            The reason; None, the default, if the panel can be drawn.
        """
        return None

    def draw(self, panel: str, inputs: FigureInputs) -> Iterator[Picture]:
        """Draw one panel. The same seed and inputs must give the same bytes.

        Args:
            panel: A key of `panels`.
            inputs: Data sets, seed and run.

        Yields:
            The panel's pictures.
        """
        raise NotImplementedError
