"""`Detector`: the base class of every OOD detector.

Shapes: N images, C channels, H x W pixels, D features, K classes. Images are uint8 in data sets and float32 in [0, 1]
when a network or a detector reads them. A score is higher for images that look more out-of-distribution (OOD),
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from oodbench.benchmark.plugins.backbone import FEATURE_MAPS
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.inputs import Batch, Classifier, FitData

if TYPE_CHECKING:
    from torch import Tensor, nn


class Detector(Plugin):
    """Base class of OOD detectors: settings, an optional `fit`, and `score`.

    Only `score` must be defined. Annotated class attributes are the settings; give each a default, and reject bad
    values in `__post_init__` with a `ValueError`. What `fit` or `observe` learns goes into attributes whose names end
    in an underscore, and is stored: finite numbers, strings, lists, dicts, arrays and tensors.

    ```python
    @detector("class_means", title="Distance to the nearest class mean")
    class ClassMeans(Detector):
        needs = frozenset({"features"})
        power: float = 2.0  # a setting: class_means[power=1]

        def fit(self, classifier: Classifier, data: FitData) -> None:
            features, labels = data.train.features.double(), data.train.labels
            self.means_ = torch.stack([features[labels == k].mean(dim=0) for k in range(classifier.num_classes)])

        def score(self, batch: Batch) -> Tensor:
            return torch.cdist(batch.features.double(), self.means_, p=self.power).amin(dim=1)
    ```
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    """The inputs that the detector reads: names among 'logits', 'features', 'images', 'network', 'head', 'maps',
    'similarities' and 'outliers'. Reading anything else raises `PluginError`; the head can be read undeclared, but not
    where there are arrays without one."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Named outputs of the classifier that the detector reads as `batch.outputs["confidence"]`, such as {'confidence'};
    recipes declare them (`Recipe.outputs`). With a recipe that does not have them, the detector is skipped. One that
    reads nothing else says `needs = frozenset()`."""
    recipe: ClassVar[str | None] = None
    """Name of the recipe that trains the detector's classifier. None for a post-hoc detector, which scores with the
    classifier of the suite's base recipe."""
    in_all: ClassVar[bool] = True
    """False if `--detectors all` leaves the detector out, for the time that its training takes. It then runs by name,
    and in suites with `every_detector = true`."""
    passes: ClassVar[int] = 0
    """Network passes per image that `score` makes itself, beyond the one that all detectors share. Anything above 0
    requires 'network' in `needs`."""
    fit_passes: ClassVar[int] = 0
    """Network passes per ID training image that `fit` makes itself; with them `needs` has 'network' and 'images'."""
    fits_images: ClassVar[bool] = True
    """False if `fit` reads the classifier alone, such as the head, and no image. It then runs where the ID set has no
    images to learn from; `data.train` and `data.validation` are empty."""
    map_kind: ClassVar[str] = FEATURE_MAPS
    """What the maps are that it reads: `FEATURE_MAPS`, or another kind that some backbones give (`Backbone.map_kind`).
    With backbones of another kind, the detector is skipped."""
    map_settings: ClassVar[tuple[str, ...] | None] = None
    """Names of the settings that `observe` and `reduce` depend on; None means all. Detectors that differ only in other
    settings share the stored reductions."""
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Settings that may be chosen on held-out data (`bench run --protocol`), each with its candidate values; all
    combinations are tried."""
    chosen_: Mapping[str, Any] = {}
    """The values that `fit` chose for settings whose default, None, stands for a rule of the network or the data: a
    setting's name -> its value, numbers or lists of them. Recorded with the cell."""
    is_sanity_baseline: ClassVar[bool] = False
    """True for a sanity baseline, such as a random score, that is not expected to detect anything."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "oriented": "this name was replaced; write `is_sanity_baseline = True` where it was `oriented = False`, and "
        "leave it out elsewhere."
    }

    def refuses(self, network: nn.Module) -> str | None:
        """Say why a network cannot be used. Asked before any training, so that unusable cells are skipped.

        Args:
            network: A freshly initialised network of the run's backbone. Its weights may be on the meta device:
                inspect the modules, but compute nothing.

        Returns:
            The reason as a phrase, such as "the network has no dropout to sample"; None, the default, if the network
            can be used.
        """
        return None

    def passes_for(self, blocks: int) -> int:
        """Network passes per image of `score` on a network with this many blocks.

        Override it if the number depends on the network; the default is `passes`. `blocks` is 0 for detectors that do
        not declare 'maps'.
        """
        return self.passes

    def passes_in_fit(self, blocks: int, validation: int, outliers: int) -> int:
        """Total number of images that `fit` passes through the network itself, without `fit_passes` of training images.

        Args:
            blocks: Number of blocks of the network; 0 for detectors that do not declare 'maps'.
            validation: Number of ID validation images.
            outliers: Number of outlier images.

        Returns:
            Images, each counted once per pass; 0 by default.
        """
        return 0

    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Learn from the feature maps of the ID training images what `reduce` needs. For detectors that need 'maps'.

        Called once for each consecutive piece of the training split, in the pass that computes its logits. The result
        must not depend on the size of the pieces. What it learns, in attributes that end in an underscore, is stored
        and available in `reduce`, `fit` and `score`. The training split of a detector with `observe` is not reduced:
        `data.train.maps` is not available in `fit`.

        Args:
            maps: Output of each block of the backbone, in order: float32 (N, C, H, W), on the classifier's device.
            features: Penultimate features, (N, D).
            logits: Logits, (N, K).
            labels: Class labels, int64 (N,).
        """

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        """Reduce the feature maps of some images to the numbers that are stored. For detectors that need 'maps'.

        Called in the forward pass that all detectors share; `fit` and `score` then read the result as `batch.maps`.
        The maps themselves are never stored. A detector that declares 'maps' without defining `reduce` can only reach
        the blocks through the network (`Classifier.blocks`).

        Args:
            maps: Output of each block of the backbone, in order: float32 (N, C, H, W), on the classifier's device.
                What `observe` has learned is on the CPU.
            features: Penultimate features, (N, D).
            logits: Logits, (N, K).

        Returns:
            Finite numbers, (N, M). Each row must depend on its own image only.
        """
        raise NotImplementedError

    def bank_rows(self, train: Batch) -> Tensor | None:
        """Select the training images that `similarities` compares with. For detectors that need 'similarities'.

        Detectors that select the same images share one matrix product.

        Args:
            train: The ID training images, with `labels` and `features`.

        Returns:
            Row numbers of the training split, int64 (B,); None, the default, for all images.
        """
        return None

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Learn from ID data, and from outliers if declared. Does nothing by default.

        Assign what is learned to attributes whose names end in an underscore. For large training splits read
        `data.train` in pieces (`Batch.batches`). No test split can be reached from `data`.

        Args:
            classifier: The trained classifier; fitting must leave it unchanged.
            data: Training and validation images with what `needs` declares.
        """

    def score(self, batch: Batch) -> Tensor:
        """Score images; higher means more OOD.

        Args:
            batch: N images with what `needs` declares, and no labels.

        Returns:
            One finite number per image, shape (N,). Each depends on its own image only, not on the rest of the batch.
        """
        raise NotImplementedError

    def confidence_of(self, scores: np.ndarray) -> np.ndarray | None:
        """Convert scores to the confidence that the method's paper states, such as a softmax probability.

        Used only by metric rules that depend on values and not on ranks alone (`bench run --metrics`).

        Args:
            scores: Scores of N images, float64 (N,).

        Returns:
            Confidence, float32 (N,), higher = more in-distribution; it must fall as the score rises, apart from ties
            by rounding. None, the default, if the method has no other scale.
        """
        return None


def learns(detector: Detector) -> bool:
    """Whether the detector learns from ID images, in `fit`, in `observe`, or by comparing images with them."""
    return (fits(detector) and detector.fits_images) or observes(detector) or compares(detector)


def fits(detector: Detector) -> bool:
    """Whether the detector has a `fit`, which may read images or the classifier alone."""
    return type(detector).fit is not Detector.fit


def compares(detector: Detector) -> bool:
    """Whether the detector compares images with training images (`similarities`)."""
    return "similarities" in detector.needs


def observes(detector: Detector) -> bool:
    """Whether the detector learns from the feature maps of the training split."""
    return "maps" in detector.needs and type(detector).observe is not Detector.observe


def reduces(detector: Detector) -> bool:
    """Whether the detector stores a reduction of every image's feature maps."""
    return "maps" in detector.needs and type(detector).reduce is not Detector.reduce
