"""Lattice noise and cells from integer hashes: the same bits on every machine.

Only additions, multiplications, divisions, square roots, rounding and comparisons are used, one operation at a time,
because IEEE 754 fixes their results; sines, exponentials, sums over an axis and matrix products differ in the last bit
between processors and versions of NumPy. Coordinates x and y are float64 arrays of one shape, and so are results.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def hashed(seed: int, column: Array, row: Array) -> Array:
    """A random number in [0, 1) for every cell (column, row) of a lattice, given as whole numbers in float64."""
    bits = column.astype(np.int64).astype(np.uint32) * np.uint32(0x9E3779B1)
    bits ^= row.astype(np.int64).astype(np.uint32) * np.uint32(0x85EBCA77)
    bits ^= np.uint32((seed * 0xC2B2AE3D + 0x27D4EB2F) % 2**32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1)):  # mixing as in MurmurHash3
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(15)
    share: Array = bits.astype(np.float64) / 2**32
    return share


def fraction(x: Array) -> Array:
    """The part of x behind the point, in [0, 1)."""
    return x - np.floor(x)


def triangle(x: Array) -> Array:
    """A triangle wave of period 1: 0 at whole numbers, 1 halfway between them."""
    return 1 - np.abs(2 * fraction(x) - 1)


def smooth(x: Array) -> Array:
    """x clipped to [0, 1], with slope 0 at both ends (smoothstep)."""
    clipped = np.clip(x, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)


def wave(x: Array) -> Array:
    """Nearly a sine of period 1 and range [0, 1], 0 at whole numbers."""
    return smooth(triangle(x))


def edge(x: Array, at: float | Array, width: float) -> Array:
    """0 below `at`, 1 above, with a ramp of `width` between."""
    return np.clip((x - at) / width + 0.5, 0, 1)


def noise(seed: int, x: Array, y: Array) -> Array:
    """Value noise in [0, 1): random values at the points of a lattice of side 1, smoothly interpolated."""
    column, row = np.floor(x), np.floor(y)
    right, down = smooth(x - column), smooth(y - row)
    above, below = (
        hashed(seed, column, line) * (1 - right) + hashed(seed, column + 1, line) * right for line in (row, row + 1)
    )
    return above * (1 - down) + below * down


def turbulence(seed: int, x: Array, y: Array, octaves: int = 4, folded: bool = False) -> Array:
    """Value noise of `octaves` sizes, each half as large and half as strong as the one before; in [0, 1].

    Folded: every octave is |2 noise - 1|, whose zeros make creases.
    """
    total, weight, sum_of_weights = np.zeros_like(x), 1.0, 0.0
    for octave in range(octaves):
        values = noise(seed + octave, x, y)
        total = total + weight * (np.abs(2 * values - 1) if folded else values)
        sum_of_weights += weight
        weight /= 2
        x, y = 1.6 * x - 1.2 * y + 7.5, 1.2 * x + 1.6 * y - 3.5  # twice as fine, turned by 37 degrees
    return total / sum_of_weights


def cells(seed: int, x: Array, y: Array, jitter: float = 1.0) -> tuple[Array, Array, Array]:
    """Worley's cellular noise: one point in each cell of a lattice of side 1, off its middle by up to `jitter` / 2.

    Returns:
        The distances to the nearest and to the second nearest point, and a random number in [0, 1) that belongs to the
        nearest.
    """
    column, row = np.floor(x), np.floor(y)
    first, second, owner = np.full_like(x, 9.0), np.full_like(x, 9.0), np.zeros_like(x)
    for across in (-1, 0, 1):
        for down in (-1, 0, 1):
            point = column + across, row + down
            to_x = point[0] + 0.5 + jitter * (hashed(seed, *point) - 0.5) - x
            to_y = point[1] + 0.5 + jitter * (hashed(seed + 1, *point) - 0.5) - y
            distance = np.sqrt(to_x * to_x + to_y * to_y)
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            owner = np.where(nearer, hashed(seed + 2, *point), owner)
            first = np.minimum(first, distance)
    return first, second, owner
