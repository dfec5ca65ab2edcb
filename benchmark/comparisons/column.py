"""Compares the detectors of one column of a run's tables (an ID set against an OOD set) by their stored scores.

The detectors that compete have scores in the column, and their recipes were not trained on outliers of the OOD set's
distribution. They are compared on the seeds that all of them have. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.metrics.names import LOWER_IS_BETTER
from oodbench.benchmark.records.beside import network_of, store_of
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.stats.bootstrap import Scores, resampled
from oodbench.benchmark.stats.clustered import ResamplingUnits
from oodbench.benchmark.stats.delong import Placements
from oodbench.benchmark.stats.estimates import (
    NORMAL_DRAWS,
    SetUnits,
    estimate_from_influences,
    estimate_from_placements,
    estimate_from_resamples,
)
from oodbench.benchmark.stats.intervals import PRECISIONS, precision_influences
from oodbench.benchmark.stats.paired_tests import LEVEL, Flags, Floats, JointEstimate
from oodbench.benchmark.stats.seeds import derive
from oodbench.benchmark.stats.unseen_images import UnseenImages
from oodbench.benchmark.store.npy import stored_scores

AUROC = "auroc"

RESAMPLES = 2000

FEWEST = 2
"""Images, or groups of images, that a set needs: a single one has no variance."""

NEED_MANY = (*PRECISIONS, "detection_accuracy")

FEWEST_OF_THESE = 100
"""Images per set needed for `NEED_MANY`: with 50, p was below 5% for up to 7% of true nulls (perf/levels.py)."""

SETS = ("ID", "OOD")

SEEN = "was trained on outliers of this distribution"


@dataclass(frozen=True, eq=False)
class ColumnComparison:
    """The comparison of the detectors on one ID set against one OOD set."""

    id_set: str
    ood_set: str
    source: bool
    """Whether the OOD set has the distribution of the suite's outliers; if so, left out of the matrix and of means."""
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    n_id: int
    n_ood: int
    estimate: JointEstimate
    """In the order of `labels`; higher = better, so metrics where lower is better have their sign changed."""
    left_out: Mapping[str, str]
    """Label -> why it does not compete in this column."""
    units: SetUnits
    """The resampling units of the ID and of the OOD set."""
    seeds_left_out: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Seed that only some detectors have -> the detectors without a result for it."""
    images_unknown: tuple[str, ...] = ()
    """Sets whose groups are unknown because their images are not available; their images count as independent."""

    @property
    def best(self) -> str:
        """The detector with the best value."""
        return self.labels[int(self.estimate.values.argmax())]

    @property
    def best_set(self) -> frozenset[str]:
        """The detectors that may be the best: the set contains the truly best one with 95% confidence."""
        return frozenset(label for label, stays in zip(self.labels, self.estimate.best_set, strict=True) if stays)

    def outcome(self, a: str, b: str) -> int | None:
        """1 if `a` is better than `b` at 5%, Holm-adjusted over the column; -1 if worse, 0 if neither.

        None if either of them does not compete.
        """
        if a not in self.labels or b not in self.labels:
            return None
        i, j = self.labels.index(a), self.labels.index(b)
        return int(np.sign(self.estimate.difference[i, j])) if self.estimate.holm[i, j] < 1 - LEVEL else 0


@dataclass(frozen=True)
class ComparisonConfig:
    """Settings of the comparison of a column."""

    cache: Path
    """The store that holds the scores."""
    metric: str = AUROC
    resamples: int = RESAMPLES
    """Bootstrap resamples, for metrics that need them."""
    seed: int = 0
    """Seed of the resamples and of the simulated errors."""
    images: ScoredImages | None = None
    """Where to look up which images belong together; None: all count as independent."""
    draws: int = NORMAL_DRAWS
    """Simulated errors of AUROC; 0 where nobody asks for the set of the best, the only thing that needs them."""


def by_column(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """(ID set, OOD set) -> its records, in order of appearance."""
    columns: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        columns.setdefault((record.id_set, record.ood_set), []).append(record)
    return columns


def compare_column(
    records: Sequence[Record], labels: Sequence[str], config: ComparisonConfig
) -> ColumnComparison | str:
    """Compare the detectors `labels` in the column of `records`; a string says why the column cannot be judged.

    Raises `UserError` where scores are not in the store.
    """
    competing = Competitors.of(records, labels)
    if len(competing.inside) < 2:
        return "; ".join(f"{label} {reason}" for label, reason in competing.left_out.items())
    used = [[competing.results[label][s] for label in competing.inside] for s in competing.seeds]
    scores = [[_scores(record, config.cache) for record in of_seed] for of_seed in used]
    first = used[0][0]
    sizes = {(len(id_), len(ood)) for of_seed in scores for id_, ood in of_seed}
    if len(sizes) > 1:
        return f"the detectors were not scored on the same images: {sorted(sizes)} ID and OOD images"
    n_id, n_ood = sizes.pop()
    sides, unknown_of = _units(first, n_id, n_ood, config.images)
    if why := too_few(config.metric, sides):
        return why
    rng = np.random.default_rng(derive(config.seed, "compare", config.metric, first.id_set, first.ood_set))
    estimate = estimated(config.metric, scores, _different_networks(used), sides, rng, config.resamples, config.draws)
    source = any(record.outlier_source for record in records)
    return ColumnComparison(
        first.id_set, first.ood_set, source, competing.inside, competing.seeds, n_id, n_ood, estimate,
        competing.left_out, sides, competing.seeds_left_out, unknown_of,
    )  # fmt: skip


def too_few(metric: str, sides: SetUnits) -> str:
    """Why a metric of so few images cannot be judged; empty if it can."""
    if min(side.count for side in sides) < FEWEST:
        counts = " and ".join(f"{side.count} {unit}" for side, unit in zip(sides, _unit_names(sides), strict=True))
        return f"{counts} are too few"
    n_id, n_ood = (side.images for side in sides)
    if metric in NEED_MANY and min(n_id, n_ood) < FEWEST_OF_THESE:
        name = "AUPR" if metric in PRECISIONS else metric
        return f"{n_id} ID and {n_ood} OOD images are too few to judge {name}, which needs {FEWEST_OF_THESE} of each"
    return ""


def _unit_names(sides: SetUnits) -> list[str]:
    return [f"{name} {'images' if side.group is None else 'groups'}" for side, name in zip(sides, SETS, strict=True)]


def _units(record: Record, n_id: int, n_ood: int, images: ScoredImages | None) -> tuple[SetUnits, tuple[str, ...]]:
    """The resampling units of both sets, and the names of the sets whose groups are unknown."""
    if images is None:
        return (ResamplingUnits.of(n_id), ResamplingUnits.of(n_ood)), ()
    names = record.id_set, record.ood_set
    found = [images.of(record, name, count) for name, count in zip(names, (n_id, n_ood), strict=True)]
    groups = [None if isinstance(one, str) else one.groups for one in found]
    unknown_of = tuple(name for name, one in zip(names, found, strict=True) if isinstance(one, str))
    return (ResamplingUnits.of(n_id, groups[0]), ResamplingUnits.of(n_ood, groups[1])), unknown_of


@dataclass(frozen=True)
class Competitors:
    """The detectors that compete in a column, and the seeds on which they do."""

    results: Mapping[str, Mapping[int, Record]]
    """Label -> seed -> its record, where it has a result."""
    inside: tuple[str, ...]
    """The labels that compete."""
    seeds: tuple[int, ...]
    left_out: Mapping[str, str]
    """Label -> why it does not compete."""
    seeds_left_out: Mapping[int, tuple[str, ...]]
    """Seed that only some competitors have -> those without a result for it."""

    @classmethod
    def of(cls, records: Sequence[Record], labels: Sequence[str]) -> Competitors:
        """Detectors with a result that were not trained on the distribution, on the seeds that all of them have.

        If no seed is common to all, the seed that most of them have decides which detectors compete.
        """
        by_label = {label: [r for r in records if r.label == label] for label in labels}
        results = {label: {r.seed: r for r in rows if r.status == OK} for label, rows in by_label.items()}
        left_out = {label: SEEN for label, rows in by_label.items() if any(r.seen for r in rows)}
        left_out |= {label: "has no result" for label in labels if label not in left_out and not results[label]}
        inside = [label for label in labels if label not in left_out]
        every = sorted({seed for label in inside for seed in results[label]})
        if inside and not any(all(seed in results[label] for label in inside) for seed in every):
            most = max(every, key=lambda seed: sum(seed in results[label] for label in inside))
            left_out |= {label: f"has no result for seed {most}" for label in inside if most not in results[label]}
            inside = [label for label in inside if label not in left_out]
        lacking = {seed: tuple(label for label in inside if seed not in results[label]) for seed in every}
        seeds = tuple(seed for seed, without in lacking.items() if not without)
        unused = {seed: without for seed, without in lacking.items() if 0 < len(without) < len(inside)}
        return cls(results, tuple(inside), seeds, left_out, unused)


def _different_networks(used: Sequence[Sequence[Record]]) -> Flags:
    """(D, D): whether two detectors score different networks, in any seed."""
    networks = [tuple(network_of(of_seed[i]) for of_seed in used) for i in range(len(used[0]))]
    return np.array([[a != b for b in networks] for a in networks])


def _scores(record: Record, cache: Path) -> Scores:
    cache = store_of(record, cache)
    id_scores, ood_scores = (_array(record, name, cache) for name in ("id_scores", "ood_scores"))
    return id_scores, ood_scores


def _array(record: Record, name: str, cache: Path) -> Floats:
    array = stored_scores(cache, record.artifacts, name)
    if array is not None:
        return array
    raise UserError(
        f"The scores of '{record.label}' on {record.id_set} against {record.ood_set}, seed {record.seed}, are not in "
        f"the cache '{cache}'. Repeat the command that made the run: it computes only what is missing."
    )


def estimated(
    metric: str,
    scores: Sequence[Sequence[Scores]],
    different_networks: Flags,
    sides: SetUnits,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    draws: int = NORMAL_DRAWS,
) -> JointEstimate:
    """The joint estimate of one metric; `scores[s][d]` are those of seed s and detector d, on the same images."""
    if metric == AUROC:
        return estimate_from_placements(
            [[Placements.of(*pair) for pair in of_seed] for of_seed in scores], different_networks, rng, draws, sides
        )
    sign = -1 if metric in LOWER_IS_BETTER else 1
    values = np.array([[evaluate(*pair)[metric] for pair in of_seed] for of_seed in scores])
    unseen = UnseenImages(min(side.count for side in sides), metric, sides[1].images / sides[0].images)
    if metric in PRECISIONS:
        influences = [[precision_influences(metric, *pair) for pair in of_seed] for of_seed in scores]
        return estimate_from_influences(values, influences, different_networks, rng, sides, unseen=unseen)
    drawn = resampled((metric,), scores, resamples, rng, sides)[metric]
    return estimate_from_resamples(sign * values, sign * drawn, different_networks, sides, rng, unseen)
