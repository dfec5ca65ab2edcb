"""Figure 5 of Lee et al. (ICLR 2018): guided-gradient maps of ID and OOD images under the four losses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from oodbench.benchmark import FigureInputs, ImageSet, Picture
from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.store.atomic import slug
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.style import FigureMargins
from oodbench.benchmark.views.summary import Block
from oodbench.figures._lee2018_losses import LOSSES, describe_run, first_records, lacking, measured, served
from oodbench.figures._lee2018_text import filled

Maps = NDArray[np.float32]
"""Guided-gradient maps, (N, H, W)."""

MEASURED = 100
"""Number of images per set that the caption's numbers and the maps' brightness are computed from."""
ID_SHOWN, OOD_SHOWN, OOD_SETS = 4, 2, 4
LABELS = [loss.label for loss in LOSSES]


class _GuidedStep(torch.autograd.Function):
    """ReLU whose backward pass lets through only positive gradients, where its input was positive."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        """max(x, 0)."""
        outputs = inputs.clamp(min=0)
        ctx.save_for_backward(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """g [g > 0] [x > 0]."""
        (outputs,) = ctx.saved_tensors
        passed: Tensor = gradients[0].clamp(min=0) * (outputs > 0)
        return passed


class GuidedReLU(nn.Module):
    """ReLU with the guided backward pass of Springenberg et al. (2015), "Striving for Simplicity", section 3.4."""

    def forward(self, inputs: Tensor) -> Tensor:
        """max(x, 0)."""
        outputs: Tensor = _GuidedStep.apply(inputs)
        return outputs


def guided(network: nn.Module) -> nn.Module:
    """A copy of a network, in evaluation mode, with every `nn.ReLU` replaced; the network itself is unchanged.

    Raises `PluginError` if it has no `nn.ReLU` modules.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    found = [(parent, name) for parent in copied.modules() for name, m in parent.named_children() if type(m) is nn.ReLU]
    if not found:
        raise PluginError(f"{type(network).__name__} has no nn.ReLU modules, which guided gradients need.")
    for parent, name in found:
        setattr(parent, name, GuidedReLU())
    return copied


def guided_gradients(network: nn.Module, images: Tensor) -> Maps:
    """Largest |guided gradient| of each image's top logit over the channels: (N, C, H, W) in [0, 1] -> (N, H, W)."""
    inputs = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        top = guided(network)(inputs).amax(dim=1).sum()
        (gradients,) = torch.autograd.grad(top, inputs)
    maps: Maps = gradients.abs().amax(dim=1).numpy()
    return maps


