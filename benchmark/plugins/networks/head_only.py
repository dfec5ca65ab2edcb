"""`HeadOnly`: what a detector's `fit` gets as the classifier where there are arrays of outputs, but no network."""

from __future__ import annotations

from typing import NoReturn

import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.inputs import Classifier, ForwardOutput, UndeclaredInputError


class HeadOnly(Classifier):
    """A classifier of K classes without a network, with or without its linear head.

    `num_classes`, and with a head `weight`, `bias` and `head(features)`, are as in `Classifier`. Everything else needs
    the network, and raises `PluginError`.
    """

    def __init__(self, num_classes: int, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        """Describe a classifier by its number of classes and, if known, its head.

        Args:
            num_classes: Number of classes, K.
            weight: The head's weight, (K, D), in any floating-point precision; None if the head is not known.
            bias: The head's bias, (K,); zeros by default.

        Raises:
            PluginError: Weight and bias do not have these shapes.
        """
        if weight is None and bias is not None:
            raise PluginError("A head needs a weight (K, D) beside its bias (K,); give both, or neither.")
        if weight is not None:
            if weight.ndim != 2 or len(weight) != num_classes:
                raise PluginError(
                    f"The head's weight has shape {tuple(weight.shape)}; expected (K, D) with K = {num_classes}."
                )
            bias = weight.new_zeros(num_classes) if bias is None else bias
            if bias.shape != (num_classes,):
                raise PluginError(
                    f"The head's bias has shape {tuple(bias.shape)}; expected (K,) with K = {num_classes} classes."
                )
        self.num_classes = num_classes
        self._weight, self._bias = weight, bias
        self._blocks = None

    @property
    def has_head(self) -> bool:
        """Whether the head is known."""
        return self._weight is not None

    @property
    def weight(self) -> Tensor:
        """The weight of the linear head, (K, D). Raises `PluginError` if there is no head."""
        return self._part_of_head(self._weight)

    @property
    def bias(self) -> Tensor:
        """The bias of the linear head, (K,). Raises `PluginError` if there is no head."""
        return self._part_of_head(self._bias)

    def head(self, features: Tensor) -> Tensor:
        """Return the logits (N, K) of features (N, D), in their precision. Raises `PluginError` without a head."""
        return F.linear(features, self.weight.to(features), self.bias.to(features))

    @property
    def network(self) -> nn.Module:  # type: ignore[override]
        """Raises `PluginError`: there is no network."""
        self._lacks_network()

    @property
    def blocks(self) -> list[nn.Module]:
        """Raises `PluginError`: there is no network."""
        self._lacks_network()

    def forward_with_maps(self, images: Tensor) -> ForwardOutput:
        """Raises `PluginError`: there is no network."""
        self._lacks_network()

    def __call__(self, images: Tensor) -> Tensor:
        """Raises `PluginError`: there is no network."""
        self._lacks_network()

    def features(self, images: Tensor) -> Tensor:
        """Raises `PluginError`: there is no network."""
        self._lacks_network()

    def _part_of_head(self, part: Tensor | None) -> Tensor:
        if part is None:
            raise UndeclaredInputError(
                "The classifier's linear head is asked for and not known here: give its weight (K, D) and bias (K,), "
                "as head=(weight, bias) in Python or head.npz beside the arrays; or give logits and features of the "
                "same images, from which it is recovered.",
                "head",
            )
        return part

    def _lacks_network(self) -> NoReturn:
        raise UndeclaredInputError(
            "The network is asked for, and only arrays of its outputs are given: a detector that runs the network or "
            "reads its modules needs the network itself, with images.",
            "network",
        )
