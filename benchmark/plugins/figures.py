"""`Figures`: the figures of one paper, and what they are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.inputs import Classifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """One drawn figure and the words under it."""

    name: str
    """The files' name without extension: 'figure' and the panel, and what tells several of one panel apart."""
    figure: Figure
    caption: str
    """Markdown: what is shown, on what data, with which settings, how it differs from the paper, what was measured."""


class FigureInputs(Protocol):
    """What the figures of a paper are drawn from: data sets, a seed, and a finished run."""

    @property
    def seed(self) -> int:
        """The seed of everything random in a figure."""
        ...

    @property
    def library(self) -> Any:
        """The data sets, a `Library`."""
        ...

    @property
    def run(self) -> Any:
        """The run to draw from, a `Run`; `UserError` where there is none."""
        ...

    def summary(self) -> Any:
        """The run's records by ID set and row, with mean and standard deviation over seeds."""
        ...

    def scores(self) -> Any:
        """A reader of the stored scores of the run's first seed."""
        ...

    def images(self, name: str, part: str = "test") -> ImageSet:
        """Images of a data set by name, such as 'digits[0-6]'."""
        ...

    def checkpoint(self, record: Any) -> Any:
        """What a cell's classifier is rebuilt from, or a sentence that says why it cannot be."""
        ...

    def classifier(self, record: Any) -> Classifier:
        """The trained classifier behind a cell's record."""
        ...


class Figures(Plugin):
    """The figures of one paper, drawn anew from toys made on the spot and from a finished run.

    A panel is drawn or skipped as a whole: a figure ('4'), or some panels of one ('3ab').
    """

    panels: ClassVar[Mapping[str, str]] = {}
    """Number, with letters where a figure is drawn in parts -> title, in the paper's order."""
    RENAMED: ClassVar[Mapping[str, str]] = {"plates": "this name was replaced; write `panels`."}
    from_run: ClassVar[frozenset[str]] = frozenset()
    """The panels that are drawn from a run."""
    suites: ClassVar[tuple[str, ...]] = ()
    """The suites whose runs serve where none is named, the best first."""

    def missing(self, panel: str, inputs: FigureInputs) -> str | None:
        """Say why a panel cannot be drawn, before any work; None, the default, if it can.

        Panels of `from_run` are asked about only where there is a run.
        """
        return None

    def draw(self, panel: str, inputs: FigureInputs) -> Iterator[Picture]:
        """Draw one panel; the same seed and inputs give the same bytes."""
        raise NotImplementedError
