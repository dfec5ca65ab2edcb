"""Does confidence vanish far from the data? The 2-D toys of Lee et al. (2018) under the criticism of Vernekar et al."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from oodbench.benchmark import FigureInputs, Figures, Picture, figure
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins
from oodbench.detectors.reject_class import PAPER
from oodbench.figures._lee2018_text import filled
from oodbench.figures._vernekar2019_plane import (
    DIRECTIONS,
    RADII,
    SURE,
    Measured,
    Setting,
    Trained,
    circle,
    measured,
    methods,
    train_all,
)

CELLS = 161
"""Cells of a map along each axis."""
DISTANCES = np.geomspace(3, 1000, 41)
"""Radii of the curves, in standard deviations."""


def figure1(seed: int, setting: Setting | None = None) -> Iterator[Picture]:
    """Maps of the confidence near and far, and the share of directions that stay confident by distance."""
    s = setting or Setting()
    made = train_all(s, seed)
    numbers = {name: measured(s, one, seed) for name, one in made.items()}
    caption = _caption(s, numbers, seed)
    yield Picture("figure1_maps", _maps(s, made), caption)
    yield Picture("figure1_distance", _curves(s, made), _of_curves(seed))


def _maps(s: Setting, made: Mapping[str, Trained]) -> Figure:
    halves = (s.plane.box, s.far)
    wide = -(-len(made) // 2)
    drawing, axes = canvas.grid(4, wide, (1.35, 1.35), FigureMargins(0.62, 0.8, 0.6, 0.1, across=0.12, down=0.36))
    for place, (name, one) in enumerate(made.items()):
        band, column = divmod(place, wide)
        for row, half in enumerate(halves):
            panel = axes[2 * band + row][column]
            image = _map(panel, one, half)
            if row == 0:
                panel.set_title(methods(s)[name].title)
            if column == 0:
                panel.set_yticks([-half, 0, half])
                panel.set_ylabel("x\N{SUBSCRIPT TWO}", labelpad=0)
    for unused in range(len(made), 2 * wide):
        for row in range(2):
            axes[2 * (unused // wide) + row][unused % wide].set_visible(False)
    beside, width = axes[0][wide - 1].get_position(), drawing.get_figwidth()
    bar = drawing.add_axes((beside.x1 + 0.12 / width, beside.y0, 0.1 / width, beside.height))
    drawing.colorbar(image, cax=bar, ticks=[0, 0.5, 0.75, 1])
    bar.set_ylabel("largest p of a class", labelpad=1)
    canvas.title(drawing, "Confidence near two Gaussians and far away, by how the classifier is trained")
    return drawing


def _map(panel: Axes, one: Trained, half: float) -> AxesImage:
    ticks = np.linspace(-half, half, CELLS)
    across, up = np.meshgrid(ticks, ticks)
    confidence, _, _ = one.judged(np.stack([across.ravel(), up.ravel()], axis=1))
    edge = half * (1 + 1 / (CELLS - 1))
    image = panel.imshow(
        confidence.reshape(CELLS, CELLS), cmap="cividis", vmin=0, vmax=1, origin="lower",
        extent=(-edge, edge, -edge, edge),
    )  # fmt: skip
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(True)
    return image


def _curves(s: Setting, made: Mapping[str, Trained]) -> Figure:
    titles = [method.title.replace("\n", " ") for method in methods(s).values()]
    margins = FigureMargins(0.55, canvas.legend_inches(titles) + 0.2, 0.45, 0.45)
    drawing, ((panel,),) = canvas.grid(1, 1, (3.6, 2.6), margins)
    lines = []
    for one, look in zip(made.values(), canvas.looks(titles).values(), strict=True):
        shares = [float((one.judged(circle(s.plane, radius))[0] > SURE).mean()) for radius in DISTANCES]
        lines += panel.plot(DISTANCES, np.multiply(shares, 100), color=look.colour, linestyle=look.dash, linewidth=1.3)
    panel.set(xscale="log", xlim=(DISTANCES[0], DISTANCES[-1]), ylim=(-3, 103))
    panel.set_xlabel("distance from the middle, in standard deviations")
    panel.set_ylabel(f"directions with p > {SURE:g} (%)")
    canvas.legend_beside(drawing, panel, lines, titles)
    canvas.title(drawing, "Does confidence vanish far from the data?")
    return drawing


def _percent(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.1%}" for value in values)


def _caption(s: Setting, numbers: Mapping[str, Measured], seed: int) -> str:
    titles = {name: method.title.replace("\n", " ") for name, method in methods(s).items()}
    lines = [
        f"- {titles[name]}: accuracy {one.accuracy:.1%}; confident directions {_percent(one.confident)}; "
        f"AUROC {_percent(one.auroc)}"
        for name, one in numbers.items()
    ]
    at = ", ".join(f"{radius:g}" for radius in RADII)
    return filled(f"""\
The largest probability of a class over the plane, for classifiers of two Gaussians: above, in the box
[-{s.plane.box:g}, {s.plane.box:g}]^2; below it, in [-{s.far:g}, {s.far:g}]^2. Both axes
have the same scale. With a reject class the probabilities are
those of K + 1 classes, so that a point that is rejected has none.

Box and ring: {s.outliers:,} outliers, uniform in that box at least {s.radius:g} standard deviations from both means, or
from {s.radius:g} to {s.ring:g} standard deviations from the nearest. GANs: trained together with the classifier
(joint, entropy); joint's, frozen; or the proposed GAN of Lee et al., whose generator is held against the fixed
classifier "confidence loss, box", as in their figure 3 (b), with beta {s.beta:g}.

Chosen here: means {s.plane.means[0]} and {s.plane.means[1]}, covariance {s.plane.sd:g}^2 I, {s.points:,} points per
class; ReLU networks with two hidden layers of {s.hidden}; {s.steps:,} steps of {s.batch} points and as many outliers;
Adam at 0.001 (classifiers), {s.generator_rate:g} (generators) and {s.discriminator_rate:g} (discriminators); all
weights of losses 1; ASCOOD moves points by their whole gradient times {s.alpha:g}; coordinates are divided by
{s.scale:g} before the first layer. Seed {seed}.

Measured on 2,000 fresh points, and on {DIRECTIONS} points of circles with radii of {at} standard deviations around the
middle of both classes: accuracy; the share of the circle where the largest probability of a class exceeds {SURE:g}; and
the AUROC of the method's score (MSP, or the log odds of the reject class), fresh points against the circle:

{chr(10).join(lines)}

A ReLU network is linear in each direction from some distance on. Its logits then grow without bound, and the largest
class probability tends to 1 unless two of the growing logits are equal: outliers in a bounded region cannot
change that. With a reject class it is enough that the rejecting logit grows fastest.
""")


def _of_curves(seed: int) -> str:
    return filled(f"""\
The share of {DIRECTIONS} directions in which the largest probability of a class exceeds {SURE:g}, by the distance from
the middle of both classes: the classifiers of `figure1_maps`, whose caption has the settings. Seed {seed}.
""")


@figure("vernekar2019", title="Confidence far from the data", paper=PAPER)
class Vernekar2019(Figures):
    """A toy experiment, drawn on demand: what the paper argues, for the classifiers of `detectors/`."""

    panels = {"1": "Confidence far from two Gaussians, by how the classifier is trained"}

    def draw(self, panel: str, inputs: FigureInputs) -> Iterator[Picture]:
        """Draw the maps and the curves."""
        yield from figure1(inputs.seed)
