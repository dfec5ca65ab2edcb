"""RankFeat: energy after removing the largest singular component of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, Detector, detector

BLOCK = 256


@detector(
    "rankfeat",
    title="RankFeat",
    paper="Song, Sebe & Wang, RankFeat: Rank-1 Feature Removal for Out-of-distribution Detection, NeurIPS 2022",
    display_name="RankFeat",
    cite="song2022rankfeat",
)
class RankFeat(Detector):
    """-logsumexp of the mean logits over the `last` blocks, where one block's map has lost its rank-one component.

    The map of a block, X (C, HW) = sum_i s_i u_i v_i^T, is replaced by X - s_1 u_1 v_1^T, and the rest of the network
    runs on it; one block is changed at a time. The first component is computed from the smaller of X X^T and X^T X, in
    float64. The output of the block is changed by a hook, so that each block costs one pass: `last` passes per image.
    Maps with one pixel or one channel have rank one and are refused.

    Differs: `last=2` is the authors' combination of blocks 3 and 4 of their networks, as in OpenOOD, and `last=1` is
    their "Block 4"; here the backbone names the blocks. Both implementations compute in float32, by singular value
    decomposition or, faster and from a random start, by power iteration.
    """

    needs = frozenset({"images", "maps", "network"})
    last: int = 2

    def __post_init__(self) -> None:
        """Check that at least one block is used."""
        if self.last < 1:
            raise ValueError(f"last must be at least 1, got {self.last}")

    @property
    def passes(self) -> int:  # type: ignore[override]
        """One pass per block."""
        return self.last

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """Energy of the mean logits. Raises `DataError` if the network has fewer than `last` blocks."""
        return torch.cat([self._score(part) for part in batch.batches(BLOCK)])

    def _score(self, batch: Batch) -> Tensor:
        classifier, images = batch.classifier, batch.images
        blocks = classifier.blocks
        if len(blocks) < self.last:
            raise DataError(f"The network has {len(blocks)} blocks; choose {self.name}[last={len(blocks)}] or less.")
        logits = [_logits_without(block, classifier, images) for block in blocks[-self.last :]]
        return -torch.stack(logits).double().mean(dim=0).logsumexp(dim=1)


def _logits_without(block: nn.Module, classifier: Classifier, images: Tensor) -> Tensor:
    """Logits, (N, K), with the rank-one component of a block's map removed."""

    def change(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return without_rank_one(output)

    handle = block.register_forward_hook(change)
    try:
        return classifier(images)
    finally:
        handle.remove()


def without_rank_one(maps: Tensor) -> Tensor:
    """X - s_1 u_1 v_1^T of each map (C, H, W), as a matrix X (C, HW). Raises `DataError` for maps of rank one."""
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
