"""Sanity rows: what a table says of a score that knows nothing."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector


@detector("random", title="Random (a hash of the image)", paper="A sanity row; no paper")
class Random(Detector):
    """A number in [0, 1) from a hash of the image's pixels: AUROC 0.5 but for chance, and the same in every run.

    A function of the image alone: equal images have equal scores.
    """

    needs = frozenset({"images"})
    is_sanity_baseline = True
    salt: int = 0

    def score(self, batch: Batch) -> Tensor:
        """64 bits of BLAKE2b of the uint8 pixels, as a fraction."""
        salt = self.salt.to_bytes(8, "little", signed=True)
        pixels = (batch.images * 255).round().to("cpu", torch.uint8).numpy()
        digests = [hashlib.blake2b(image.tobytes(), digest_size=8, salt=salt).digest() for image in pixels]
        return torch.tensor([int.from_bytes(d, "little") / 2**64 for d in digests], dtype=torch.float64)


@detector("constant", title="Constant", paper="A sanity row; no paper")
class Constant(Detector):
    """0 for every image: AUROC exactly 0.5, and the value of every other metric when nothing can be told apart."""

    needs = frozenset()
    is_sanity_baseline = True

    def score(self, batch: Batch) -> Tensor:
        """Zeros."""
        return torch.zeros(len(batch), dtype=torch.float64)
