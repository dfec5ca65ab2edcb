"""Figure 3 (c, d) of Lee et al. (ICLR 2018) at a reduced size: samples of the original and proposed DCGAN on MNIST."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor, nn

from oodbench.benchmark import FigureInputs, Picture
from oodbench.benchmark.plugins.specs import create, parse_set, parse_spec
from oodbench.benchmark.stats.seeds import derive
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins
from oodbench.detectors import _dcgan
from oodbench.detectors._confidence_loss import kl_to_uniform
from oodbench.detectors.confidence import ConfidenceLoss
from oodbench.detectors.cross_entropy import CrossEntropy
from oodbench.detectors.gan_confidence import GAN
from oodbench.figures._lee2018_text import filled
from oodbench.figures._lee2018_toys import GuidedGAN, drawn_from, trained

SET = "mnist"
SHOWN = 8
"""Number of rows and of columns of samples."""
MEASURED = 1000
"""Number of images that the caption's numbers are computed from."""


class Setting(NamedTuple):
    """The settings of the reduced experiment."""

    width: int = 16
    """Width of the DCGAN; that of the released script is 128."""
    steps: int = 1200
    classifier_steps: int = 400
    batch: int = 64
    beta: float = 1.0
    generator_rate: float = 0.001
    discriminator_rate: float = 0.0005
    backbone: str = "small_cnn[width=16,hidden=64]"


class Responses(NamedTuple):
    """How two classifiers respond to a set of images: the guiding one, and a judge trained with cross-entropy only."""

    kl: float
    """Mean KL(U || p) under the guiding classifier, in nats; 0 if it is undecided."""
    confident: float
    """Share of images on which the judge's maximum softmax exceeds 0.9."""


def missing3cd(inputs: FigureInputs) -> str | None:
    """Which files are missing, or None."""
    reason: str | None = inputs.library.missing(parse_set(SET))
    return reason


def figure3cd(inputs: FigureInputs, setting: Setting | None = None) -> Picture:
    """64 samples of each generator."""
    s, seed = setting or Setting(), inputs.seed
    images, labels = _grey(inputs.images(SET, "train").images), inputs.images(SET, "train").labels
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    guide, judge = (_classifier(s, recipe, images, targets, seed) for recipe in (ConfidenceLoss(), CrossEntropy()))
    rates: dict[str, Any] = {
        "generator_learning_rate": s.generator_rate,
        "discriminator_learning_rate": s.discriminator_rate,
    }
    recipes = (GAN(width=s.width, **rates), GuidedGAN(width=s.width, beta=s.beta, **rates))
    samples = [_samples(s, recipe, images, targets, guide, seed) for recipe in recipes]
    responses = [_responses(drawn, guide, judge) for drawn in samples]
    test = inputs.images(SET)
    held_out = _floats(_grey(test.images))
    responses.append(_responses(held_out[:MEASURED], guide, judge))
    accuracy = float((_logits(guide, held_out).argmax(dim=1).numpy() == test.labels).mean())
    figure, (axes,) = canvas.grid(1, 2, (2.4, 2.4), FigureMargins(0.15, 0.15, 0.5, 0.12, across=0.25))
    for panel, name, drawn in zip(axes, ("(c) original GAN", "(d) proposed GAN"), samples, strict=True):
        _mosaic(panel, drawn[: SHOWN**2, 0].numpy())
        panel.set_title(name, pad=4)
    canvas.title(figure, "What each DCGAN draws after MNIST")
    return Picture("figure3cd", figure, _caption(s, responses, accuracy, len(images), seed))


def _grey(images: NDArray[np.uint8]) -> Tensor:
    """Grey images, or the first of three equal channels, uint8 (N, 1, 32, 32)."""
    return torch.from_numpy(np.ascontiguousarray(images[:, :1]))


def _floats(images: Tensor) -> Tensor:
    return images.float() / 255


def gaussian_noise(count: int, random: torch.Generator) -> Tensor:
    """N(0.5, 1) per pixel, clamped to [0, 1]: the synthetic outliers of the authors' script, (count, 1, 32, 32)."""
    return (torch.randn(count, 1, 32, 32, generator=random) + 0.5).clamp(0, 1)


