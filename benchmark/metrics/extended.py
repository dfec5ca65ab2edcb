"""The extended metrics of a cell (`bench run --metrics extended`), all computed from stored logits and scores.

Scores are higher = more OOD, and an image is accepted as ID when its score is at most the threshold, as in
`metrics.exact`. Values are fractions in [0, 1], except `nll`, which is in nats. A metric that is not defined (no
classification error to detect, no shifted set) is left out. `docs/metrics.md` has the formulas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oodbench.benchmark.errors import MetricError
from oodbench.benchmark.metrics.exact import Counts, auroc, checked_scores, entry_at_tpr95, evaluate
from oodbench.benchmark.metrics.names import EXTENDED_METRICS, FULL_SPECTRUM

EXTENDED_VERSION = "4"
"""Part of the key of every cell with these values, and with AUROCs by class (`stats.by_class`); increase it when one of
them changes."""

NO_VALIDATION = ""
"""Stands in the key of a cell for the scores of validation images, if there are none."""

CALIBRATION_BINS = 15

Floats = NDArray[np.float64]


class Classified(ABC):
    """Labelled images with what is known of a classifier's predictions for them."""

    @property
    @abstractmethod
    def right(self) -> NDArray[np.bool_]:
        """(N,): whether each image is classified correctly."""

    @property
    @abstractmethod
    def calibration(self) -> dict[str, float]:
        """`ece` and `nll`."""

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly."""
        return float(np.mean(self.right))


@dataclass(frozen=True, eq=False)
class ClassifiedImages(Classified):
    """Labelled images with a classifier's logits. What depends on these alone is computed once for all detectors."""

    logits: NDArray[Any]
    """(N, K)."""
    labels: NDArray[Any]
    """(N,), from 0 to K - 1."""

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """As in `Classified`."""
        right: NDArray[np.bool_] = self.logits.argmax(axis=1) == self.labels
        return right

    @cached_property
    def calibration(self) -> dict[str, float]:
        """As in `Classified`."""
        error = calibration_error(softmax(self.logits), self.labels)
        return {"ece": error, "nll": negative_log_likelihood(self.logits, self.labels)}


@dataclass(frozen=True, eq=False)
class ScoredClassification:
    """Labelled images with a classifier's predictions and a detector's scores."""

    images: Classified
    scores: NDArray[Any]
    """(N,)."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,): whether each image is classified correctly."""
        return self.images.right


def extended(
    test: ScoredClassification | NDArray[Any],
    ood_scores: NDArray[Any],
    validation_scores: NDArray[Any] | None,
    shifted: Sequence[ScoredClassification] = (),
) -> dict[str, float]:
    """Every extended metric of a cell that is defined, by the names of `EXTENDED_METRICS`.

    `validation_scores`: (V,) scores of ID images held out of training; None without such images. `shifted`: forms of
    the ID test set that keep its classes. `test`: scores alone, (N,), where logits or labels are not known; what
    depends on the classifier is then left out. Raises `MetricError` as `metrics.exact` does.
    """
    scores = test.scores if isinstance(test, ScoredClassification) else test
    values = {
        **(_of_classifier(test, ood_scores) if isinstance(test, ScoredClassification) else {}),
        **({} if validation_scores is None else deployed(scores, ood_scores, validation_scores)),
        "tnr_at_tpr99": tnr_at_tpr99(scores, ood_scores),
        **precisions(scores, ood_scores),
    }
    if shifted:
        values["shifted_accuracy"] = float(np.concatenate([known.right for known in shifted]).mean())
        both = np.concatenate([scores, *(known.scores for known in shifted)])
        full = evaluate(both, ood_scores)
        values |= {f"fs_{name}": full[name] for name in FULL_SPECTRUM}
    return {name: values[name] for name in EXTENDED_METRICS if name in values}


def _of_classifier(test: ScoredClassification, ood_scores: NDArray[Any]) -> dict[str, float]:
    """The metrics that need the classifier's errors or probabilities."""
    values = {**test.images.calibration, **failures(test.scores, test.right)}
    if test.right.any():
        values["oscr"] = oscr(test.scores, test.right, ood_scores)
    return values


