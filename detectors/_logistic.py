"""Multinomial logistic regression on features: the unique optimum of a convex loss, to the precision of float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from oodbench.benchmark import Head, OodbenchError

ROWS = 8192
"""Features per piece, which are converted to float64 and standardised when they are needed."""

KEPT = 1 << 25
"""Numbers of at most so many standardised features are kept: 256 MB for each target."""

MOST_STEPS, TOLERANCE, ACCEPTED = 1000, 1e-7, 1e-4
"""L-BFGS ends when no entry of the gradient is larger than the tolerance, or after the largest number of steps. A probe
of 1,280 features takes about 40 steps. In the end the gradient must be accepted: scikit-learn's tolerance is 1e-4."""

MOST_NEWTON, MOST_PRODUCTS = 20, 500
"""Newton steps after L-BFGS, where that has not reached the tolerance, and products with the Hessian for each step."""


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

    L-BFGS searches along a line for a smaller loss. Where the loss is nearly flat, rounding hides the difference, and
    on which processor it gets through is chance; Newton steps, which compare gradients, then complete the fit.

    Raises `OodbenchError` if neither converges.
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

    def gradient(flat: np.ndarray) -> np.ndarray:
        return objective(flat)[1]

    def curvature(flat: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        weight, bias = _parts(torch.from_numpy(flat), classes, width)

        def product(direction: np.ndarray) -> np.ndarray:
            along, shift = _parts(torch.from_numpy(direction), classes, width)
            slope, lift = l2 * along, torch.zeros_like(shift)
            for target, pieces in zip(targets, standardised, strict=True):
                _add_curvature(target, pieces, (weight, bias), (along, shift), (slope, lift))
            return torch.cat([slope.flatten(), lift]).numpy()

        return product

    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options=options)
    flat, slopes, steps = _newton(gradient, curvature, found.x, found.jac, tolerance)
    if float(np.abs(slopes).max()) > max(ACCEPTED, tolerance):
        raise OodbenchError(f"The head has not converged in {found.nit + steps} steps. Raise its l2, which is {l2}.")
    objective(flat)
    weight, bias = _parts(torch.from_numpy(flat), classes, width)
    names = ["cross_entropy" if target.labels is not None else "kl_to_uniform" for target in targets]
    return Head(weight / scale, bias - (weight / scale) @ mean, dict(zip(names, losses, strict=True)))


def _newton(
    gradient: Callable[[np.ndarray], np.ndarray],
    curvature: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]],
    flat: np.ndarray,
    slopes: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Newton steps until no entry of the gradient exceeds the tolerance: place, gradient there, and their number.

    `slopes` is the gradient at `flat`, where they begin; `curvature(flat)` multiplies by the Hessian at a place. A step
    that makes the gradient longer is halved, at most ten times.
    """
    for number in range(MOST_NEWTON):
        if float(np.abs(slopes).max()) <= tolerance:
            return flat, slopes, number
        hessian = LinearOperator((len(flat), len(flat)), matvec=curvature(flat), dtype=np.float64)
        step, _ = cg(hessian, -slopes, rtol=1e-3, maxiter=MOST_PRODUCTS)
        for _ in range(10):
            there = gradient(flat + step)
            if np.linalg.norm(there) < np.linalg.norm(slopes):
                flat, slopes = flat + step, there
                break
            step /= 2
        else:
            return flat, slopes, number
    return flat, slopes, MOST_NEWTON


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


def _add_curvature(
    target: Target,
    pieces: _Standardised,
    at: tuple[Tensor, Tensor],
    along: tuple[Tensor, Tensor],
    total: tuple[Tensor, Tensor],
) -> None:
    """Add a target's Hessian at a head times a direction; each is a weight (K, D) and a bias (K,).

    The Hessian of log softmax is that of the normaliser, the same with and without labels.
    """
    for z in pieces:
        p = F.softmax(z @ at[0].T + at[1], dim=1)
        moved = z @ along[0].T + along[1]
        moved -= (p * moved).sum(dim=1, keepdim=True)
        moved *= p
        moved *= target.weight / len(target.features)
        total[0].add_(moved.T @ z)
        total[1].add_(moved.sum(dim=0))
