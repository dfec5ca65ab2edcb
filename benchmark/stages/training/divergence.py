"""When a training has diverged: losses or weights that are not finite, and what its recipe recognises."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from oodbench.benchmark.errors import OodbenchError, PluginError
from oodbench.benchmark.plugins.recipe import Recipe

CHECK_EVERY = 100
"""Steps between two looks at the losses of a running epoch: reading them waits for the GPU. It is a number of steps and
not of seconds, so that a training ends with the same reason on every machine."""


class DivergedError(OodbenchError):
    """A training has diverged. `reasons`: what went wrong, as clauses, for each attempt so far."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        attempts = f" in each of {len(reasons)} attempts, from different seeds" * (len(reasons) > 1)
        super().__init__(
            f"Training diverged{attempts}: {'; then '.join(reasons)}. "
            "Lower its learning rate or the weight of an added loss."
        )


def unfit_loss(recipe: Recipe, losses: Mapping[str, float]) -> str:
    """Which of some losses is not finite, as a clause; empty if all are."""
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    return f"the loss '{bad[0]}' of recipe '{recipe.name}' is {losses[bad[0]]}" if bad else ""


def divergence(recipe: Recipe, losses: Mapping[str, float], networks: Mapping[str, nn.Module]) -> str:
    """What is wrong with a training at the end of an epoch, as a clause; empty if nothing is.

    Raises `PluginError` if the recipe's `diverged` returns neither a text nor None.
    """
    if reason := unfit_loss(recipe, losses):
        return reason
    for name, network in networks.items():
        if not _is_finite(network):
            return f"recipe '{recipe.name}' has made weights of its network '{name}' that are not finite"
    found: object = recipe.diverged(losses)
    if not isinstance(found, str | None):
        raise PluginError(f"diverged() of recipe '{recipe.name}' returned {found!r}, expected a text or None.")
    return f"{found} (recipe '{recipe.name}')" if found else ""


@torch.no_grad()
def _is_finite(network: nn.Module) -> bool:
    """Whether all weights are finite. Buffers do not count, because a plug-in may mark empty ones with infinity."""
    found = [torch.isfinite(weight).all() for weight in network.parameters()]
    return bool(torch.stack(found).all()) if found else True
