"""Recomputes a cell's ID accuracy, intervals, extended metrics and AUROC by class, for `bench verify`.

Labels and groups come from the images. Where these are missing, a method returns the reason as a string, a clause such
as "whose logits are missing", instead of numbers. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.comparisons.scored_images import OTHERS, ScoredImages
from oodbench.benchmark.errors import first_line
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.metrics.extended import (
    EXTENDED_VERSION,
    NO_VALIDATION,
    Classified,
    ClassifiedImages,
    ScoredClassification,
    extended,
)
from oodbench.benchmark.metrics.names import SPREAD, SPREAD_VERSION, STABILITY_VERSION
from oodbench.benchmark.metrics.stability import stability
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.stats.by_class import Labelled, by_class
from oodbench.benchmark.stats.intervals import INTERVALS_VERSION, intervals_around
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.store.schema import ByClass

Artifact = tuple[Path, Mapping[str, Any]]
"""The path of an undamaged artifact, and the key in its side file."""


class Recompute:
    """Recomputes what depends on scores, logits and images.

    Args:
        images: Finds the images of a record's sets.
        artifact: Returns an undamaged artifact by its key's digest; None if there is none.
    """

    def __init__(self, images: ScoredImages, artifact: Callable[[str], Artifact | None]) -> None:
        self.images, self.artifact = images, artifact
        self._classified: dict[str, ClassifiedImages | str] = {}

    def accuracy(self, record: Record, logits: str, count: int) -> float | str:
        """ID accuracy, from the digest of the ID set's logits and the labels of its `count` images; or the reason."""
        images = self.classified(logits, self.images.used(record, record.id_set, count))
        return images if isinstance(images, str) else images.accuracy

    def intervals(
        self, record: Record, values: Mapping[str, float], scores: Sequence[np.ndarray]
    ) -> Mapping[str, Sequence[float]] | str:
        """Intervals around the metrics `values` of the ID and OOD `scores`; or the reason."""
        if _key(record).get("intervals", INTERVALS_VERSION) != INTERVALS_VERSION:
            return "which another version computed"
        groups = []
        for name, set_scores in zip((record.id_set, record.ood_set), scores, strict=True):
            images = self.images.of(record, name, len(set_scores))
            if isinstance(images, str):
                return images
            groups.append(images.groups)
        return {name: list(ends) for name, ends in intervals_around(values, *scores, *groups).items()}

    def by_class(self, record: Record, scores: Sequence[np.ndarray]) -> ByClass | str:
        """AUROCs by class of the ID and OOD `scores`, of a record with extended metrics; or the reason."""
        if (_key(record).get("extended") or [""])[0] != EXTENDED_VERSION:
            return "which another version computed"
        sets = []
        for name, set_scores in zip((record.id_set, record.ood_set), scores, strict=True):
            images = self.images.of(record, name, len(set_scores))
            if isinstance(images, str):
                return images
            sets.append(Labelled(set_scores, images.labels, images.classes, images.groups))
        return by_class(sets[0], sets[1])

    def extended(self, record: Record, logits: str, scores: Sequence[np.ndarray]) -> Mapping[str, float] | str:
        """Extended metrics of the ID and OOD `scores`, with the digest of the ID images' logits; or the reason.

        `logits`: empty where they, or labels, are not known, so that the metrics are those of scores alone.
        """
        version, *digests = _key(record).get("extended") or [""]
        if version != EXTENDED_VERSION:
            return "which another version computed"
        validated = bool(digests) and digests[0] != NO_VALIDATION
        found = [self.artifact(digest) for digest in digests[not validated :]]
        try:
            loaded = [(load_array(one[0]), one[1]) for one in found if one]
        except (OSError, ValueError) as error:
            return f"whose scores cannot be read: {first_line(error)}"
        if len(loaded) < len(found) or not digests:
            return "whose scores are missing"
        if not logits:
            return extended(scores[0], scores[1], loaded[0][0] if validated else None)
        test = self.classified(logits, self.images.used(record, record.id_set, len(scores[0])))
        if isinstance(test, str):
            return test
        shifted = []
        for shifted_scores, key in loaded[validated:]:
            images = self._shifted(record, key)
            if isinstance(images, str):
                return images
            if shifted_scores.shape != images.right.shape:
                return OTHERS
            shifted.append(ScoredClassification(images, shifted_scores))
        return extended(ScoredClassification(test, scores[0]), scores[1], loaded[0][0] if validated else None, shifted)

    def stability(self, record: Record, id_scores: np.ndarray) -> Mapping[str, float] | str:
        """AUROC of changed against unchanged ID test images, given the scores of these; or the reason."""
        version, *digests = _key(record).get("stability") or [""]
        if version != STABILITY_VERSION:
            return "which another version computed"
        scores = self._scores(digests if len(digests) == 1 else ())
        return scores if isinstance(scores, str) else stability(id_scores, scores[0])

    def tuned(self, record: Record) -> Mapping[str, Any] | str:
        """What a record says of its tuning, with the AUROC by tuning source and its spread recomputed; or the reason.

        The record's key has the scores of each source, but not which source they are of: values are assigned by size.
        """
        version, *digests = _key(record).get(SPREAD) or [""]
        if version != SPREAD_VERSION:
            return "which another version computed"
        scores = self._scores(digests if len(digests) % 2 == 0 else ())
        if isinstance(scores, str):
            return scores
        values = sorted(auroc(*pair) for pair in zip(scores[::2], scores[1::2], strict=True))
        sources = sorted(record.tuned["by_source"], key=record.tuned["by_source"].get)
        if len(sources) != len(values):
            return f"whose sources are {len(sources)} in the record and {len(values)} in its key"
        by_source = dict(zip(sources, values, strict=True))
        return {**record.tuned, "by_source": by_source, "spread": values[-1] - values[0]}

    def _scores(self, digests: Sequence[str]) -> list[np.ndarray] | str:
        """Scores by the digests of their keys; or the reason, if these are none or not all can be read."""
        found = [self.artifact(digest) for digest in digests]
        if not found or not all(found):
            return "whose scores are missing"
        try:
            return [load_array(one[0]) for one in found if one]
        except (OSError, ValueError) as error:
            return f"whose scores cannot be read: {first_line(error)}"

    def _shifted(self, record: Record, key: Mapping[str, Any]) -> Classified | str:
        """The classified images of a shifted form of the ID set, by the key of its scores."""
        logits = logits_behind(key)
        found = self.artifact(logits)
        data = record.provenance.get("data", ())
        used = [one for one in data if found and one.get("sha256") == found[1].get("data")]
        return self.classified(logits, used[0] if used else {})

    def classified(self, logits: str, used: Mapping[str, Any]) -> Classified | str:
        """Images with their logits, given by digest; or the reason. Cached, as detectors share logits."""
        if logits not in self._classified:
            self._classified[logits] = self._classify(logits, used)
        return self._classified[logits]

    def _classify(self, digest: str, used: Mapping[str, Any]) -> ClassifiedImages | str:
        found, images = self.artifact(digest), self.images.known(used)
        if found is None:
            return "whose logits are missing"
        if isinstance(images, str):
            return images
        if images.labels is None or images.checksum != found[1].get("data"):
            return OTHERS
        try:
            logits = load_array(found[0])
        except (OSError, ValueError) as error:
            return f"whose logits cannot be read: {first_line(error)}"
        if logits.shape != (len(images.labels), len(images.classes)):
            return f"whose logits have shape {logits.shape}, expected {(len(images.labels), len(images.classes))}"
        return ClassifiedImages(logits, images.labels)


def logits_behind(key: Mapping[str, Any]) -> str:
    """The digest of the logits that scores were computed from, by the key in their side file; empty if it has none."""
    outputs = key.get("outputs")
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    return logits if isinstance(logits, str) else ""


def outputs_behind(key: Mapping[str, Any]) -> str:
    """The same for logits or, where a network has none, features."""
    outputs = key.get("outputs")
    features = outputs.get("features") if isinstance(outputs, Mapping) else None
    return logits_behind(key) or (features if isinstance(features, str) else "")


def _key(record: Record) -> Mapping[str, Any]:
    """The content of the record's key, of which `Record.key` is the digest; empty in records of older versions."""
    key = record.provenance.get("key")
    return key if isinstance(key, dict) else {}
