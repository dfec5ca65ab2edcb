"""Figure 3 (a, b) of Lee et al. (ICLR 2018): the original GAN samples the density, the proposed one its boundary."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import nn

from oodbench.benchmark import Picture
from oodbench.benchmark.stats.seeds import derive
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins
from oodbench.detectors._dcgan import noise
from oodbench.detectors.confidence import ConfidenceLoss
from oodbench.detectors.gan_confidence import GAN
from oodbench.figures._lee2018_text import filled
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

SAMPLE = "#C1121F"
CORE, RING = 2.0, 5.0
"""Radii in standard deviations from the nearest mean: 86% of the density is within CORE; the ring is CORE to RING."""


class Setting(NamedTuple):
    """The settings of the figure; the paper does not give most of them."""

    plane: Plane = Plane(((-2.5, 0.0), (2.5, 0.0)), sd=1.0, box=10.0)
    points: int = 2000
    outliers: int = 4000
    radius: float = 3.0
    classifier_hidden: int = 64
    classifier_steps: int = 1500
    classifier_batch: int = 100
    hidden: int = 64
    steps: int = 3000
    batch: int = 128
    generator_rate: float = 0.0005
    discriminator_rate: float = 0.002
    beta: float = 1.5
    scale: float = 3.0
    shown: int = 1000


def figure3ab(seed: int, setting: Setting | None = None) -> Picture:
    """Samples of both GANs over the density of the points that they are trained on."""
    s = setting or Setting()
    points, labels = s.plane.draw(s.points, np.random.default_rng(derive(seed, "figure 3", "points")))
    classifier = _classifier(s, points, torch.from_numpy(labels), seed)
    rates: dict[str, Any] = {
        "generator_learning_rate": s.generator_rate,
        "discriminator_learning_rate": s.discriminator_rate,
    }
    recipes = (GAN(**rates), GuidedGAN(beta=s.beta, **rates))
    samples = [_samples(s, recipe, points, torch.from_numpy(labels), classifier, seed) for recipe in recipes]
    figure, (axes,) = canvas.grid(1, 2, (2.5, 2.5), FigureMargins(0.5, 0.2, 0.72, 0.42, across=0.4))
    for panel, name, drawn in zip(axes, ("(a) original GAN", "(b) proposed GAN"), samples, strict=True):
        _panel(panel, s.plane, points, drawn)
        panel.set_title(name)
        panel.set_xlabel("x\N{SUBSCRIPT ONE}")
    axes[0].set_ylabel("x\N{SUBSCRIPT TWO}", labelpad=0)
    marks = [Patch(facecolor="#8C8C8C"), Line2D([], [], color=SAMPLE, marker="o", linestyle="", markersize=3)]
    left, top = 0.42 / figure.get_figwidth(), 1 - 0.36 / figure.get_figheight()
    layout: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (left, top), "ncols": 2, "handlelength": 1.2}
    figure.legend(marks, ["in-distribution points, density", f"{s.shown:,} samples of the generator"], **layout)
    canvas.title(figure, "What each GAN draws around a mixture of two Gaussians")
    return Picture("figure3ab", figure, _caption(s, points, samples, classifier, seed))


def _classifier(s: Setting, points: Points, labels: torch.Tensor, seed: int) -> dict[str, nn.Module]:
    """A classifier trained with CE on the points and KL to uniform on rejection samples of the box; then fixed."""
    random = np.random.default_rng(derive(seed, "figure 3", "outliers"))
    outliers = torch.from_numpy(s.plane.outliers(s.outliers, s.plane.box, s.radius, random)).float()
    return trained(
        ConfidenceLoss(),
        lambda: {"classifier": nn.Sequential(Scaled(s.scale), *perceptron(2, s.classifier_hidden, 2))},
        drawn_from(torch.from_numpy(points).float(), labels, outliers, s.classifier_batch),
        s.classifier_steps,
        derive(seed, "figure 3", "classifier"),
    )


@torch.no_grad()
def _samples(
    s: Setting, recipe: GAN, points: Points, labels: torch.Tensor, classifier: dict[str, nn.Module], seed: int
) -> Points:
    with torch.enable_grad():
        networks = trained(
            recipe,
            lambda: plane_gan(s.hidden, s.scale),
            drawn_from(torch.from_numpy(points).float(), labels, None, s.batch),
            s.steps,
            derive(seed, "figure 3", "gan"),
            classifier,
        )
    z = noise(s.shown, torch.Generator().manual_seed(derive(seed, "figure 3", "samples")))
    drawn: Points = networks["generator"](z).double().numpy()
    return drawn


def _panel(panel: Axes, plane: Plane, points: Points, drawn: Points) -> None:
    half = plane.box
    edges = np.linspace(-half, half, 61)
    count, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=[edges, edges])
    image = np.ma.masked_equal(count.T, 0)
    panel.imshow(image, cmap="Greys", vmin=-0.3 * count.max(), origin="lower", extent=(-half, half, -half, half))
    panel.plot(*drawn.T, ".", color=SAMPLE, markersize=1.9, markeredgewidth=0, alpha=0.75)
    panel.set(xlim=(-half, half), ylim=(-half, half), xticks=[-half, -half / 2, 0, half / 2, half])
    panel.set_yticks([-half, -half / 2, 0, half / 2, half])
    panel.spines[:].set_visible(True)


def parts(plane: Plane, drawn: Points) -> tuple[float, float, float, float]:
    """Shares of points within CORE, in the ring and outside it, and the median log density in nats."""
    distance = plane.distance(drawn)
    core, outside = float((distance < CORE).mean()), float((distance > RING).mean())
    return core, 1 - core - outside, outside, float(np.median(plane.log_density(drawn)))


def around(plane: Plane, drawn: Points) -> float:
    """Share of the 24 sectors (twelve of 30 degrees around each mean) with at least one point in the ring."""
    offsets = drawn[:, None, :] - np.array(plane.means)
    nearest = np.linalg.norm(offsets, axis=2).argmin(axis=1)
    angles = np.arctan2(*offsets[np.arange(len(drawn)), nearest].T[::-1])
    sectors = nearest * 12 + np.floor((angles + np.pi) / (2 * np.pi) * 12).astype(int) % 12
    distance = plane.distance(drawn)
    return len(np.unique(sectors[(distance >= CORE) & (distance <= RING)])) / 24


def _verdict(plane: Plane, samples: list[Points]) -> str:
    original, proposed = (parts(plane, drawn)[1] for drawn in samples)
    if original < 0.5 < min(proposed, around(plane, samples[1])):
        return "As in the paper, the original GAN covers the region of high density, and the proposed one its boundary."
    return (
        "Unlike in the paper, with this seed the two GANs do not divide into one that covers the region of high "
        "density and one that covers its boundary."
    )


def _caption(s: Setting, points: Points, samples: list[Points], classifier: dict[str, nn.Module], seed: int) -> str:
    measured = []
    for name, drawn in zip(("the points themselves", "original", "proposed"), (points, *samples), strict=True):
        core, ring, outside, density = parts(s.plane, drawn)
        confidence = float(np.median(probabilities(classifier["classifier"], drawn).max(axis=1)))
        measured.append(
            f"- {name}: {core:.0%} within {CORE:g} sd of a mean, {ring:.0%} from {CORE:g} to {RING:g} sd, "
            f"{outside:.0%} farther away; median log density {density:.1f}; median confidence of the classifier "
            f"{confidence:.2f}; {around(s.plane, drawn):.0%} of 24 sectors of the ring contain a sample"
        )
    return filled(f"""\
