"""A bank of unit vectors in bfloat16, and a bound on what the rounding changes.

For a unit vector a and bank vectors b_j (unit vectors times weights, if there are any), let m be the mean of the b_j,
x = a - m, y_j = b_j - m and h_j = m b_j - mean_j(m b_j). Then

    a b_j = x y_j + h_j + (a m - m m + mean_j(m b_j)),

and the bracket does not depend on j: it does not change which b_j are the nearest. Rounding x and y_j in place of a and
b_j pays because features share a large mean: what is rounded is shorter, and so is the error. With x' and y'_j rounded
to bfloat16, the Cauchy-Schwarz inequality gives

    |x y_j - x' y'_j| <= |x - x'| |y_j| + |x'| |y_j - y'_j|,

where the lengths of the differences are computed, not estimated. h_j is the sum of three bfloat16 numbers, which are
multiplied by one in the same product, up to a remainder that is computed as well. A sum of n products in float32 is off
by at most n u / (1 - n u) times the sum of absolute values, in any order (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1). u is 2^-23, twice that of rounding to nearest, because some processors truncate. It is
2^-22 on GPUs, which cut off several products at the last place of the largest of them before they add them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from oodbench.benchmark.plugins.neighbours.hardware import sums_in_float32

ROWS = 512
"""Bank vectors rounded at a time: with 2,048 numbers 8 MB in float64, memory that is used again. Blocks of 4,096 come
from the system each time, which takes six times as long."""

MULTIPLE = 32
"""The products' length is padded to a multiple of it."""

PARTS = 3
"""Numbers in bfloat16 whose sum is h_j."""

SLACK, LEAST = 1 + 2.0**-10, 1e-30
"""Factor and summand for the rounding of the bound itself, of x in float32, and of numbers flushed to zero."""


class Vectors(Protocol):
    """Vectors on a device that can be read row by row, such as a tensor (B, D)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, D)."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def __getitem__(self, rows: slice) -> Tensor: ...


class RoundedBank:
    """The vectors of a bank, weighted and centred, in bfloat16.

    Args:
        bank: Unit vectors, (B, D); where they are, the products are computed.
        weights: Factors of the vectors, (B,); None for 1.
    """

    def __init__(self, bank: Vectors, weights: Tensor | None = None) -> None:
        (count, self.dims), self.device = bank.shape, bank.device
        self._width = self.width(self.dims)
        exactly: dict[str, Any] = {"dtype": torch.float64, "device": self.device}
        factors = torch.ones(count, **exactly) if weights is None else weights.to(**exactly)
        total = torch.zeros(self.dims, **exactly)
        for rows in _blocks(count):
            total += bank[rows].double().T @ factors[rows]
        self.centre = (total / count).float()
        centre = self.centre.double()
        offsets = torch.cat([bank[rows].double() @ centre for rows in _blocks(count)]) * factors
        offsets -= offsets.mean()
        self.rounded = torch.zeros(self._width, count, dtype=torch.bfloat16, device=self.device)
        self._length = self._error = self._rounded_length = 0.0
        for rows in _blocks(count):
            exact = bank[rows].double() * factors[rows, None] - centre
            rounded = exact.bfloat16()
            self.rounded[: self.dims, rows] = rounded.T
            self._length = max(self._length, _longest(exact))
            self._error = max(self._error, _longest(exact - rounded.double()))
            self._rounded_length = max(self._rounded_length, _longest(rounded.double()))
        remainder, size = offsets, torch.zeros_like(offsets)
        for part in range(PARTS):
            rounded = remainder.bfloat16()
            self.rounded[self.dims + part] = rounded
            remainder, size = remainder - rounded.double(), size + rounded.double().abs()
        self._remainder, self._offset = float(remainder.abs().max()), float(size.max())
        self._remainder += self.dims * 2.0**-51 * float(centre.norm()) * float(factors.abs().max())  # of float64

    @staticmethod
    def width(dims: int) -> int:
        """The numbers that are multiplied for vectors of `dims` numbers."""
        return -(-(dims + PARTS) // MULTIPLE) * MULTIPLE

    def products(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The products with unit vectors (N, D), without what is the same for a whole row, and how far they may be off.

        Returns:
            x' y'_j + h_j, bfloat16 (N, B): the float32 sum, rounded once more. The bound on |float32 sum - (x y_j +
            h_j)|, float64 (N,), does not include this last rounding, which keeps the order.
        """
        rounded, bound = self.round(directions)
        with sums_in_float32():
            return torch.mm(rounded, self.rounded), bound

    def round(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D) as they are multiplied with `rounded`, bfloat16 (N, W), and the bound of `products`."""
        exact = directions - self.centre
        rounded = torch.zeros(len(directions), self._width, dtype=torch.bfloat16, device=self.device)
        rounded[:, : self.dims] = exact
        rounded[:, self.dims : self.dims + PARTS] = 1
        back = rounded[:, : self.dims].float()
        error, length = (exact - back).norm(dim=1).double(), back.norm(dim=1).double()
        terms = (self.dims + PARTS) * (2.0**-23 if self.device.type == "cpu" else 2.0**-22)
        bound = (error + 2.0**-22 * (1 + length)) * self._length + length * self._error + self._remainder
        bound += terms / (1 - terms) * (length * self._rounded_length + self._offset)
        return rounded, bound * SLACK + LEAST


@lru_cache(maxsize=8)
def rounds_to_nearest(device: torch.device) -> bool:
    """Whether bfloat16 products are float32 sums, rounded once to the nearest bfloat16 number, ties to even."""
    steps = torch.tensor([0.25, 0.5, 0.75, 1.25, 1.5, 1.75])
    vectors = torch.zeros(16, MULTIPLE)
    vectors[: len(steps), 0], vectors[: len(steps), 1] = 1, steps * 2.0**-7
    vectors = torch.cat([vectors, -vectors])
    exact = vectors.sum(dim=1).bfloat16()
    ones = torch.ones(MULTIPLE, 64, dtype=torch.bfloat16, device=device)
    with sums_in_float32():
        found = torch.mm(vectors.bfloat16().to(device), ones).cpu()
    return torch.equal(found, exact[:, None].expand(-1, 64))


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS)]


def _longest(vectors: Tensor) -> float:
    """The largest length among vectors (n, D)."""
    return float(vectors.norm(dim=1).max())
