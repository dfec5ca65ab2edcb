"""Statistics of single images that need no network: brightness, contrast, colour, spectrum, local structure, entropy.

Each takes uint8 images (N, C, H, W) and returns float64 (N,). An image's value depends on that image alone, and is the
same bits for a grey image with one channel and with that channel repeated three times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

EDGE = 16
"""Grey levels between neighbouring pixels from which on their difference counts as an edge."""


def mean(images: np.ndarray) -> Values:
    """Mean of all pixels, in grey levels."""
    return _ratio(_sums(images), images[0].size)


def standard_deviation(images: np.ndarray) -> Values:
    """Standard deviation of all pixels, in grey levels."""
    # In integers, which are exact for images of up to eleven million values.
    flat, size = images.reshape(len(images), -1), images[0].size
    squares = np.square(flat, dtype=np.uint16).sum(axis=1, dtype=np.int64)
    deviations: Values = np.sqrt((size * squares - _sums(images) ** 2) / size**2)
    return deviations


def largest_gradient(images: np.ndarray) -> Values:
    """Largest absolute difference between neighbouring pixels of a channel, in grey levels."""
    signed = images.astype(np.int16)
    # `initial=0` covers images that are one pixel wide or high and have no neighbours in that direction.
    across = np.abs(np.diff(signed, axis=3)).max(axis=(1, 2, 3), initial=0)
    down = np.abs(np.diff(signed, axis=2)).max(axis=(1, 2, 3), initial=0)
    steepest: Values = np.maximum(across, down).astype(np.float64)
    return steepest


def colour_difference(images: np.ndarray) -> Values:
    """Largest minus smallest channel of a pixel, averaged over pixels, in grey levels; 0 for grey images."""
    spread = images.max(axis=1) - images.min(axis=1)
    return _ratio(_sums(spread), spread[0].size)


def red_minus_blue(images: np.ndarray) -> Values:
    """Mean of the first channel minus mean of the last, in grey levels; 0 for grey images."""
    return _ratio(_sums(images[:, 0]) - _sums(images[:, -1]), images[0, 0].size)


def spectrum_slope(images: np.ndarray) -> Values:
    """Slope of log power over log spatial frequency of the grey image; natural photographs have about -2, noise 0.

    Power is averaged over rings of a width of one cycle per image side, up to the Nyquist frequency, with noise of one
    grey level added, so that a constant image has slope 0. 0 for images with fewer than two rings.
    """
    height, width = images.shape[2:]
    rings, sizes = _rings(height, width)
    if len(sizes) < 2:
        return np.zeros(len(images))
    spectrum = np.fft.rfft2(_grey(images) / images.shape[1])
    power = (spectrum.real**2 + spectrum.imag**2) / (height * width)
    bins = len(sizes) + 1  # the first collects what lies in no ring
    index = np.arange(len(images))[:, None] * bins + rings.ravel()
    weights = power.reshape(len(images), -1) * _multiplicity(height, width).ravel()
    totals = np.bincount(index.ravel(), weights.ravel(), len(images) * bins).reshape(-1, bins)[:, 1:]
    frequency = np.log(np.arange(1, bins))
    frequency -= frequency.mean()
    slopes: Values = (np.log(totals / sizes + 1) * frequency).sum(axis=1) / (frequency**2).sum()
    return slopes


def local_deviation(images: np.ndarray) -> Values:
    """Standard deviation within 3 x 3 patches of the grey image, averaged over patches, in grey levels."""
    variances = _patch_variances(images)
    return np.sqrt(variances).mean(axis=1) if variances.size else np.zeros(len(images))


def flat_patches(images: np.ndarray) -> Values:
    """Share of 3 x 3 patches of the grey image that are constant; 0 for images too small for one."""
    variances = _patch_variances(images)
    return (variances == 0).mean(axis=1) if variances.size else np.zeros(len(images))


def edge_density(images: np.ndarray) -> Values:
    """Share of pairs of neighbouring pixels of the grey image that differ by more than `EDGE` grey levels."""
    grey, limit = _grey(images), EDGE * images.shape[1]
    steps = [np.abs(np.diff(grey, axis=axis)) > limit for axis in (1, 2)]
    pairs = sum(step[0].size for step in steps)
    edges = sum(step.sum(axis=(1, 2)) for step in steps)
    return edges / pairs if pairs else np.zeros(len(images))


def residual_entropy(images: np.ndarray) -> Values:
    """Bits per pixel that lossless compression needs: entropy of the errors of JPEG-LS's median predictor.

    The predictor (Weinberger, Seroussi & Sapiro 2000) guesses a pixel from those to the left, above and above left.
    """
    left, above, corner = (
        images[:, :, rows, columns].astype(np.int16)
        for rows, columns in ((slice(1, None), slice(-1)), (slice(-1), slice(1, None)), (slice(-1), slice(-1)))
    )
    guess = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    return _entropy(images[:, :, 1:, 1:] - guess.astype(np.uint8))  # modulo 256, as the coder does


def value_entropy(images: np.ndarray) -> Values:
    """Entropy of an image's grey levels, in bits."""
    return _entropy(images)


