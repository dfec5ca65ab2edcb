"""The classifier, and the logits, of a network that is not trained to tell classes apart (`Recipe.classifies`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from torch import Tensor, nn

from oodbench.benchmark.plugins.inputs import Classifier, ForwardOutput, UndeclaredInputError
from oodbench.benchmark.records.record import NO_CLASSIFIER


class WithoutLogits(Classifier):
    """A network with features, perhaps with named outputs, and without logits.

    Whatever needs logits or the head raises `UndeclaredInputError`, whose message says that the recipe trains no
    classifier.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        blocks: Callable[[nn.Module], Sequence[nn.Module]] | None = None,
        recipe: str = "",
    ) -> None:
        """Wrap a network; `recipe`: the name of what trained it. The other arguments are those of `Classifier`."""
        super().__init__(network, num_classes, blocks)
        self._recipe = recipe

    def __call__(self, images: Tensor) -> Tensor:
        """Raises `UndeclaredInputError`: there are no logits."""
        refuse_logits("logits", self._recipe)

    def head(self, features: Tensor) -> Tensor:
        """Raises `UndeclaredInputError`: there is no head."""
        refuse_logits("the head", self._recipe)

    @property
    def weight(self) -> Tensor:
        """Raises `UndeclaredInputError`: there is no head."""
        refuse_logits("the head", self._recipe)

    @property
    def bias(self) -> Tensor:
        """Raises `UndeclaredInputError`: there is no head."""
        refuse_logits("the head", self._recipe)

    def outputs_of(self, features: Tensor, maps: list[Tensor]) -> ForwardOutput:
        """Features and maps, with logits that nothing may read."""
        return ForwardOutput(maps, features, cast(Tensor, NoLogits(features, self._recipe)))


class NoLogits:
    """Stands in for logits (N, K) where there are none: whatever reads them raises `UndeclaredInputError`.

    `Detector.observe` and `reduce` receive logits whether they read them or not. Their number and device are known.
    """

    def __init__(self, features: Tensor, recipe: str) -> None:
        self._features, self._recipe = features, recipe
        self.device = features.device

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, rows: slice) -> NoLogits:
        """The same for some images."""
        return NoLogits(self._features[rows], self._recipe)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # of protocols that are looked up, such as that of copying
            raise AttributeError(name)
        refuse_logits("logits", self._recipe)

    def __torch_function__(self, *arguments: Any, **named: Any) -> NoReturn:
        refuse_logits("logits", self._recipe)


def refuse_logits(what: str, recipe: str) -> NoReturn:
    """Raise the error of a detector that reads logits, or the head, of a network without."""
    raise UndeclaredInputError(f"it needs {what}, and recipe '{recipe}' {NO_CLASSIFIER}.", "logits")
