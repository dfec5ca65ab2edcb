"""Samples from the edge of class-conditional Gaussians with a shared covariance."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-4
"""Added to the variance in every direction."""

HALVINGS = 60
"""Of the interval that contains a quantile: more than float64 resolves."""


def shared_factor(features: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Class means (K, D), and L with L L^T = S + 1e-4 I, in float64.

    `features` (K, M, D) of K classes; `members`, bool (K, M), marks those that are there, at least one of each class. S
    is the mean outer product of features minus the mean of their class.
    """
    there = members[..., None]
    features = features.double() * there
    means = features.sum(dim=1) / there.sum(dim=1)
    centred = ((features - means[:, None]) * there).flatten(0, 1)
    covariance = centred.T @ centred / members.sum()
    covariance.diagonal().add_(RIDGE)
    # Features that are not finite give a loss that is not, which the training loop reports; no check is needed here.
    return means, torch.linalg.cholesky_ex(covariance).L


def edge_samples(means: Tensor, factor: Tensor, samples: int, select: int, generator: torch.Generator) -> Tensor:
    """The `select` samples of each Gaussian with the smallest density among `samples`, (K * `select`, D), by class.

    `means` (K, D) and `factor`, L (D, D), of N(mean, L L^T), in float64. A sample is mean + r L u: its density depends
    on r alone, r^2 has the chi-square distribution with D degrees of freedom, and u is uniform on the unit sphere and
    independent of r. So the largest of `samples` values of r^2 and a direction u suffice.
    """
    classes, size = means.shape
    directions = torch.randn(classes, select, size, dtype=means.dtype, device=means.device, generator=generator)
    directions = directions / torch.linalg.vector_norm(directions, dim=2, keepdim=True)
    tails = largest_tails(classes, samples, select, generator)
    radii = chi_square_quantiles(tails, size).sqrt()
    drawn: Tensor = means[:, None] + (radii[..., None] * directions) @ factor.T
    return drawn.flatten(0, 1)


def largest_tails(rows: int, samples: int, select: int, generator: torch.Generator) -> Tensor:
    """1 - u of the `select` largest among `samples` uniform numbers u in each row, float64 (rows, `select`), ascending.

    The largest of n is V^(1/n) with V uniform, and the next one the largest of n - 1 below it.
    """
    device = generator.device
    drawn = torch.rand(rows, select, dtype=torch.float64, device=device, generator=generator)
    left = samples - torch.arange(select, dtype=torch.float64, device=device)
    logs = torch.log(drawn.clamp_min(torch.finfo(torch.float64).tiny)) / left
    return -torch.expm1(logs.cumsum(dim=1))


def chi_square_quantiles(tails: Tensor, degrees: int) -> Tensor:
    """x with P(X > x) = `tails` for X of the chi-square distribution; the same shape, float64."""
    half = torch.tensor(degrees / 2, dtype=torch.float64, device=tails.device)
    low = torch.zeros_like(tails)
    # P(X > d + 2 sqrt(d t) + 2 t) <= exp(-t) (Laurent & Massart 2000), here with exp(-t) as small as float64 has it.
    t = 745.0
    high = torch.full_like(tails, degrees + 2 * (degrees * t) ** 0.5 + 2 * t)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        beyond = torch.special.gammaincc(half, middle / 2) > tails
        low, high = torch.where(beyond, middle, low), torch.where(beyond, high, middle)
    return (low + high) / 2
