"""Finds the linear head and the penultimate features of any network by a trial pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import DataError, UserError, did_you_mean, typed_first_line
from oodbench.benchmark.plugins.networks.calls import ModuleCall, watched
from oodbench.benchmark.plugins.networks.parts import (
    SHORT,
    TOLERANCE,
    Parts,
    ReadOutputs,
    difference,
    fits_head,
    is_linear,
    logits_of,
    placed,
    precision,
    reading,
    same,
    shape_of,
)

TRIAL = 4
"""Images in the trial pass."""


def find_parts(network: nn.Module, images: Tensor, features: str = "", head: str = "") -> Parts:
    """Find a network's head and features by passing some images through it twice.

    Args:
        network: A module, as `unwrapped` returns it. It is in evaluation mode during the pass, and left as it was.
        images: At least one image, (N, ...).
        features: Name of the module whose output are the features; by default the input of the head.
        head: Name of the linear head, whose output is then taken as logits; by default the linear layer whose output
            the network returns.

    Raises:
        UserError: One sentence that says what is in the way, such as no linear head, and what to name.
    """
    return _Search(network, images[:TRIAL], features, head).parts()


class _Search:
    """One search; `title` names the network in messages."""

    def __init__(self, network: nn.Module, images: Tensor, features: str, head: str) -> None:
        self.network = network
        self.title = type(network).__name__
        self._refuse_missing_weights()
        self.images = placed(network, images)
        self.notes: list[str] = []
        self.layers: dict[str, nn.Module] = dict(network.named_modules())
        self.named_features, self.named_head = self._known("features", features), self._known("head", head)
        self.output, self.calls = self._passed()
        self.count = Counter(call.name for call in self.calls)
        self.logits = logits_of(self.output)

    def parts(self) -> Parts:
        head = self._named_head() if self.named_head else self._head()
        if self.named_features:
            self._refuse_repeated(self.named_features, "features")
        if precision(self.network) in SHORT:
            self.notes.append(f"the network computes in {str(precision(self.network)).removeprefix('torch.')}")
        parts = Parts(head, self.named_features, bool(self.named_head))
        with reading(self.network, parts) as read:
            first, second = read(self.images), read(self.images)
            alone = read(self.images[:1])
        self._check(parts, first)
        self._refuse_chance(first, second)
        self._note_batches(first, alone)
        if head and self.named_features and not fits_head(self.network.get_submodule(head), first):
            parts = parts._replace(head=self._other_head(head))
        return parts._replace(notes=tuple(self.notes))

    def _known(self, option: str, name: str) -> str:
        """The name of a module that was named, by the end of its name if only one ends so."""
        wanted: Callable[[nn.Module], bool] = is_linear if option == "head" else lambda module: True
        ends = [full for full in self.layers if full.endswith(f".{name}")] if name not in self.layers else []
        if len(ends) == 1:
            return ends[0]
        if name and name not in self.layers:
            known = [full for full, module in self.layers.items() if full and wanted(module)]
            hint = did_you_mean(name, known, f"Among them are {', '.join(known[-5:])}." if known else "It has none.")
            kind = "linear layer" if option == "head" else "module"
            raise UserError(f"{self.title} has no {kind} '{name}' ({option}='{name}'). {hint}")
        if name and not wanted(self.layers[name]):
            kind = type(self.layers[name]).__name__
            raise UserError(
                f"{option}='{name}' of {self.title} is of type {kind}, expected a linear layer (nn.Linear)."
            )
        return name

    def _refuse_missing_weights(self) -> None:
        for name, weight in self.network.named_parameters():
            if weight.is_meta or isinstance(weight, nn.parameter.UninitializedParameter):
                where = "on the meta device" if weight.is_meta else "not made before its first call, as of a lazy layer"
                raise UserError(
                    f"The weight '{name}' of {self.title} has no values: it is {where}. Load the weights, or call the "
                    "network once."
                )

    def _passed(self) -> tuple[Any, list[ModuleCall]]:
        try:
            return watched(self.network, self.network, self.images)
        except torch.cuda.OutOfMemoryError:  # a RuntimeError too, which says nothing about the images
            raise
        except Exception as error:  # the user's network may raise anything
            shape = " x ".join(map(str, self.images.shape[1:]))
            kind = str(self.images.dtype).removeprefix("torch.")
            hint = "" if self.images.is_floating_point() else " Convert them in the data set, such as by ToTensor()."
            raise UserError(
                f"{self.title} does not take images of {shape} ({kind}): {typed_first_line(error).rstrip('.')}.{hint}"
            ) from error

    def _named_head(self) -> str:
        name = self.named_head
        self._refuse_repeated(name)
        call = next(call for call in self.calls if call.name == name)
        if not isinstance(self.logits, Tensor) or not same(call.returned, self.logits):
            self.notes.append(
                f"logits are the output of the layer '{name}', as was asked; the network itself returns something else"
            )
        return name

    def _refuse_repeated(self, name: str, option: str = "head") -> None:
        if self.count[name] != 1:
            raise UserError(
                f"The layer '{name}' of {self.title} is called {self.count[name]} times in one pass, expected once. "
                f"Name another with {option}=..., or give a network whose forward calls it once."
            )

    def _head(self) -> str:
        """The linear layer whose output the network returns; empty if there is none and features are named."""
        logits = self._checked_logits()
        found: list[str] = [call.name for call in self.calls if is_linear(call.module) and same(call.returned, logits)]
        if found:
            self._refuse_repeated(found[-1])
            return found[-1]
        if self.named_features:
            self.notes.append("the network does not end in a linear layer, so that there is no head")
            return ""
        raise UserError(self._no_head(logits))

    def _no_head(self, logits: Tensor) -> str:
        linear = [call for call in self.calls if is_linear(call.module) and isinstance(call.returned, Tensor)]
        candidates = list(dict.fromkeys(call.name for call in linear if call.returned.shape == logits.shape))
        problem = f"No linear layer of {self.title} returns its output {shape_of(logits)}, so that no head is found"
        sums = logits.float().sum(dim=1)
        if len(logits.shape) == 2 and (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            problem = f"{self.title} returns probabilities, and detectors need logits"
        if len(candidates) == 1:
            return f"{problem}. The layer '{candidates[0]}' has as many outputs: name it with head='{candidates[0]}'."
        if candidates:
            names = ", ".join(f"'{name}'" for name in candidates)
            return f"{problem}. Several layers have as many outputs, {names}: name one with head=...."
        return (
            f"{problem}. Name the module whose output are the features, with features='...'; detectors that need a "
            "head are then left out."
        )

    def _checked_logits(self) -> Tensor:
        if self.logits is None:
            kind = type(self.output).__name__
            inside = f" of {len(self.output)}" if isinstance(self.output, tuple | list) else ""
            raise UserError(
                f"{self.title} returns an object of type {kind}{inside}, expected logits (N, K), or an object with "
                "'logits'. Name the layer that returns the logits with head='...', or wrap the network."
            )
        if self.logits.ndim != 2 or len(self.logits) != len(self.images) or self.logits.shape[1] < 2:
            raise UserError(
                f"{self.title} returns {shape_of(self.logits)} for {len(self.images)} images, expected logits (N, K) "
                "of at least two classes. Name the layer that returns the logits with head='...', or wrap the network."
            )
        return self.logits

    def _check(self, parts: Parts, read: ReadOutputs) -> None:
        count = len(self.images)
        if read.logits.ndim != 2 or len(read.logits) != count or read.logits.shape[1] < 2:
            raise UserError(
                f"The layer '{parts.head}' of {self.title} returns {shape_of(read.logits)} for {count} images, "
                "expected logits (N, K) of at least two classes."
            )
        for name, part in zip(read._fields, read, strict=True):
            if not torch.isfinite(part).all():
                raise DataError(f"{self.title} returns {name} that are NaN or infinite for the first images.")
        if parts.head and not parts.features and not fits_head(self.network.get_submodule(parts.head), read):
            raise UserError(
                f"The layer '{parts.head}' of {self.title} does not map its input to the logits by weight and bias "
                "(head(features) != logits), as if something changed its output in place. Wrap the network."
            )

    def _refuse_chance(self, first: ReadOutputs, second: ReadOutputs) -> None:
        for name, one, two in zip(first._fields, first, second, strict=True):
            if (apart := difference(one, two)) > self._tolerance():
                raise UserError(
                    f"{self.title} gives other {name} when the same images pass a second time (they differ by "
                    f"{apart:.1e} of the largest): something random is active in evaluation mode, such as "
                    "F.dropout without training=self.training. Switch it off."
                )

    def _note_batches(self, batch: ReadOutputs, alone: ReadOutputs) -> None:
        if difference(batch.logits[:1], alone.logits) > 100 * self._tolerance():
            self.notes.append(
                "logits of an image depend on the other images of its batch, as with batch norm without running "
                "statistics; scores then tell sets apart by their batches"
            )

    def _other_head(self, head: str) -> str:
        """What becomes of a head that does not belong to the features that were named."""
        if self.named_head:
            raise UserError(
                f"The layer '{head}' of {self.title} does not map the output of '{self.named_features}' to the logits "
                "(head(features) != logits). Leave head out to do without one, or name other features."
            )
        self.notes.append(
            f"features are those of '{self.named_features}', which the head '{head}' does not read: there is no head"
        )
        return ""

    def _tolerance(self) -> float:
        return TOLERANCE.get(precision(self.network), 1e-4)
