"""Joint estimates (values, covariance, error draws) of one metric for D detectors on the same images.

Estimated by DeLong's covariance, by the influence of each image on the metric, or by the bootstrap. `bench compare`
uses the first for AUROC, the second for AUPR and the third for metrics at a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from oodbench.benchmark.stats.clustered import ResamplingUnits, VarianceEstimate
from oodbench.benchmark.stats.delong import Placements
from oodbench.benchmark.stats.paired_tests import NO_VARIANCE, Flags, Floats, JointEstimate, variance_of_differences
from oodbench.benchmark.stats.unseen_images import UnseenImages

SetUnits = tuple[ResamplingUnits, ResamplingUnits]
"""The resampling units of the ID and of the OOD set."""

NORMAL_DRAWS = 10_000
"""Number of draws behind a critical value; its tail of 5% is then known to within 0.2 points."""


def estimate_from_placements(
    placed: Sequence[Sequence[Placements]],
    different_networks: Flags,
    rng: np.random.Generator,
    draws: int = NORMAL_DRAWS,
    units: SetUnits | None = None,
) -> JointEstimate:
    """AUROC of D detectors and S seeds, `placed[s][d]`, with DeLong's covariance of the means over seeds.

    The mean AUROC over seeds is a U-statistic too; its placements are the means of those of the seeds (DeLong et al.
    1988). Every set needs two units. With one seed and the same network this is DeLong's test. With groups in `units`
    (of the ID and the OOD set) it is Obuchowski's, referred to t with Welch's degrees of freedom. Only
    the set of the best needs `draws`; 0 leaves them out.
    """
    means = [
        np.mean(sets, axis=0).T
        for sets in ([[p.of_id for p in row] for row in placed], [[p.of_ood for p in row] for row in placed])
    ]
    sides = units or (ResamplingUnits.of(len(means[0])), ResamplingUnits.of(len(means[1])))
    roots = [side.root(values) for side, values in zip(sides, means, strict=True)]
    # Both covariances are estimated, so the errors are multivariate t rather than normal.
    errors = sum(_drawn_t(root, side.count - 1, draws, rng) for root, side in zip(roots, sides, strict=True))
    per_seed = np.array([[p.auroc for p in row] for row in placed])
    unseen = UnseenImages(min(side.count for side in sides), "auroc")
    return JointEstimate(
        per_seed, np.concatenate(roots), np.asarray(errors), different_networks, _welch(roots, sides), unseen=unseen
    )


def _drawn_t(root: Floats, degrees: int, draws: int, rng: np.random.Generator) -> Floats:
    """(draws, D): multivariate t errors whose covariance is `root.T @ root`."""
    if not draws:
        return np.empty((0, root.shape[1]))
    # The triangle of the QR decomposition has the same covariance, and at most D rows.
    triangle = np.linalg.qr(root, mode="r")
    errors: Floats = rng.standard_normal((draws, len(triangle))) @ triangle
    return errors * np.sqrt(degrees / rng.chisquare(degrees, (draws, 1)))


def _welch(roots: Sequence[Floats], sides: SetUnits) -> Floats | None:
    """(D, D): degrees of freedom of each difference's variance, the sum of two (Welch, Biometrika 34 (1947), 28-35)."""
    if all(side.group is None for side in sides):
        return None
    parts = [variance_of_differences(root) for root in roots]
    below = sum(part**2 / (side.count - 1) for part, side in zip(parts, sides, strict=True))
    fewest = float(min(side.count for side in sides) - 1)
    return np.divide(sum(parts) ** 2, below, out=np.full_like(parts[0], fewest), where=np.asarray(below) > 0)


