"""Jobs that copy what the user gives into the store: logits and features of a set, a head, a method's scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from oodbench.benchmark.plan.jobs import ExtractJob, ImportJob, Job, SetRef


@dataclass(frozen=True, kw_only=True)
class ImportHeadJob(ImportJob):
    """Store the head of a network of which outputs are given, and its number of classes; it may have no head."""

    set: str
    """The registered ID set."""
    place: int
    """Which of the folders of outputs it is in, from 0."""
    has_head: bool


@dataclass(frozen=True, kw_only=True)
class ImportArraysJob(ExtractJob):
    """Store logits and features of one set from the user's arrays, in place of a pass that computes them."""

    kind = "import"

    place: int
    """Which of the folders of outputs they are in, from 0."""
    bytes: Mapping[str, int]
    """'logits' and 'features', those that are given -> bytes that they take in the store."""
    features_stored: bool = True
    """No image is pushed through a network."""


@dataclass(frozen=True, kw_only=True)
class ImportScoresJob(Job):
    """Store the scores of one set by a method of the user's."""

    kind = "import"

    data: SetRef
    given_set: str = ""
    """The registered set of scores that belong to the images of a suite; empty if `data` is of a given set."""
    method: str
    place: int
    seed: int

    @property
    def size(self) -> int:
        """Images of the set."""
        return self.data.images
