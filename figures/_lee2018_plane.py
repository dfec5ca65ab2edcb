"""Figures 1 and 3 (a, b) of Lee et al. (ICLR 2018): classifier and GANs on two Gaussians in the plane."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

from oodbench.benchmark import Picture
from oodbench.benchmark.seeds import derive
from oodbench.benchmark.views import _canvas as canvas
from oodbench.benchmark.views._canvas import Margins
from oodbench.detectors._dcgan import noise
from oodbench.detectors.confidence import ConfidenceLoss
from oodbench.detectors.gan_confidence import GAN
from oodbench.figures._lee2018_toys import (
    GuidedGAN,
    Plane,
    Points,
    Scaled,
    drawn_from,
    perceptron,
    plane_gan,
    probabilities,
    trained,
)

BLUE, RED, GREEN = "#3B4CC0", "#B40426", "#2E8B57"
"""The two classes in the ends of matplotlib's 'coolwarm', and the outliers."""

FIGURE1 = Plane(((-5.0, -5.0), (5.0, 5.0)), sd=2.0, box=50.0)
POINTS, OUTLIERS, RADIUS, NEAR_BOX = 500, 100, 3.0, 20.0
STEPS1, BATCH1, RATE1, SCALE1 = 2000, 100, 0.001, 10.0
CELLS = 251


class Toy1(ConfidenceLoss):
    """The confidence loss; a name of its own keeps the settings in one place."""


def figure1(seed: int, steps: int = STEPS1) -> Picture:
    """Outliers and decision confidence: outliers of the whole box above, of the near box below."""
    points, labels = FIGURE1.draw(POINTS, np.random.default_rng(derive(seed, "figure 1", "points")))
    margins = Margins(0.55, 1.0, 0.5, 0.45, across=0.55, down=0.5)
    figure, axes = canvas.grid(2, 2, (2.3, 2.3), margins)
    told = []
    for row, half_side in enumerate((FIGURE1.box, NEAR_BOX)):
        random = np.random.default_rng(derive(seed, "figure 1", "outliers", half_side))
        outliers = FIGURE1.outliers(OUTLIERS, half_side, RADIUS, random)
        classifier = _plane_classifier(points, labels, outliers, 500, SCALE1, steps, seed)
        _scatter(axes[row][0], points, labels, outliers)
        image = _confidence(axes[row][1], classifier)
        told.append(_told1(classifier, "(b)" if row == 0 else "(d)", seed))
        for panel, name in zip(axes[row], ("ac", "bd")[0], strict=False):
            panel.set_title(name)
    return Picture("figure1", figure, "\n".join(told))