def estimate_from_influences(
    per_seed: Floats,
    influences: Sequence[Sequence[tuple[Floats, Floats]]],
    different_networks: Flags,
    rng: np.random.Generator,
    units: SetUnits,
    draws: int = NORMAL_DRAWS,
    unseen: UnseenImages | None = None,
) -> JointEstimate:
    """A smooth metric of D detectors and S seeds, from (S, D) values and the influence of each image on them.

    `influences[s][d]` are the influences of the ID and of the OOD images. Differences are judged on the scale of
    log(v / (1 - v)), as in `intervals`, because they are less skewed there. A variance that depends on few images gets
    few degrees of freedom: Satterthwaite's, of the least certain of the variances of the difference and of both values.
    """
    # Pairs of images, the same number for all detectors: with pairs of groups, which may be few, half a pair would move
    # a value by more than its error.
    values, pairs = per_seed.mean(axis=0), units[0].images * units[1].images
    centre = (values * pairs + 0.5) / (pairs + 1)
    slope = centre * (1 - centre)
    roots = [
        side.root(np.mean([[one[k] for one in row] for row in influences], axis=0).T / slope)
        for k, side in enumerate(units)
    ]
    triangles = [np.linalg.qr(root, mode="r") for root in roots]
    errors = sum(rng.standard_normal((draws, len(triangle))) @ triangle for triangle in triangles)
    return JointEstimate(
        per_seed,
        np.concatenate(roots),
        np.asarray(errors),
        different_networks,
        _satterthwaite(roots),
        _chords(values, centre),
        True,
        unseen,
    )


def _chords(values: Floats, centre: Floats) -> Floats:
    """(D, D): difference of two values divided by their difference on the scale of log(v / (1 - v))."""
    odds = special.logit(centre)
    gap, tangent = odds[:, None] - odds[None, :], centre * (1 - centre)
    near = np.abs(gap) < 1e-6
    chords: Floats = (tangent[:, None] + tangent[None, :]) / 2
    np.divide(values[:, None] - values[None, :], gap, out=chords, where=~near)
    return chords


def _satterthwaite(roots: Sequence[Floats]) -> Floats:
    """(D, D): degrees of freedom of each difference's variance, at most those of either value's variance."""
    count = roots[0].shape[1]
    of_value = np.array([_degrees_of_freedom([root[:, i] for root in roots]) for i in range(count)])
    degrees: Floats = np.minimum(of_value[:, None], of_value[None, :])
    for i, j in zip(*np.triu_indices(count, 1), strict=True):
        of_pair = _degrees_of_freedom([root[:, i] - root[:, j] for root in roots])
        degrees[i, j] = degrees[j, i] = min(degrees[i, j], of_pair)
    return degrees


def _degrees_of_freedom(parts: Sequence[Floats]) -> float:
    """Degrees of freedom of the sum of two variances, from one column of each set's root (see `clustered`)."""
    # A root is scaled so that its squares sum to the mean's variance; undo that to get one value per unit.
    estimates = [VarianceEstimate.of(part * np.sqrt(len(part) * (len(part) - 1))) for part in parts]
    total = estimates[0] + estimates[1]
    return total.degrees_of_freedom if total.variance > NO_VARIANCE else float(min(map(len, parts)) - 1)


def estimate_from_resamples(
    per_seed: Floats,
    resampled: Floats,
    different_networks: Flags,
    units: SetUnits | None = None,
    rng: np.random.Generator | None = None,
    unseen: UnseenImages | None = None,
) -> JointEstimate:
    """Any metric, from (S, D) values and (B, D) means over seeds on B resamples of the images; higher = better.

    The resamples are the same for all detectors. Errors are measured from the values themselves, not from the mean of
    the resamples, so that the bias of a metric read in the tail counts in addition to its variance (Efron & Tibshirani
    1993, chapters 6 and 10). With groups in `units`, which needs `rng`, differences are referred to t with the degrees
    of freedom of the set with fewer units.
    """
    errors = resampled - per_seed.mean(axis=0)
    root = errors / np.sqrt(len(errors))
    if units is None or rng is None or all(side.group is None for side in units):
        return JointEstimate(per_seed, root, errors, different_networks, unseen=unseen)
    degrees = min(side.count for side in units) - 1
    drawn = errors * np.sqrt(degrees / rng.chisquare(degrees, (len(errors), 1)))
    of_pairs = np.full(different_networks.shape, float(degrees))
    return JointEstimate(per_seed, root, drawn, different_networks, of_pairs, unseen=unseen)