def border_mean(images: np.ndarray) -> Values:
    """Mean of the outermost pixels, in grey levels."""
    border = np.ones(images.shape[2:], dtype=bool)
    border[1:-1, 1:-1] = False
    pixels = images[:, :, border]
    return _ratio(_sums(pixels), pixels[0].size)


class Statistic(NamedTuple):
    """A statistic, and the smallest difference of its values that means anything."""

    of: Callable[[np.ndarray], Values]
    step: float


STATISTICS: dict[str, Statistic] = {
    "pixel mean": Statistic(mean, 0.1),
    "pixel std": Statistic(standard_deviation, 0.1),
    "pixel gradient": Statistic(largest_gradient, 1.0),
    "border mean": Statistic(border_mean, 0.1),
    "colour difference": Statistic(colour_difference, 0.1),
    "red minus blue": Statistic(red_minus_blue, 0.1),
    "spectrum slope": Statistic(spectrum_slope, 0.01),
    "local std": Statistic(local_deviation, 0.1),
    "flat patches": Statistic(flat_patches, 0.001),
    "edge density": Statistic(edge_density, 0.001),
    "residual entropy": Statistic(residual_entropy, 0.01),
    "value entropy": Statistic(value_entropy, 0.01),
}

STATISTICS_VERSION = "2"
"""Part of the cache key of a pair's result. Raise it when a statistic, or what is made of them, changes."""

BLOCK = 1 << 18
"""Bytes of pixels processed at a time. Temporaries take some thirty times as much, whatever the number of images."""


def statistics(images: np.ndarray, block_bytes: int = BLOCK) -> dict[str, Values]:
    """Each of `STATISTICS` of uint8 images (N, C, H, W), float64 (N,), the same in blocks of any size."""
    rows = max(1, block_bytes // max(1, images[0].nbytes))
    blocks = [images[start : start + rows] for start in range(0, len(images), rows)]
    parts = [[statistic.of(np.ascontiguousarray(block)) for statistic in STATISTICS.values()] for block in blocks]
    return {name: np.concatenate([part[k] for part in parts]) for k, name in enumerate(STATISTICS)}


def _sums(images: np.ndarray) -> NDArray[np.int64]:
    """Sum of all pixels of each image, (N,)."""
    total: NDArray[np.int64] = images.reshape(len(images), -1).sum(axis=1, dtype=np.int64)
    return total


def _ratio(sums: NDArray[np.int64], count: int) -> Values:
    quotient: Values = sums / count
    return quotient


def _grey(images: np.ndarray) -> NDArray[np.int32]:
    """Sum over channels, (N, H, W): C times the grey image, in integers."""
    total: NDArray[np.int32] = images.sum(axis=1, dtype=np.int32)
    return total


def _patch_variances(images: np.ndarray) -> Values:
    """Variance within each 3 x 3 patch of the grey image, (N, patches)."""
    grey = _grey(images)
    sums, squares = _box(grey), _box(grey**2)
    variances: Values = (9 * squares - sums**2) / (81 * images.shape[1] ** 2)
    return variances.reshape(len(images), -1)


def _box(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sum over 3 x 3 patches, (N, H - 2, W - 2); empty for smaller images."""
    if min(values.shape[1:]) < 3:
        return values[:, :0]
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    sums: NDArray[np.int32] = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return sums


def _entropy(values: np.ndarray) -> Values:
    """Entropy of the bytes of each row of uint8 `values` (N, ...), in bits; 0 without bytes."""
    flat = values.reshape(len(values), -1)
    if not flat.shape[1]:
        return np.zeros(len(values))
    index = np.arange(len(flat))[:, None] * 256 + flat
    share = np.bincount(index.ravel(), minlength=len(flat) * 256).reshape(-1, 256) / flat.shape[1]
    entropy: Values = -(share * np.log2(np.where(share, share, 1))).sum(axis=1)
    return np.abs(entropy)  # without a negative zero


@cache
def _rings(height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ring (from 1; 0: none) of each coefficient of `rfft2`, and the number of coefficients per ring."""
    side = min(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) * side
    rings = np.rint(radius).astype(np.int64)
    rings[rings > side // 2] = 0
    sizes = np.bincount(rings.ravel(), _multiplicity(height, width).ravel(), side // 2 + 1)[1:]
    return rings, sizes.astype(np.int64)


@cache
def _multiplicity(height: int, width: int) -> NDArray[np.int64]:
    """How many coefficients of the full transform each one of `rfft2` stands for: itself, or its conjugate as well."""
    columns = np.full(width // 2 + 1, 2)
    columns[0] = 1
    if width % 2 == 0:
        columns[-1] = 1
    return np.broadcast_to(columns, (height, width // 2 + 1))
