"""The job that chooses a detector's settings from the scores of all candidates, which ordinary jobs have computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from oodbench.benchmark.plan.jobs import Checkpoint, FitJob, Job, Outputs, ScoreJob
from oodbench.benchmark.store.store import Key


@dataclass(frozen=True)
class Candidate:
    """Settings that a choice is made from, and what the jobs that try them store."""

    detector: str
    """The detector with these settings."""
    fitted: Key | None
    """What it learned; None if it has nothing to learn."""
    scores: tuple[Key, ...]
    """Its scores of ID validation, then of each set of `TuneJob.ood`."""


@dataclass(frozen=True, kw_only=True)
class TuneJob(Job):
    """Choose one detector's settings: those that best separate ID validation images from held-out images.

    Fits and scores of the candidates are jobs of their own, which choices on other images share. Those of some may
    fail, because not all settings fit every network.
    """

    kind = "tune"

    candidates: tuple[Candidate, ...]
    """The first has the defaults."""
    tried: frozenset[str]
    """Ids of the jobs that fit and score the candidates."""
    checkpoint: Checkpoint
    train: Outputs
    validation: Outputs
    outliers: Outputs | None
    ood: tuple[Outputs, ...]
    """The images to tell from ID validation."""
    seed: int

    @property
    def size(self) -> int:
        """Candidates times images that are compared."""
        images = self.validation.data.images + sum(outputs.data.images for outputs in self.ood)
        return len(self.candidates) * images

    @property
    def requires(self) -> tuple[str, ...]:
        """All but the jobs that try the candidates."""
        return tuple(id_ for id_ in self.after if id_ not in self.tried)

    @property
    def detectors(self) -> tuple[str, ...]:
        """Those of all candidates, of which it tries those again that failed."""
        return tuple(candidate.detector for candidate in self.candidates)


def without_tried(jobs: Iterable[Job], chosen: Iterable[str]) -> list[Job]:
    """Jobs without those that only tried settings; `chosen`: ids of those that fitted the chosen ones, which stay."""
    kept = list(jobs)
    tried = frozenset[str]().union(*(job.tried for job in kept if isinstance(job, TuneJob))) - set(chosen)
    return [job for job in kept if job.id not in tried]


def only_tries(job: Job) -> bool:
    """Whether a job only tries settings, so that no cell fails with it."""
    return isinstance(job, FitJob | ScoreJob) and bool(job.tried_for)
