"""Intervals and extended metrics of a cell computed anew from what is stored, for `verify`. No torch.

What cannot be computed here is told in words in place of the numbers: without the images nobody knows their labels, or
which of them belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.compare.scored_images import OTHERS, ScoredImages
from oodbench.benchmark.metrics.extended import EXTENDED_VERSION, ClassifiedImages, ScoredClassification, extended
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.stats.intervals import INTERVALS_VERSION, intervals_around

Artifact = tuple[Path, Mapping[str, Any]]
"""A whole artifact, and the key in its side file."""


class Recompute:
    """Computes what hangs on scores, logits and images; `artifact` finds whole artifacts by their keys' digests."""

    def __init__(self, images: ScoredImages, artifact: Callable[[str], Artifact | None]) -> None:
        self.images, self.artifact = images, artifact
        self._classified: dict[str, ClassifiedImages | str] = {}

    def accuracy(self, record: Record, logits: str, count: int) -> float | str:
        """ID accuracy from logits and labels."""
        found = self.classified(logits, self.images.used(record, record.id_set, count))
        return found if isinstance(found, str) else found.accuracy

    def intervals(
        self, record: Record, values: Mapping[str, float], scores: Sequence[np.ndarray]
    ) -> Mapping[str, Sequence[float]] | str:
        """The intervals of metrics, `values`, of ID and OOD `scores`."""
        if _key(record).get("intervals", INTERVALS_VERSION) != INTERVALS_VERSION:
            return "which another version made"
        groups = []
        for name, own in zip((record.id_set, record.ood_set), scores, strict=True):
            images = self.images.of(record, name, len(own))
            if isinstance(images, str):
                return images
            groups.append(images.groups)
        return {name: list(ends) for name, ends in intervals_around(values, *scores, *groups).items()}

    def extended(self, record: Record, logits: str, scores: Sequence[np.ndarray]) -> Mapping[str, float] | str:
        """The extended metrics of ID and OOD `scores`, where `logits` are those of the ID images."""
        version, *digests = _key(record).get("extended") or [""]
        if version != EXTENDED_VERSION:
            return "which another version made"
        found = [self.artifact(digest) for digest in digests]
        more = [(np.load(one[0], allow_pickle=False), one[1]) for one in found if one]
        if len(more) < len(found) or not more:
            return "whose scores are not there"
        test = self.classified(logits, self.images.used(record, record.id_set, len(scores[0])))
        if isinstance(test, str):
            return test
        shifted = []
        for own, key in more[1:]:
            images = self._shifted(record, key)
            if isinstance(images, str):
                return images
            shifted.append(ScoredClassification(images, own))
        return extended(ScoredClassification(test, scores[0]), scores[1], more[0][0], shifted)

    def _shifted(self, record: Record, key: Mapping[str, Any]) -> ClassifiedImages | str:
        """A shifted form of the ID set, found by the key of its scores."""
        logits = key.get("outputs", {}).get("logits", "")
        found = self.artifact(logits)
        data = record.provenance.get("data", ())
        used = [one for one in data if found and one.get("sha256") == found[1].get("data")]
        return self.classified(logits, used[0] if used else {})

    def classified(self, logits: str, used: Mapping[str, Any]) -> ClassifiedImages | str:
        """Images as a classifier saw them, by the digest of its logits; once for all detectors."""
        if logits not in self._classified:
            self._classified[logits] = self._classify(logits, used)
        return self._classified[logits]

    def _classify(self, logits: str, used: Mapping[str, Any]) -> ClassifiedImages | str:
        found, images = self.artifact(logits), self.images.known(used)
        if found is None:
            return "whose logits are not there"
        if isinstance(images, str):
            return images
        if images.labels is None or images.checksum != found[1].get("data"):
            return OTHERS
        return ClassifiedImages(np.load(found[0], mmap_mode="r", allow_pickle=False), images.labels)


def _key(record: Record) -> Mapping[str, Any]:
    """What the record's key is the digest of; empty in records of older versions."""
    key = record.provenance.get("key")
    return key if isinstance(key, dict) else {}