Samples of two GANs (red) over the density of the points that both are trained on (grey): (a) the original GAN,
(b) the proposed one, whose generator minimises the GAN loss plus beta KL(U || p(y|x)) under a fixed classifier.
The classifier was pre-trained with cross-entropy on the points and KL to uniform on rejection samples
of the box [-{s.plane.box:g}, {s.plane.box:g}]^2.

Given in the paper: a mixture of two Gaussians, networks with two hidden layers, the fixed pre-trained
classifier, a bounded box. Chosen here: means {s.plane.means[0]} and {s.plane.means[1]}, covariance
{s.plane.sd:g}^2 I, {s.points:,} points per class; the box; outliers rejected within {s.radius:g} standard
deviations of a mean; hidden layers of {s.hidden} (GAN) and {s.classifier_hidden} (classifier); {s.steps:,}
steps of {s.batch}; Adam at {s.generator_rate:g} (generator) and {s.discriminator_rate:g} (discriminator), betas
(0.5, 0.999); beta {s.beta:g}; no pull-away term (the submission's eq. 3
has one, the released script does not).
Seed {seed}.

Measured:

{chr(10).join(measured)}

{_verdict(s.plane, samples)} Such small GANs are unstable: the
settings were chosen by eye after about twenty trials, in several of which the proposed GAN
collapsed to one spot of the
boundary or a GAN missed one of the classes.
""")
