"""Multinomial logistic regression on features: the unique optimum of a convex loss, to the precision of float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from oodbench.benchmark import Head, OodbenchError

ROWS = 8192
"""Features per piece, which are converted to float64 and standardised when they are needed."""

KEPT = 1 << 25
"""Numbers of at most so many standardised features are kept: 256 MB for each target."""

MOST_STEPS, TOLERANCE, ACCEPTED = 1000, 1e-7, 1e-4
"""L-BFGS ends when no entry of the gradient is larger than the tolerance, or after the largest number of steps, if the
gradient is then accepted: scikit-learn's tolerance is 1e-4. A probe of 1,280 features takes about 40 steps."""


class Target(NamedTuple):
    """Features with the classes that they should be given."""

    features: Tensor
    """float32 (N, D)."""
    labels: Tensor | None
    """int64 (N,); None if all classes should be equally likely."""
    weight: float = 1.0
    """Factor of the mean loss over these features."""


def fit(targets: Sequence[Target], classes: int, l2: float, tolerance: float = TOLERANCE) -> Head:
    """The head that minimises the sum of the targets' weighted mean losses + l2 / 2 |W|^2.

    The loss of a feature is the cross-entropy of its label, or KL(U || p) without one. W acts on features that are
    standardised by the mean and standard deviation of the first target's (a constant one is only centred); the result
    acts on the features as they are. The bias is not penalised. No entry of the gradient is larger than `tolerance`, if
    that is reached. Random numbers are not used.

    Raises `OodbenchError` if L-BFGS does not converge.
    """
    mean, scale = _moments(targets[0].features)
    width = len(mean)
    standardised = [_Standardised(target.features, mean, scale) for target in targets]
    losses: list[float] = []

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = _parts(torch.from_numpy(flat), classes, width)
        slope, shift = l2 * weight, torch.zeros_like(bias)
        losses.clear()
        for target, pieces in zip(targets, standardised, strict=True):
            losses.append(_add_loss(target, pieces, weight, bias, slope, shift))
        total = sum(target.weight * loss for target, loss in zip(targets, losses, strict=True))
        value = total + 0.5 * l2 * float((weight * weight).sum())
        return value, torch.cat([slope.flatten(), shift]).numpy()

    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options=options)
    if float(np.abs(found.jac).max()) > max(ACCEPTED, tolerance):
        raise OodbenchError(f"The head has not converged in {found.nit} steps. Raise its l2, which is {l2}.")
    objective(found.x)
    weight, bias = _parts(torch.from_numpy(found.x), classes, width)
    names = ["cross_entropy" if target.labels is not None else "kl_to_uniform" for target in targets]
    return Head(weight / scale, bias - (weight / scale) @ mean, dict(zip(names, losses, strict=True)))


def _parts(flat: Tensor, classes: int, width: int) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) from one vector."""
    return flat[: classes * width].view(classes, width), flat[classes * width :]


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, float64 (D,); 1 in place of a deviation of 0."""
    count = len(features)
    mean = sum(piece.double().sum(dim=0) for piece in features.split(ROWS)) / count
    square = sum(((piece.double() - mean) ** 2).sum(dim=0) for piece in features.split(ROWS)) / count
    deviation = torch.as_tensor(square).sqrt()
    varies = deviation > 1e-12 * mean.abs().clamp_min(1e-30)
    return torch.as_tensor(mean), torch.where(varies, deviation, torch.ones_like(deviation))


class _Standardised:
    """A target's features, centred and divided by the scale, in float64 and in pieces; kept if they are few."""

    def __init__(self, features: Tensor, mean: Tensor, scale: Tensor) -> None:
        self._pieces, self._mean, self._scale = features.split(ROWS), mean, scale
        self._kept = [self._of(piece) for piece in self._pieces] if features.numel() <= KEPT else None

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._kept) if self._kept is not None else map(self._of, self._pieces)

    def _of(self, piece: Tensor) -> Tensor:
        return (piece.double() - self._mean) / self._scale


def _add_loss(
    target: Target, pieces: _Standardised, weight: Tensor, bias: Tensor, slope: Tensor, shift: Tensor
) -> float:
    """The mean loss of a target, without its weight; adds its weighted gradient to `slope` (K, D) and `shift` (K,)."""
    count, classes = len(target.features), len(bias)
    total, start = 0.0, 0
    for z in pieces:
        log_p = F.log_softmax(z @ weight.T + bias, dim=1)
        difference = log_p.exp()
        if target.labels is None:
            total -= float(log_p.mean(dim=1).sum()) + len(z) * float(np.log(classes))
            difference -= 1 / classes
        else:
            labels = target.labels[start : start + len(z), None]
            total -= float(log_p.gather(1, labels).sum())
            difference.scatter_add_(1, labels, -torch.ones_like(labels, dtype=difference.dtype))
        difference *= target.weight / count
        slope += difference.T @ z
        shift += difference.sum(dim=0)
        start += len(z)
    return total / count
