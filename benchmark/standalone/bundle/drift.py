"""Compares the scores of images in service with those of ID validation images: has the input drifted?"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.errors import UserError, counted
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.standalone.bundle.contents import Bundle
from oodbench.benchmark.standalone.bundle.monitor import FileVerdict, Monitor
from oodbench.benchmark.stats.accepted_share import share_interval

BINS = 40

OUTSIDE = 0.001
"""Share of each side's scores beyond the ends of the histogram, counted in its first and last bin."""

ALPHA = 0.05


class Tally:
    """Counts verdicts about images, eight bytes each."""

    def __init__(self) -> None:
        self.scores = array("d")
        self.accepted, self.rejected, self.unusable = 0, 0, 0
        self.predicted: Counter[str] = Counter()

    def add(self, verdict: FileVerdict) -> None:
        """Count one image."""
        if verdict.score is None:
            self.unusable += 1
            return
        self.scores.append(verdict.score)
        self.accepted += verdict.accepted
        self.rejected += not verdict.accepted
        self.predicted.update([verdict.predicted] if verdict.predicted else [])


@dataclass(frozen=True)
class Drift:
    """How the scores of some images differ from those of ID validation images."""

    monitor: Monitor
    scores: NDArray[np.float64]
    """(N,) of the images."""
    unusable: int
    """Files that were no usable images."""
    predicted: Mapping[str, int]
    """Images by predicted class, for those that occur."""

    @classmethod
    def of(cls, monitor: Monitor, tally: Tally) -> Drift:
        """From what was counted. Raises `UserError` if no image has a score."""
        if not tally.scores:
            raise UserError("There is nothing to report: no image has a score.")
        return cls(monitor, np.array(tally.scores), tally.unusable, dict(tally.predicted))

    @property
    def bundle(self) -> Bundle:
        """The detector's bundle."""
        return self.monitor.bundle

    @property
    def validation(self) -> NDArray[np.float64]:
        """Scores of ID validation images, sorted."""
        return self.bundle.validation_scores

    @property
    def accepted(self) -> tuple[int, int]:
        """Accepted images of (ID validation, these images)."""
        threshold = self.monitor.threshold
        return int((self.validation <= threshold).sum()), int((self.scores <= threshold).sum())

    @property
    def shares(self) -> tuple[float, float]:
        """The same as shares."""
        known, here = self.accepted
        return known / len(self.validation), here / len(self.scores)

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95% interval of the share of such images that is accepted, as if they were independent."""
        return share_interval(self.accepted[1], len(self.scores))

    @property
    def share_p(self) -> float:
        """Fisher's exact two-sided test that both shares are equal."""
        from scipy.stats import fisher_exact

        known, here = self.accepted
        table = [[known, len(self.validation) - known], [here, len(self.scores) - here]]
        return float(fisher_exact(table)[1])

    @property
    def distance(self) -> tuple[float, float]:
        """Kolmogorov and Smirnov's two-sample statistic D, the largest difference of shares at any threshold, and its
        two-sided p-value."""
        from scipy.stats import ks_2samp

        found = ks_2samp(self.validation, self.scores)
        return float(found.statistic), float(found.pvalue)

    @property
    def higher(self) -> float:
        """Probability that one of these images has a higher score than an ID validation image, ties counting half:
        AUROC."""
        return float(auroc(self.validation, self.scores))

    def histograms(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Edges, (B + 1,), and the share of validation images and of these images in each bin, (B,) each."""
        ends = np.array([np.quantile(side, [OUTSIDE, 1 - OUTSIDE]) for side in (self.validation, self.scores)])
        low = min(float(ends[:, 0].min()), self.monitor.threshold)
        high = max(float(ends[:, 1].max()), self.monitor.threshold)
        if high <= low:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, BINS + 1)
        shares = [np.histogram(side.clip(low, high), edges)[0] / len(side) for side in (self.validation, self.scores)]
        return edges, shares[0], shares[1]

    def sentences(self) -> list[str]:
        """What the numbers say, most important first."""
        known, here = (f"{100 * share:.1f}%" for share in self.shares)
        low, high = (f"{100 * end:.1f}" for end in self.interval)
        differs = self.share_p < ALPHA
        direction = "fewer" if self.shares[1] < self.shares[0] else "more"
        comparison = (
            f"{direction} than the {known} of ID validation images (Fisher's exact test, p = {self.share_p:.2g})"
            if differs
            else f"not distinguishable from the {known} of ID validation images (Fisher's exact test, p = "
            f"{self.share_p:.2g})"
        )
        distance, p = self.distance
        shift = (
            f"Score distributions differ (Kolmogorov-Smirnov D = {distance:.3f}, p = {p:.2g})"
            if p < ALPHA
            else f"Score distributions are not distinguishable (Kolmogorov-Smirnov D = {distance:.3f}, p = {p:.2g})"
        )
        found = [
            f"{here} of {len(self.scores):,} images are accepted (95% interval {low} to {high}%): {comparison}.",
            f"{shift}; an image scores higher than an ID validation image with probability {self.higher:.2f} (0.5: no "
            "difference).",
            "Intervals and tests take images for independent of each other. Where they are not, such as frames of one "
            "video, they find differences that are chance.",
        ]
        if groups := self.bundle.validation.groups:
            found.append(
                f"The {self.bundle.validation.images:,} ID validation images are of {groups} "
                f"group{'s' * (groups != 1)} that depend on each other, so that they stand for fewer than their number."
            )
        if self.unusable:
            files = counted(self.unusable, "file is no usable image and is", "files are no usable images and are")
            found.append(f"{files} not counted.")
        return found

    def numbers(self) -> dict[str, Any]:
        """Everything as JSON values."""
        edges, known, here = self.histograms()
        distance, p = self.distance
        return {
            "detector": self.monitor.name,
            "bundle": {"run": self.bundle.provenance.get("run"), "id_set": self.bundle.id_set},
            "threshold": self.monitor.threshold,
            "tpr": self.monitor.tpr,
            "images": len(self.scores),
            "unusable": self.unusable,
            "accepted": self.accepted[1],
            "accepted_share": self.shares[1],
            "accepted_share_interval": list(self.interval),
            "validation_images": self.bundle.validation.images,
            "validation_accepted_share": self.shares[0],
            "fisher_p": self.share_p,
            "ks_statistic": distance,
            "ks_p": p,
            "probability_higher": self.higher,
            "predicted": dict(self.predicted),
            "histogram": {"edges": edges.tolist(), "validation": known.tolist(), "images": here.tolist()},
            "sentences": self.sentences(),
        }
