"""Monte Carlo dropout: the softmax averaged over random dropout masks."""

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
    display_name="MC dropout",
    cite="gal2016dropout",
)
class MCDropout(Detector):
    """log(1 - max_k p_k) or the entropy of p, where p is the mean softmax over `samples` draws of the dropout masks.

    A draw's masks are shared by all images, with one value per unit (per channel in `Dropout2d`), so that a score
    depends on its own image only, whatever the order of the images. Only dropout layers are active; all others stay in
    evaluation mode. `samples` passes per image. A network without dropout is skipped.

    Differs: the usual implementation draws separate masks for every image of a batch, so that a score depends on the
    image's position; pytorch-ood switches the whole network to training mode, including batch norm.
    """

    needs = frozenset({"images", "network"})
    samples: int = 16
    statistic: str = "max"
    mask_seed: int = 0

    def __post_init__(self) -> None:
        """Check the number of samples and the statistic."""
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.statistic not in ("max", "entropy"):
            raise ValueError(f"statistic must be 'max' or 'entropy', got {self.statistic!r}")

    @property
    def passes(self) -> int:  # type: ignore[override]
        """One pass per sample."""
        return self.samples

    def refuses(self, network: nn.Module) -> str | None:
        """Refuse a network without active dropout: all samples would be equal."""
        return None if any(layer.p > 0 for layer in _dropouts(network)) else "the network has no dropout to sample"

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """The statistic of the mean softmax, in nats."""
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
    """Within the block, dropout layers use masks from `random`: one per layer and pass, shared by all images."""

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
