"""The inputs of a detector: `Batch`, `Classifier`, `FitData`, and the names that `needs` may declare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from warnings import warn

from oodbench.benchmark.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from oodbench.benchmark.plugins.neighbours.shared import Neighbours
    from oodbench.benchmark.plugins.training_bank import TrainingBank

T = TypeVar("T")

NEEDS = {
    "logits": "the classifier's logits, float64 (N, K)",
    "features": "the penultimate features, float32 (N, D)",
    "images": "the pixels, float32 in [0, 1] (N, C, H, W)",
    "network": "the classifier in score(), with gradients if wanted; declare its passes in `passes`",
    "head": "the weight (K, D) and bias (K,) of the linear head in fit(), from features to logits",
    "maps": "what `reduce` keeps of the feature maps of the backbone's blocks, float32 (N, M)",
    "similarities": "in score(), the cosines with the features of training images (`bank_rows`), float32 (N, B)",
    "outliers": "the suite's outliers, OOD images that training may use (never test images)",
}
"""Input -> its description, as `bench show` prints it."""


class ForwardOutput(NamedTuple):
    """The result of one forward pass on N images."""

    maps: list[Tensor]
    """Output of each block, in order: float32 (N, C, H, W)."""
    features: Tensor
    """Penultimate features, (N, D)."""
    logits: Tensor
    """Logits, (N, K)."""


def inner_network(network: nn.Module) -> nn.Module:
    """The backbone's network inside of any number of `WithOutputs`."""
    while (wrapped := getattr(network, "wrapped", None)) is not None:
        network = wrapped
    return network


class Classifier:
    """A trained network in evaluation mode, with frozen weights.

    Images are float32 in [0, 1], (N, C, H, W), on the network's device. Detectors must leave the network unchanged.

    Attributes:
        network: The backbone's network.
        num_classes: Number of ID classes, K.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, blocks: Callable[[nn.Module], Sequence[nn.Module]] | None = None
    ) -> None:
        """Wrap a network.

        Args:
            network: A network with `features` and `head`. It is set to evaluation mode and frozen.
            num_classes: Number of classes, K.
            blocks: Returns the modules of the network whose outputs are the blocks' feature maps (`Backbone.blocks`).
        """
        self.network = network.eval().requires_grad_(False)
        self.num_classes = num_classes
        self._blocks = blocks

    def without_blocks(self) -> Classifier:
        """Return the same network without access to blocks, for detectors that do not declare 'maps'."""
        other = copy.copy(self)
        other._blocks = None
        return other

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules whose outputs are the blocks' feature maps, in order.

        Raises `PluginError` if the detector does not declare 'maps' or the backbone names no blocks.
        """
        blocks = list(self._blocks(inner_network(self.network))) if self._blocks else []
        if not blocks:
            raise PluginError(
                "The classifier has no blocks available: the detector must declare needs = {'maps'}, and the backbone "
                "must name its blocks (Backbone.blocks)."
            )
        return blocks

    def forward_with_maps(self, images: Tensor) -> ForwardOutput:
        """Run one forward pass and return feature maps, features and logits.

        Args:
            images: (N, C, H, W) in [0, 1].

        Raises:
            PluginError: There are no blocks, or a block's output is not of shape (N, C, H, W).
        """
        maps: dict[int, Tensor] = {}

        def save(index: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                maps[index] = output.clone()  # later layers may change the output in place

            return hook

        blocks = self.blocks
        hooks = [block.register_forward_hook(save(index)) for index, block in enumerate(blocks)]
        try:
            features = self.features(images)
        finally:
            for handle in hooks:
                handle.remove()
        invalid = [k for k in range(len(blocks)) if k not in maps or maps[k].ndim != 4 or len(maps[k]) != len(images)]
        if invalid:
            shape = f"shape {tuple(maps[invalid[0]].shape)}" if invalid[0] in maps else "nothing"
            raise PluginError(f"Block {invalid[0]} of the network returned {shape}, expected shape (N, C, H, W).")
        return self.outputs_of(features, [maps[index].float() for index in range(len(blocks))])

    def outputs_of(self, features: Tensor, maps: list[Tensor]) -> ForwardOutput:
        """What a forward pass returns, given features (N, D) and maps: with their logits."""
        return ForwardOutput(maps, features, self.head(features))

    def look(self, images: Tensor) -> ForwardOutput:
        """Deprecated name of `forward_with_maps`."""
        warn("Classifier.look() is now Classifier.forward_with_maps()", DeprecationWarning, stacklevel=2)
        return self.forward_with_maps(images)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, C, H, W) in [0, 1]."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features (N, D) of images (N, C, H, W) in [0, 1]."""
        features: Tensor = self.network.features(images)  # type: ignore[operator]
        return features

    def head(self, features: Tensor) -> Tensor:
        """Return the logits (N, K) of features (N, D)."""
        logits: Tensor = self.network.head(features)  # type: ignore[operator]
        return logits

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Return the named outputs (N, width) that the recipe declares, by name, of features (N, D).

        Raises `PluginError` if the network has none.
        """
        if not callable(getattr(self.network, "outputs", None)):
            raise PluginError(f"The classifier, {type(self.network).__name__}, has no named outputs.")
        outputs: dict[str, Tensor] = self.network.outputs(features)  # type: ignore[operator]
        return outputs

    @property
    def weight(self) -> Tensor:
        """The weight of the linear head, (K, D)."""
        return self.network.head.weight  # type: ignore[union-attr,return-value]

    @property
    def bias(self) -> Tensor:
        """The bias of the linear head, (K,)."""
        return self.network.head.bias  # type: ignore[union-attr,return-value]


class UndeclaredInputError(PluginError):
    """A detector reads an input that it does not declare in `needs`, or that is not available there."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name
        """The input."""


