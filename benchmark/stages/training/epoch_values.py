"""The values of an epoch, as displays show them; can be imported without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

ACCURACY = "accuracy"
"""Name under which a recipe's step returns the share of the batch that it classifies correctly."""

SHOWN = 5
"""Values that one line has room for."""


class EpochValues(NamedTuple):
    """The means of a training's losses over the images of one epoch, or over those that have been processed so far."""

    epoch: int
    """From 1."""
    epochs: int
    values: Mapping[str, float]
    attempt: int = 1
    """More than 1 if earlier attempts of the same training diverged."""

    def text(self) -> str:
        """One line, such as 'epoch 3 of 10, cross entropy 0.0712, accuracy 97.9%'; accuracy is never left out."""
        attempt = f"attempt {self.attempt}, " * (self.attempt > 1)
        names = sorted(self.values, key=lambda name: name != ACCURACY)[:SHOWN]
        shown = [_text(name, value) for name, value in self.values.items() if name in names]
        return f"{attempt}epoch {self.epoch} of {self.epochs}, {', '.join(shown)}"


Show = Callable[[EpochValues], object]
"""Shows how a training goes."""


def show_nothing(values: EpochValues) -> None:
    """Shows nothing."""


def _text(name: str, value: float) -> str:
    if name == ACCURACY:
        return f"{name} {100 * value:.1f}%"
    return f"{name.replace('_', ' ')} {value:.3g}"