def _classifier(s: Setting, recipe: CrossEntropy, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    build = lambda: {"classifier": create("backbone", parse_spec(s.backbone)).build(10, (1, 32, 32))}  # noqa: E731
    names = ("figure 3", "mnist", recipe.name)  # different seeds, so that judge and guide start from different weights
    draw = drawn_from(images, labels, gaussian_noise, s.batch)
    batches = lambda random: (batch := draw(random))._replace(images=_floats(batch.images))  # noqa: E731
    return trained(recipe, build, batches, s.classifier_steps, derive(seed, *names))["classifier"]


def _samples(s: Setting, recipe: GAN, images: Tensor, labels: Tensor, guide: nn.Module, seed: int) -> Tensor:
    """Images in [0, 1], (MEASURED, 1, 32, 32), of a generator trained on all images."""
    draw = drawn_from(images, labels, None, s.batch)
    batches = lambda random: (batch := draw(random))._replace(images=_floats(batch.images))  # noqa: E731
    build = lambda: _dcgan.gan_networks(s.width, (1, 32, 32))  # noqa: E731
    seed = derive(seed, "figure 3", "mnist", "gan")
    networks = trained(recipe, build, batches, s.steps, seed, {"classifier": guide})
    return _dcgan.picture(networks["generator"], torch.Generator().manual_seed(derive(seed, "samples")), MEASURED)


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(part) for part in images.split(500)]).double()


def _responses(images: Tensor, guide: nn.Module, judge: nn.Module) -> Responses:
    best = torch.softmax(_logits(judge, images), dim=1).amax(dim=1)
    return Responses(float(kl_to_uniform(_logits(guide, images)).mean()), float((best > 0.9).double().mean()))


def _mosaic(panel: Axes, images: NDArray[np.float32]) -> None:
    """Draw (64, 32, 32) images in rows of eight, with white lines between them."""
    side = images.shape[1] + 1
    sheet = np.ones((SHOWN * side - 1, SHOWN * side - 1), dtype=np.float32)
    for i, image in enumerate(images):
        y, x = divmod(i, SHOWN)
        sheet[y * side : y * side + side - 1, x * side : x * side + side - 1] = image
    panel.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    panel.set_axis_off()


def _verdict(original: Responses, proposed: Responses) -> str:
    if proposed.confident < original.confident:
        return (
            "As in the paper, samples of the proposed GAN are less like digits, and some of them are new digit-like "
            "images."
        )
    return "Unlike in the paper, samples of the proposed GAN are not less like digits with this seed."


def _caption(s: Setting, responses: list[Responses], accuracy: float, images: int, seed: int) -> str:
    original, proposed, real = responses
    return filled(f"""\
Samples of DCGANs trained on MNIST: (c) the original GAN, (d) the proposed one, whose generator minimises the
GAN loss plus beta KL(U || p(y|x)) under a fixed classifier, pre-trained with cross-entropy on MNIST and KL to
uniform on Gaussian noise. 64 samples each, not selected.

{images:,} training images of MNIST (a tenth is held out), resized to 32 x 32, one channel. The experiment is reduced
so that it takes minutes on one
core: DCGAN of width {s.width} (128 in the released script), {s.steps:,} steps of {s.batch}; classifier
`{s.backbone}`, {s.classifier_steps} steps, test accuracy {accuracy:.1%}. Chosen here: beta {s.beta:g}, Adam at
{s.generator_rate:g} (generator) and {s.discriminator_rate:g} (discriminator), betas (0.5, 0.999), no pull-away
term. The paper gives no numbers for this figure. Seed {seed}.

Measured on {MEASURED:,} samples each, and on the same number of test digits: mean KL(U || p) under the fixed classifier
{original.kl:.2f} nats (original), {proposed.kl:.2f} (proposed), {real.kl:.2f} (test digits); share of images for which
a second network, trained with cross-entropy only, has a maximum softmax above 0.9:
{original.confident:.0%}, {proposed.confident:.0%}, {real.confident:.0%}. {_verdict(original, proposed)}
""")
