"""Monte Carlo dropout: the softmax averaged over networks with units left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from oodbench.benchmark import Batch, Detector, detector
from oodbench.detectors.msp import log_one_minus_max

BLOCK = 256


@detector(
    "mc_dropout",
    title="Monte Carlo dropout",
    paper="Gal & Ghahramani, Dropout as a Bayesian Approximation, ICML 2016",
)
class MCDropout(Detector):
    """log(1 - max_k of p) or the entropy of p, p the mean softmax over `samples` draws of the network's dropout masks.

    A draw's masks are the same for every image, one a unit (a channel in `Dropout2d`), so that a score depends on its
    own image alone, in whatever order the images come. Only dropout layers are switched on; all others stay in
    evaluation mode. `samples` passes an image. A network without dropout is skipped.

    Differs: the usual implementation draws masks anew for every image of a batch, so that a score depends on the
    image's place; pytorch-ood switches the whole network to training mode, batch norm included.
    """

    needs = frozenset({"images", "network"})
    samples: int = 16
    statistic: str = "max"
    mask_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an average over nothing, and statistics there are not."""
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.statistic not in ("max", "entropy"):
            raise ValueError(f"statistic must be 'max' or 'entropy', got {self.statistic!r}")

    @property
    def passes(self) -> int:  # type: ignore[override]
        """One a sample."""
        return self.samples

    def refuses(self, network: nn.Module) -> str | None:
        """A network that drops nothing gives one answer however often it is asked."""
        return None if any(layer.p > 0 for layer in _dropouts(network)) else "the network has no dropout to sample"

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """The statistic of the mean softmax."""
        return torch.cat([self._score(part) for part in batch.batches(BLOCK)])

    def _score(self, batch: Batch) -> Tensor:
        images, log_p = batch.images, []
        random = torch.Generator().manual_seed(self.mask_seed)
        with _fixed_masks(batch.classifier.network, random):
            for _ in range(self.samples):
                log_p.append(torch.log_softmax(batch.classifier(images).double(), dim=1))
        mean = torch.logsumexp(torch.stack(log_p), dim=0) - math.log(self.samples)
        if self.statistic == "entropy":
            return -(mean.exp() * mean).sum(dim=1)
        return log_one_minus_max(mean)


def _dropouts(network: nn.Module) -> list[_DropoutNd]:
    return [layer for layer in network.modules() if isinstance(layer, _DropoutNd)]


@contextmanager
def _fixed_masks(network: nn.Module, random: torch.Generator) -> Iterator[None]:
    """Let dropout layers of a network in evaluation mode drop by masks from `random`, one a pass for all images."""

    def drop(layer: _DropoutNd, _: object, out: Tensor) -> Tensor:
        whole = out.ndim == 2 or type(layer) is nn.Dropout
        shape = (1, *out.shape[1:]) if whole else (1, out.shape[1], *(1,) * (out.ndim - 2))
        kept = torch.rand(shape, generator=random) >= layer.p
        return out * (kept.to(out.device) / (1 - layer.p)) if layer.p < 1 else torch.zeros_like(out)

    hooks = [layer.register_forward_hook(drop) for layer in _dropouts(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