def softmax(logits: ArrayLike) -> Floats:
    """(N, K) logits -> (N, K) probabilities, in float64. Raises `MetricError` for values that are not finite."""
    shifted = _finite(logits)
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    probabilities: Floats = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _finite(logits: ArrayLike) -> Floats:
    values = np.asarray(logits, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise MetricError(
            f"logits has values that are not finite for {len(bad)} of {len(values)} images, the first at index "
            f"{bad[0]}; expected finite logits for every image."
        )
    return values


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean -log p(label) of (N, K) logits and (N,) labels, in nats. Raises `MetricError` as `softmax` does."""
    return float(np.mean(label_losses(logits, labels)))


def label_losses(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """(N,): -log p(label) of (N, K) logits and (N,) labels, in nats. Raises `MetricError` as `softmax` does."""
    values = _finite(logits)
    top = values.max(axis=1)
    log_sum = top + np.log(np.exp(values - top[:, None]).sum(axis=1))
    losses: Floats = log_sum - values[np.arange(len(values)), np.asarray(labels)]
    return losses


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of (N, K) probabilities and (N,) labels.

    The mean of |accuracy - confidence| over bins of equal width, weighted by their numbers of images (Naeini, Cooper &
    Hauskrecht, AAAI 2015), with the 15 bins ((b - 1) / 15, b / 15] of Guo et al., ICML 2017, eq. 3.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    return calibration_gap(values.max(axis=1), values.argmax(axis=1) == np.asarray(labels), bins)


def calibration_gap(confidence: Floats, right: NDArray[np.bool_], bins: int = CALIBRATION_BINS) -> float:
    """`calibration_error`, from the largest probability of each image and whether it is right, (N,) each."""
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def failures(scores: ArrayLike, right: ArrayLike) -> dict[str, float]:
    """How well (N,) scores of ID images separate the classifier's errors from its correct predictions.

    `aurc`: the mean over n = 1 .. N of the share of errors among the n images with the lowest scores (Geifman &
    El-Yaniv, NeurIPS 2017, and Geifman, Uziel & El-Yaniv, ICLR 2019); lower is better. For tied scores it is the
    expectation over a random order. `augrc`: `generalised_risk_area`. `auroc_errors`: P(score of an error > score of a
    correct prediction), ties counting half (Hendrycks & Gimpel, ICLR 2017); left out where all or none are correct.
    Raises `MetricError` for NaN.
    """
    values, correct = checked_scores(scores, "scores"), np.asarray(right, dtype=bool)
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1) + 1
    errors = np.cumsum(~correct[order])[ends - 1]
    taken = np.arange(1, len(values) + 1)
    expected = np.interp(taken, np.append(0, ends), np.append(0, errors))
    metrics = {"aurc": float(np.mean(expected / taken)), "augrc": generalised_risk_area(errors, ends)}
    if correct.any() and not correct.all():
        metrics["auroc_errors"] = auroc(values[correct], values[~correct])
    return metrics


def generalised_risk_area(errors: NDArray[np.integer], taken: NDArray[np.integer]) -> float:
    """AUGRC, the area under generalised risk and coverage (Traub et al., NeurIPS 2024), in [0, 1/2]; lower is better.

    Generalised risk is the share of all images, rejected ones included, that are accepted and classified wrongly; the
    area averages it over the shares of images accepted, from none to all. It is the probability that a random image is
    an error and is accepted at the threshold of another random image, an image's own threshold counting half:

        AUGRC = (1 - AUROC of errors) acc (1 - acc) + (1 - acc)^2 / 2,    acc = accuracy

    Args:
        errors: (G,) numbers of errors among the images with the lowest scores, to the end of each group of tied scores.
        taken: (G,) numbers of these images; the last entry is N. Between two groups risk is linear, as in the authors'
            trapezoids, which is the expectation over the orders of tied images.
    """
    total = int(taken[-1])
    doubled = int(np.diff(taken, prepend=0) @ (errors + np.append(0, errors[:-1])))  # integers, so that it is exact
    return doubled / (2 * total**2)


def oscr(id_scores: ArrayLike, right: ArrayLike, ood_scores: ArrayLike) -> float:
    """Open-set classification rate (Dhamija, Guenther & Boult, NeurIPS 2018).

    The area under the share of ID images accepted *and* classified correctly, over the share of OOD images accepted. By
    the trapezoidal rule that is the accuracy times the AUROC of correctly classified ID images against OOD, which is
    how it is computed; at most the accuracy.
    """
    values, correct = np.asarray(id_scores), np.asarray(right, dtype=bool)
    return float(correct.mean()) * auroc(values[correct], ood_scores)


def deployed(id_scores: ArrayLike, ood_scores: ArrayLike, validation_scores: ArrayLike) -> dict[str, float]:
    """TPR and TNR on test images at the threshold that accepts 95% of ID *validation*, as in deployment.

    Each set is counted together with the validation scores, so that scores of different types are compared exactly.
    Raises `MetricError` as `metrics.exact` does.
    """
    validation = checked_scores(validation_scores, "validation_scores")
    named = (id_scores, "id_scores"), (ood_scores, "ood_scores")
    counted = [Counts.of(validation, checked_scores(scores, name)) for scores, name in named]
    accepted = [int(counts.ood_at_most[entry_at_tpr95(counts)]) for counts in counted]
    n_id, n_ood = (counts.n_ood for counts in counted)
    return {"tpr_validation": accepted[0] / n_id, "tnr_validation": (n_ood - accepted[1]) / n_ood}


def tnr_at_tpr99(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Share of OOD scores above the ceil(0.99 N)-th smallest ID score."""
    counts = Counts.of(id_scores, ood_scores)
    entry = np.searchsorted(counts.id_at_most, -(-99 * counts.n_id // 100))
    return 1 - int(counts.ood_at_most[entry]) / counts.n_ood


def precisions(id_scores: ArrayLike, ood_scores: ArrayLike) -> dict[str, float]:
    """Precision of a flag at the 95% threshold if 1% or 10% of all images were OOD.

    P = p TNR / (p TNR + (1 - p) (1 - TPR)) with p the share of OOD; left out where nothing is flagged. Raises
    `MetricError` as `metrics.exact` does.
    """
    counts = Counts.of(id_scores, ood_scores)
    entry = entry_at_tpr95(counts)
    hits = (counts.n_ood - int(counts.ood_at_most[entry])) / counts.n_ood
    alarms = (counts.n_id - int(counts.id_at_most[entry])) / counts.n_id
    if hits + alarms == 0:
        return {}
    shares: Mapping[str, float] = {"precision_1pct": 0.01, "precision_10pct": 0.1}
    return {name: float(p * hits / (p * hits + (1 - p) * alarms)) for name, p in shares.items()}
