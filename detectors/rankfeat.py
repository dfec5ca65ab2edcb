"""RankFeat: the energy that is left when a feature map's largest direction is taken out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, Detector, detector

BLOCK = 256


@detector(
    "rankfeat",
    title="RankFeat",
    paper="Song, Sebe & Wang, RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection, NeurIPS 2022",
)
class RankFeat(Detector):
    """-logsumexp of the mean, over the `last` blocks, of the logits that the network has without that block's rank one.

    A block's map as X (C, HW) = sum_i s_i u_i v_i^T is replaced by X - s_1 u_1 v_1^T and the rest of the network runs
    on it; one block is changed at a time. The first direction comes from the smaller of X X^T and X^T X, in float64.
    The block's output is changed on the way through the network, whatever follows it, so that a block costs one pass:
    `last` passes an image. Maps of one pixel or one channel have no other rank and are refused.

    Differs: `last=2` is the authors' combination of blocks 3 and 4 of their networks, which OpenOOD has as well, and
    `last=1` their "Block 4"; here blocks are what the backbone names. Both compute in float32 by a singular value
    decomposition, or, faster and from a random start, by power iteration.
    """

    needs = frozenset({"images", "maps", "network"})
    last: int = 2

    def __post_init__(self) -> None:
        """Refuse no block at all."""
        if self.last < 1:
            raise ValueError(f"last must be at least 1, got {self.last}")

    @property
    def passes(self) -> int:  # type: ignore[override]
        """One a block."""
        return self.last

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Minus the energy's exponent, of the mean logits."""
        return torch.cat([self._score(part) for part in batch.batches(BLOCK)])

    def _score(self, batch: Batch) -> Tensor:
        classifier, images = batch.classifier, batch.images
        blocks = classifier.blocks
        if len(blocks) < self.last:
            raise DataError(f"The network has {len(blocks)} blocks; choose {self.name}[last={len(blocks)}] or less.")
        logits = [_logits_without(block, classifier, images) for block in blocks[-self.last :]]
        return -torch.stack(logits).double().mean(dim=0).logsumexp(dim=1)


def _logits_without(block: nn.Module, classifier: Classifier, images: Tensor) -> Tensor:
    """Logits with a block's rank one taken out."""

    def change(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return without_rank_one(output)

    handle = block.register_forward_hook(change)
    try:
        return classifier(images)
    finally:
        handle.remove()


def without_rank_one(maps: Tensor) -> Tensor:
    """X - s_1 u_1 v_1^T of each map (C, H, W) as X (C, HW)."""
    x = maps.flatten(2).double()
    if min(x.shape[1:]) == 1:
        raise DataError(
            f"The maps of a block are {tuple(maps.shape[1:])}: they have rank one, and nothing is left without it."
        )
    wide = x.shape[1] <= x.shape[2]
    square = x @ x.mT if wide else x.mT @ x
    first = torch.linalg.eigh(square)[1][:, :, -1:]
    projected = first @ (first.mT @ x) if wide else (x @ first) @ first.mT
    rest: Tensor = (x - projected).view(maps.shape).to(maps.dtype)
    return rest
