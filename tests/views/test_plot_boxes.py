"""No text of a picture is cut or lies over another, and legends are whole, for any number of detectors with long names.

Measured from the figure's own renderer: the boxes of all texts that it draws, of legends and of axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.views.plots import draw as plots
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.options import Options
from oodbench.benchmark.views.plots.page import Size
from oodbench.benchmark.views.summary import Block, Summary
from tests.support import summary_from

SETS = (("svhn", "near", False), ("tiny-imagenet[0-99]+cropped", "near", True), ("gaussian", "far", False))
COLUMN = Size(3.3, exact=True)
"""The width of a column of a paper, in inches."""

TOLERANCE = 1.5
"""Pixels of 160 per inch: boxes of text include the space between lines, so that glyphs do not touch."""


def name(place: int) -> str:
    """A detector's name of 40 characters."""
    names = (
        f"mahalanobis[layers=all,shrinks=0.{place:03}]@oe",
        f"relative_mahalanobis_of_features_v_{place:05}",
        f"gradient-norm-of-the-last-layer-nr-{place:05}",
        f"AVeryLongNameWithoutAnyPlaceToBreakAt{place:03}",
    )
    text = names[place % len(names)]
    assert len(text) == 40
    return text


class FakeScores:
    """Scores of every cell, drawn from its place; one detector's are all equal, another's far apart."""

    def read(self, block: Block, label: str, ood_set: str) -> tuple[Any, Any] | str:
        place = [row.label for row in block.rows].index(label)
        return pair(place, [ood.name for ood in block.sets].index(ood_set))


def pair(place: int, ood: int) -> tuple[Any, Any]:
    random = np.random.default_rng([place, ood])
    known, other = random.normal(0, 1, 60), random.normal(0.5 + place % 5 + ood, 1, 40)
    if place % 7 == 2:
        return 1e-5 * np.exp(known), 1e5 * np.exp(2 * other)
    return (known, other) if place % 7 != 3 else (np.zeros(9), np.zeros(8))


def a_summary(rows: int, id_sets: tuple[str, ...] = ("digits[0-6]",)) -> Summary:
    """Records of made-up detectors; one cell failed, and one row is marked as seen."""
    records = []
    for id_set in id_sets:
        for place in range(rows):
            for ood, (ood_set, group, source) in enumerate(SETS):
                failed = (place, ood) == (1, 0)
                metrics = {} if failed else evaluate(*pair(place, ood))
                ends = {k: (max(v - 0.05, 0.0), min(v + 0.03, 1.0)) for k, v in metrics.items()}
                records.append(
                    Record(
                        id_set=id_set,
                        ood_set=ood_set,
                        group=group,
                        outlier_source=source,
                        seen=source and place == 0,
                        detector="d",
                        settings={},
                        recipe="plain",
                        recipe_settings={},
                        backbone="small_cnn",
                        seed=0,
                        label=name(place),
                        status="failed" if failed else "ok",
                        metrics=metrics,
                        intervals=ends,
                    )
                )
    return summary_from(records)


def texts_drawn(figure: Figure) -> list[Text]:
    """The texts that are drawn, in a drawing without pixels."""
    found: list[Text] = []
    original = Text.draw

    def noting(self: Text, renderer: Any) -> None:
        if self.get_visible() and self.get_text():
            found.append(self)
        original(self, renderer)

    figure.dpi = 160
    FigureCanvasAgg(figure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noting)
        figure.draw_without_rendering()
    return found


def problems(figure: Figure) -> Iterator[str]:
    """What is cut, and what lies over what."""
    texts = texts_drawn(figure)
    legends = [found for found in figure.findobj(Legend) if isinstance(found, Legend)]
    framed = [axes for axes in figure.axes if axes.axison]
    names = [repr(text.get_text()) for text in texts] + ["legend"] * len(legends) + ["axes"] * len(framed)
    boxes = np.array([found.get_window_extent().extents for found in (*texts, *legends, *framed)])
    width, height = figure.get_size_inches() * 160
    room = np.minimum(boxes[:, :2], [width, height] - boxes[:, 2:]).min(axis=1)
    yield from (f"cut: {names[i]} {boxes[i]}" for i in np.flatnonzero(room < -TOLERANCE))
    own = {id(text) for legend in legends for text in legend.get_texts()}
    legend_texts = np.array([id(text) in own for text in texts] + [False] * (len(legends) + len(framed)))
    kinds = np.array([0] * len(texts) + [1] * len(legends) + [2] * len(framed))
    shared = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    for i, j in zip(*np.nonzero(np.triu(shared.min(axis=2) > TOLERANCE, 1)), strict=True):
        of_a_legend = kinds[j] == 1 and legend_texts[i]
        in_axes = kinds[j] == 2 and kinds[i] == 0 and not legend_texts[i]
        if not of_a_legend and not in_axes:
            yield f"{names[i]} over {names[j]}: {boxes[i]} {boxes[j]}"


def figures(summary: Summary, kind: str, options: Options) -> list[Figure]:
    filled = replace(options, looks=plots.looks_of(summary, options))
    return [make() for _, make in plots.pictures(summary, FakeScores(), filled, (kind,))]


SIZES = {"default": Size(), "column": COLUMN}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut_with_a_logarithmic_axis_and_many_id_sets(size: str) -> None:
    with canvas.styled():
        summary = a_summary(5, ("digits[0-6]", "a-folder-of-photographs/with-a-long-name", "x"))
        for kind in ("roc", "heatmap", "bars"):
            for figure in figures(summary, kind, Options(size=SIZES[size], log_fpr=True, seeds=3)):
                assert [*problems(figure)] == []


@pytest.mark.parametrize("rows", [3, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (12, 60))])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", plots.KINDS)
def test_nothing_is_cut_and_no_text_lies_over_another(kind: str, size: str, rows: int) -> None:
    with canvas.styled():
        drawn = figures(a_summary(rows), kind, Options(size=SIZES[size], remark="quick look: training shortened"))
        assert drawn
        for figure in drawn:
            assert [*problems(figure)] == []
            assert figure.get_figwidth() <= SIZES[size].width
            assert min(float(text.get_fontsize()) for text in texts_drawn(figure)) >= 8
