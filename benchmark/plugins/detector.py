"""What a plug-in author must read: detectors, recipes, backbones, data sets, and what the harness hands them.

Shapes: N images, C channels, H x W pixels, D features, K classes. Images are uint8 at rest and float32 in [0, 1] when a
network or a detector sees them. A score is higher for images that look more out-of-distribution (OOD), everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.inputs import Batch, Classifier, FitData

if TYPE_CHECKING:
    from torch import Tensor, nn


def compares(detector: Detector) -> bool:
    """Whether it compares images with those of the training split."""
    return "similarities" in detector.needs


class Detector(Plugin):
    """Scores images: a frozen set of settings, an optional `fit`, and `score`.

    `recipe` names the recipe that trains the detector's classifier; without one the detector is post-hoc and uses the
    suite's base recipe. What `needs` does not declare (see `NEEDS`) is not supplied.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    recipe: ClassVar[str | None] = None
    passes: ClassVar[int] = 0
    """Network passes an image that `score` makes itself; needs 'network'."""
    map_settings: ClassVar[tuple[str, ...] | None] = None
    """The settings that `observe` and `reduce` look at; None, the default, for all. Detectors that differ in others
    only share what is kept of the maps."""
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Settings that may be chosen on held-out data (`bench run --protocol`), each with its candidates; all combinations
    are tried."""
    is_sanity_baseline: ClassVar[bool] = False
    """True for a sanity baseline, such as a random score, that is not expected to detect anything."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "oriented": "this name was replaced; write `is_sanity_baseline = True` where it was `oriented = False`, and "
        "leave it out elsewhere."
    }

    def refuses(self, network: nn.Module) -> str | None:
        """Say why a network cannot be scored with, before any work; None, the default, if it can.

        `network` is a fresh one of the run's backbone; its weights may be on the meta device, so look, do not compute.
        """
        return None

    def passes_for(self, blocks: int) -> int:
        """`passes` on a network with so many blocks, for detectors that step once a block."""
        return self.passes

    def passes_in_fit(self, blocks: int, validation: int, outliers: int) -> int:
        """How many images `fit` pushes through the network itself; none by default."""
        return 0

    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Learn from a piece of the ID training images' maps what `reduce` needs; for detectors that declare 'maps'.

        Called with consecutive pieces, in the pass that makes the split's logits: what it learns, in names that end in
        '_', is stored, and is there in `reduce`, `fit` and `score`. The training split of a detector that observes is
        not reduced.
        """

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        """Return what is kept of a few images' maps, finite (N, M), each row from its own image alone.

        `maps` are the outputs of the backbone's blocks, float32 (N, C, H, W), in order, on the classifier's device;
        what was learned is on the CPU. Batches then have the rows as `maps`. A detector that declares 'maps' and does
        not reduce them sees the blocks (`Classifier.blocks`) through the network only.
        """
        raise NotImplementedError

    def bank_rows(self, train: Batch) -> Tensor | None:
        """Which training images the batches' `similarities` are to, rows (B,) of the split; None, the default, for all.

        For detectors that declare 'similarities'; `train` has labels and features. Detectors of equal rows share one
        product of features.
        """
        return None

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Learn from ID training data; nothing to do by default. No test split is reachable from `data`."""

    def score(self, batch: Batch) -> Tensor:
        """Return one finite float an image, shape (N,), higher = more OOD, from that image alone."""
        raise NotImplementedError

    def confidence_of(self, scores: np.ndarray) -> np.ndarray | None:
        """`scores` (N,) on the scale that the method's paper states, higher = more in-distribution, float32 (N,).

        None, the default, where there is no other scale. Only for metric rules that look at values and not at ranks
        alone (`bench run --metrics`); the order must be the score's own, reversed, but for what rounding ties.
        """
        return None


def observes(detector: Detector) -> bool:
    """Whether it learns from the training split's maps."""
    return "maps" in detector.needs and type(detector).observe is not Detector.observe


def reduces(detector: Detector) -> bool:
    """Whether it keeps something of every image's maps."""
    return "maps" in detector.needs and type(detector).reduce is not Detector.reduce