def picked(images: ImageSet, count: int) -> NDArray[np.intp]:
    """Which images to show: the middle one of each of `count` evenly spread classes, or else evenly spread images."""
    if images.labels is None or len(images.classes) < count:
        return spread(count, len(images))
    rows = [np.flatnonzero(images.labels == k) for k in spread(count, len(images.classes))]
    return np.array([of_class[len(of_class) // 2] for of_class in rows if len(of_class)], dtype=np.intp)


def spread(count: int, of: int) -> NDArray[np.intp]:
    """`count` positions spread evenly over `of` images (all of them if there are fewer), away from both ends."""
    count = min(count, of)
    return ((np.arange(count) + 0.5) * of / count).astype(np.intp)


class Column(NamedTuple):
    """One set in the figure: its images and, by loss, their maps and statistics of the maps of more images."""

    name: str
    images: NDArray[np.uint8]
    """The images shown, (N, C, H, W)."""
    shown: dict[str, Maps]
    """Label of a loss -> the maps of the images shown, (N, H, W)."""
    sizes: dict[str, NDArray[np.float64]]
    """Label of a loss -> mean of the map of each of the `MEASURED` images, (M,)."""
    high: dict[str, float]
    """Label of a loss -> the 99th percentile of the map values of the `MEASURED` images."""


def missing5(inputs: FigureInputs) -> str | None:
    """Why Figure 5 cannot be drawn from the run."""
    if reason := lacking(inputs, LABELS):
        return reason
    for block, rows in served(inputs, LABELS):
        for record in first_records(inputs, block).values():
            if isinstance(reason := inputs.checkpoint(record), str):
                return f"{reason}. Repeat the command that made the run."
        for name in measured(block, rows[LABELS[0]])[:OOD_SETS]:
            inputs.images(name)  # raises an error for missing images
    return None


def figure5(inputs: FigureInputs) -> Iterator[Picture]:
    """One picture per ID set: images in the first row, their maps under each loss below; ID left, OOD right."""
    for block, rows in served(inputs, LABELS):
        records = first_records(inputs, block)
        names = measured(block, rows[LABELS[0]])[:OOD_SETS]
        columns = [_column(inputs, records, block.id_set, ID_SHOWN)]
        columns += [_column(inputs, records, name, OOD_SHOWN) for name in names]
        caption = _caption(inputs, block, columns)
        yield Picture(f"figure5_{slug(block.id_set)}", _draw(block, columns), caption)


def _column(inputs: FigureInputs, records: dict[str, Record], name: str, count: int) -> Column:
    images = inputs.images(name)
    chosen, some = images.images[picked(images, count)], images.images[spread(MEASURED, len(images))]
    shown, sizes, high = {}, {}, {}
    for label, record in records.items():
        network, channels = inputs.classifier(record).network, record.channels or images.image_shape[0]
        shown[label] = guided_gradients(network, _floats(chosen, channels))
        maps = guided_gradients(network, _floats(some, channels))
        sizes[label] = maps.astype(np.float64).mean(axis=(1, 2))
        high[label] = float(np.quantile(maps, 0.99))
    return Column(name, chosen, shown, sizes, high)


def _floats(images: NDArray[np.uint8], channels: int) -> Tensor:
    """uint8 (N, C, H, W) -> float32 in [0, 1] in a network's channels."""
    return torch.from_numpy(np.array(in_channels(images, channels), order="C")).float() / 255


def _draw(block: Block, columns: list[Column]) -> Figure:
    side, gap, between = 0.56, 0.04, 0.16
    left, top = 1.25, 0.66
    counts = [len(column.images) for column in columns]
    inside = sum(counts) * side + (sum(counts) - len(counts)) * gap + (len(counts) - 1) * between
    rows = len(LOSSES) + 1
    below = rows * side + (rows - 1) * gap
    figure, ((panel,),) = canvas.grid(1, 1, (inside, below), FigureMargins(left, 0.12, top, 0.12))
    panel.set(xlim=(0, inside), ylim=(below, 0))
    panel.set_axis_off()
    x = 0.0
    for column in columns:
        start = x
        for i in range(len(column.images)):
            _place(panel, x, 0.0, side, column.images[i].transpose(1, 2, 0))
            for row, loss in enumerate(LOSSES, start=1):
                high = columns[0].high[loss.label] or 1.0
                _place(panel, x, row * (side + gap), side, column.shown[loss.label][i], high)
            x += side + gap
        heading = ("ID " if column is columns[0] else "") + column.name
        panel.text((start + x - gap) / 2, -0.06, canvas.folded(heading, 16), ha="center", va="bottom", fontsize=7)
        x += between - gap
    for row, name in enumerate(["image", *(loss.name for loss in LOSSES)]):
        y = row * (side + gap) + side / 2
        panel.text(
            -0.08, y, canvas.plain(name.replace(", ", ",\n").replace("joint ", "joint\n")), ha="right", va="center"
        )
    canvas.title(figure, f"Guided gradients, ID set {block.id_set}", "black: none; white: as large as on ID images")
    return figure


def _place(panel: Axes, x: float, y: float, side: float, image: NDArray[Any], high: float = 1.0) -> None:
    extent = (x, x + side, y + side, y)
    grey = image.ndim == 2 or image.shape[2] == 1
    look: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255 if image.dtype == np.uint8 else high} if grey else {}
    panel.imshow(image.squeeze() if grey else image, extent=extent, aspect="auto", interpolation="nearest", **look)
    panel.set_autoscale_on(False)


def _caption(inputs: FigureInputs, block: Block, columns: list[Column]) -> str:
    lines = []
    for loss in LOSSES:
        of_id = float(np.median(columns[0].sizes[loss.label]))
        of_ood = ", ".join(
            f"{c.name} {np.median(c.sizes[loss.label]) / of_id if of_id else np.nan:.2f}" for c in columns[1:]
        )
        lines.append(f"- {loss.name}: ID {of_id:.4f}; relative to it, {of_ood}")
    return filled(f"""\
Guided-gradient maps (guided backpropagation of the largest logit to the pixels, the largest magnitude over the
channels) of images of the ID test set `{block.id_set}` and of OOD test sets, under the four losses. The images
shown are the middle ones of classes that are spread evenly over all classes of the set; without labels, images are
spread evenly over the set. All maps of a loss share one scale, white at the 99th percentile over {MEASURED} ID
images, so brightness can be compared between ID and OOD; scales differ between losses.

From {describe_run(inputs, block)}; first seed ({inputs.scores().seed}). The paper uses VGG-13 and does not say how
the maps are scaled. It reports sharp maps on all sets under cross-entropy, and only on in-distribution images under
the confidence losses.

Measured, median over {MEASURED} images of the mean of a map (absolute for ID, OOD sets relative to it):

{chr(10).join(lines)}
""")
