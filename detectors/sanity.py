"""Sanity baselines: scores without information, to check metrics and tables."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector


@detector("random", title="Random (a hash of the image)", display_name="Random")
class Random(Detector):
    """A number in [0, 1) from a hash of the image's pixels: AUROC 0.5 except for chance, and the same in every run.

    It is a function of the image only: equal images have equal scores.
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


@detector("constant", title="Constant", display_name="Constant")
class Constant(Detector):
    """0 for every image: AUROC is exactly 0.5, and other metrics have their value for indistinguishable images."""

    needs = frozenset()
    is_sanity_baseline = True

    def score(self, batch: Batch) -> Tensor:
        """Zeros."""
        return torch.zeros(len(batch), dtype=torch.float64)