NAMED = "outputs."
"""Begins the names of a batch's parts that are named outputs of the network."""


class BatchOutputs(dict[str, "Tensor"]):
    """Named outputs by name; reading one that the detector does not declare raises `UndeclaredInputError`."""

    def __init__(self, outputs: Mapping[str, Tensor], owner: str) -> None:
        super().__init__(outputs)
        self._owner = owner

    def __missing__(self, name: str) -> Tensor:
        message = f"Detector '{self._owner}' asked for output '{name}', which it does not declare; declare it: "
        raise UndeclaredInputError(f"{message}reads = frozenset({{'{name}'}}).", name)


class Batch:
    """N images with the inputs that a detector declares in `needs`.

    `len(batch)` is N. Each input is a tensor with N rows, read on first access. Reading an input that is not declared
    raises `PluginError`. Harness code creates batches; plug-ins only read them.
    """

    def __init__(
        self,
        size: int,
        parts: Mapping[str, Callable[[slice], Tensor]],
        owner: str,
        classifier: Classifier | None = None,
        rows: slice | None = None,
        bank: TrainingBank | None = None,
        most: int = 0,
        once: Callable[..., Any] | None = None,
    ) -> None:
        """Describe a batch; nothing is read yet.

        Args:
            size: Number of images, N.
            parts: Name of an input -> function that returns its given rows.
            owner: Name of the detector, for error messages.
            classifier: The network, if the detector declares 'network'.
            rows: The rows of `parts` that the batch consists of; by default the first `size`.
            bank: The training images behind 'similarities'.
            most: Largest number of images that `batches` puts in a piece; 0 for no limit.
            once: Calls functions of the whole batch that detectors share; None calls them every time.
        """
        self._size, self._most, self._once = size, most, once
        self._parts, self._owner, self._classifier, self._bank = parts, owner, classifier, bank
        self._rows = rows or slice(0, size)

    def __len__(self) -> int:
        return self._size

    def _part(self, name: str) -> Tensor:
        if name not in self._parts:
            hint = f"declare it: needs = {{'{name}'}}" if name in NEEDS else "labels are supplied in fit() only"
            if name == "maps":
                hint += ", and define reduce(); the training split has none if the detector defines observe()"
            if name == "similarities":
                hint += ", and ask for it in score()"
            message = f"Detector '{self._owner}' asked for '{name}', which it does not declare; {hint}."
            raise UndeclaredInputError(message, name)
        return self._parts[name](self._rows)

    @cached_property
    def logits(self) -> Tensor:
        """Logits, float64 (N, K): in float32, scores of over-confident networks would tie."""
        return self._part("logits")

    @cached_property
    def features(self) -> Tensor:
        """Penultimate features, float32 (N, D)."""
        return self._part("features")

    @cached_property
    def outputs(self) -> Mapping[str, Tensor]:
        """The named outputs that the detector declares in `reads`, each float64 (N, width)."""
        named = {name.removeprefix(NAMED): read for name, read in self._parts.items() if name.startswith(NAMED)}
        return BatchOutputs({name: read(self._rows) for name, read in named.items()}, self._owner)

    @cached_property
    def maps(self) -> Tensor:
        """What the detector's `reduce` returned for these images, float32 (N, M)."""
        return self._part("maps")

    @cached_property
    def similarities(self) -> Tensor:
        """Cosines of the features with those of the bank's B training images, float32 (N, B); in `score` only.

        Accurate to about 1e-7. Shared with other detectors: do not change it in place.
        """
        return self._part("similarities")

    @cached_property
    def neighbours(self) -> Neighbours:
        """The k-th or the k largest of `similarities`, faster where no detector reads all of them; in `score` only."""
        from oodbench.benchmark.plugins.neighbours.shared import neighbours_of

        return neighbours_of(self._parts.get("similarities"), self._rows, lambda: self.similarities)

    @property
    def bank(self) -> TrainingBank:
        """The training images behind `similarities`; in `score` only.

        `bank.features(columns)` returns their features, and `bank.similarities(features, torch.float64)` cosines in
        double precision.
        """
        if self._bank is None:
            raise UndeclaredInputError(
                f"Detector '{self._owner}' asked for the bank; declare needs = {{'similarities'}}, for score() only.",
                "similarities",
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
    def labelled(self) -> bool:
        """Whether the images have `labels`: arrays that the user gives may have none."""
        return "labels" in self._parts

    @property
    def classifier(self) -> Classifier:
        """The trained network, for detectors that declare 'network'."""
        if self._classifier is None:
            raise UndeclaredInputError(
                f"Detector '{self._owner}' asked for the classifier in score(); declare needs = {{'network'}}.",
                "network",
            )
        return self._classifier

    def once(self, function: Callable[..., T], *settings: Any) -> T:
        """`function(batch, *settings)`, without random numbers; computed once for all detectors, which get copies."""
        found: T = function(self, *settings) if self._once is None else self._once(function, *settings)
        return found

    def batches(self, size: int) -> Iterator[Batch]:
        """Iterate over the same images in pieces of `size`, in order, to bound memory; the last may be smaller.

        Of a detector that reads images, pieces are smaller where images are large, as those of the shared pass are.
        """
        size = min(size, self._most) if self._most else size
        for start in range(0, self._size, size):
            rows = slice(self._rows.start + start, self._rows.start + min(start + size, self._size))
            count = rows.stop - rows.start
            yield Batch(count, self._parts, self._owner, self._classifier, rows, self._bank, self._most)


class FitData(NamedTuple):
    """The data that `fit` may learn from. It contains no image that is scored.

    These are images of the ID set's training split, or what else is declared (`data.fit_images`): fewer of each class,
    its validation split, or a part of the test split that is then not scored.
    """

    train: Batch
    """ID training images, with `labels`."""
    validation: Batch
    """ID images held out of training, with `labels`: a tenth of the images, or a published validation split."""
    outliers: Batch | None = None
    """The suite's outliers, OOD images that training may use; None unless the detector declares 'outliers'."""
    bank: Tensor | None = None
    """Row numbers of the training images that `similarities` compares with, int64 (B,); None means all of them, or that
    the detector does not declare 'similarities'."""
