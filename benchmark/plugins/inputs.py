"""What a detector is given: `Batch`, `Classifier`, `FitData`, and the names that `needs` may declare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from warnings import warn

from oodbench.benchmark.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from oodbench.benchmark.plugins.training_bank import TrainingBank


NEEDS = {
    "logits": "the classifier's logits, float64 (N, K)",
    "features": "the penultimate features, float32 (N, D)",
    "images": "the pixels, float32 in [0, 1] (N, C, H, W)",
    "network": "the classifier itself in score(), with gradients where wanted; its passes are declared in `passes`",
    "maps": "the feature maps of the backbone's blocks, in the shared pass: what `reduce` keeps, float32 (N, M)",
    "similarities": "in score(), the cosines with the features of training images (`bank_rows`), float32 (N, B)",
    "outliers": "the suite's outliers, OOD images that training may see (never test images)",
}


class ForwardOutput(NamedTuple):
    """What one pass shows of N images."""

    maps: list[Tensor]
    """The blocks' outputs, (N, C, H, W) each, in order."""
    features: Tensor
    logits: Tensor


class Classifier:
    """A trained network in evaluation mode, as a detector sees it. Reading it never changes it."""

    def __init__(
        self, network: nn.Module, num_classes: int, blocks: Callable[[nn.Module], Sequence[nn.Module]] | None = None
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.num_classes = num_classes
        self._blocks = blocks

    def without_blocks(self) -> Classifier:
        """The same network, for detectors that do not declare 'maps'."""
        other = copy.copy(self)
        other._blocks = None
        return other

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules whose outputs are the blocks' maps, for detectors that declare 'maps'."""
        found = list(self._blocks(self.network)) if self._blocks else []
        if not found:
            raise PluginError(
                "The classifier shows no blocks: a detector that looks at them declares needs = {'maps'}, and the "
                "backbone names them (Backbone.blocks)."
            )
        return found

    def forward_with_maps(self, images: Tensor) -> ForwardOutput:
        """One pass with the maps of the blocks on the way."""
        maps: dict[int, Tensor] = {}

        def keep(place: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                maps[place] = output.clone()  # what follows may work in place

            return hook

        blocks = self.blocks
        hooks = [block.register_forward_hook(keep(place)) for place, block in enumerate(blocks)]
        try:
            features = self.features(images)
        finally:
            for handle in hooks:
                handle.remove()
        strange = [k for k in range(len(blocks)) if k not in maps or maps[k].ndim != 4 or len(maps[k]) != len(images)]
        if strange:
            shape = tuple(maps[strange[0]].shape) if strange[0] in maps else "nothing"
            raise PluginError(f"Block {strange[0]} of the network gave {shape}; a block's map is (N, C, H, W).")
        return ForwardOutput([maps[place].float() for place in range(len(blocks))], features, self.head(features))

    def look(self, images: Tensor) -> ForwardOutput:
        """Deprecated name of `forward_with_maps`."""
        warn("Classifier.look() is now Classifier.forward_with_maps()", DeprecationWarning, stacklevel=2)
        return self.forward_with_maps(images)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, D)."""
        features: Tensor = self.network.features(images)  # type: ignore[operator]
        return features

    def head(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D)."""
        logits: Tensor = self.network.head(features)  # type: ignore[operator]
        return logits

    @property
    def weight(self) -> Tensor:
        """The head's weight, (K, D)."""
        return self.network.head.weight  # type: ignore[union-attr,return-value]

    @property
    def bias(self) -> Tensor:
        """The head's bias, (K,)."""
        return self.network.head.bias  # type: ignore[union-attr,return-value]


class Batch:
    """N images as a detector may see them: what its `needs` declare, and nothing else.

    Every part is a tensor with N rows, made when first asked for. `labels` are there in `fit` only.
    """

    def __init__(
        self,
        size: int,
        parts: Mapping[str, Callable[[slice], Tensor]],
        owner: str,
        classifier: Classifier | None = None,
        rows: slice | None = None,
        bank: TrainingBank | None = None,
    ) -> None:
        self._size = size
        self._parts = parts
        self._owner = owner
        self._classifier = classifier
        self._rows = rows or slice(0, size)
        self._bank = bank

    def __len__(self) -> int:
        return self._size

    def _part(self, name: str) -> Tensor:
        if name not in self._parts:
            hint = f"declare it: needs = {{'{name}'}}" if name in NEEDS else "labels are supplied in fit() only"
            if name == "maps":
                hint += ", and reduce(); a training split that observe() has seen has none"
            if name == "similarities":
                hint += ", and ask for it in score()"
            raise PluginError(f"Detector '{self._owner}' asked for '{name}', which it does not declare; {hint}.")
        return self._parts[name](self._rows)

    @cached_property
    def logits(self) -> Tensor:
        """Logits, float64 (N, K): differences of logsumexp in float32 tie where networks are over-confident."""
        return self._part("logits")

    @cached_property
    def features(self) -> Tensor:
        """Penultimate features, float32 (N, D)."""
        return self._part("features")

    @cached_property
    def maps(self) -> Tensor:
        """What the detector's `reduce` has kept of the blocks' maps, float32 (N, M)."""
        return self._part("maps")

    @cached_property
    def similarities(self) -> Tensor:
        """Cosines with the features of the bank's training images, float32 (N, B), good to about 1e-7; in `score` only.

        Shared with other detectors: not to be changed in place.
        """
        return self._part("similarities")

    @property
    def bank(self) -> TrainingBank:
        """The training images behind `similarities`: their features, and cosines in float64; in `score` only."""
        if self._bank is None:
            raise PluginError(
                f"Detector '{self._owner}' asked for the bank; declare needs = {{'similarities'}}, and ask in score()."
            )
        return self._bank

    @cached_property
    def images(self) -> Tensor:
        """Pixels, float32 in [0, 1], (N, C, H, W), on the classifier's device."""
        return self._part("images")

    @cached_property
    def labels(self) -> Tensor:
        """Class labels, int64 (N,); in `fit` only."""
        return self._part("labels")

    @property
    def classifier(self) -> Classifier:
        """The network, for detectors that declare 'network'."""
        if self._classifier is None:
            raise PluginError(
                f"Detector '{self._owner}' asked for the classifier in score(); declare needs = {{'network'}}."
            )
        return self._classifier

    def batches(self, size: int) -> Iterator[Batch]:
        """The same images in consecutive pieces of at most `size`, for fits that must not hold a split in memory."""
        for start in range(0, self._size, size):
            rows = slice(self._rows.start + start, self._rows.start + min(start + size, self._size))
            yield Batch(rows.stop - rows.start, self._parts, self._owner, self._classifier, rows, self._bank)


class FitData(NamedTuple):
    """What `fit` may learn from. There is no test split here, by construction."""

    train: Batch
    """ID training images, labelled."""
    validation: Batch
    """ID images held out of training, labelled."""
    outliers: Batch | None = None
    """The suite's outliers, for detectors that declare them."""
    bank: Tensor | None = None
    """The training images that batches will be compared with, rows (B,), for detectors that declare 'similarities'."""
