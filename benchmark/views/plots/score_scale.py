"""The axis of a detector's scores in a histogram: linear, or asinh where a linear one would hide them.

Scores have no unit, and some detectors' spread over many powers of ten: Gram matrices, Mahalanobis distances and
densities of OOD images are far from those of ID images, and maximum softmax probabilities crowd at one end. On a linear
axis the scores of most images then share one bin.

The rule: the axis spans the central 99.8% of every set. It is linear if the central 80% of the ID scores, and those of
all OOD sets together, cover at least 1/12 of it each. If one of them covers less, an asinh scale is used if the
narrower of the two ranges covers more of it. Its zero is the median of the ID scores, or of the OOD scores if that
shows more, and its unit their median distance from it: it is linear within about one unit, and logarithmic further
away, on both sides.

The numbers below it are three where they have room, and at least two, however narrow a panel is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.views.plots import measure

Scores = NDArray[np.float64]

CENTRAL, ENDS = (0.1, 0.9), (0.001, 0.999)
"""Quantiles that should be seen, and that the axis spans."""

SHARE = 1 / 12
"""Share of the axis that the central range of the ID scores, and that of the OOD scores, should cover."""

ASINH = "asinh scale"

Tick = tuple[float, str, float]
"""Inches from the left end of the panel, the number there, and where the middle of its text is, in inches as well."""

APART = 0.06
"""Inches between two numbers, at least."""

DISTANCE = 0.3
"""Distance of two numbers on the axis, at least, as a share of it."""

PLACES = 16
"""Places of an axis whose scores are tried as numbers."""


@dataclass(frozen=True)
class ScoreScale:
    """An axis of scores, from 0 (left) to 1 (right)."""

    low: float
    high: float
    centre: float = 0.0
    unit: float | None = None
    """The distance from the centre up to which the scale is about linear; None if all of it is."""

    @property
    def name(self) -> str:
        """What to write at the axis; empty for a linear one."""
        return "" if self.unit is None else ASINH

    def place(self, scores: Scores | float) -> NDArray[np.float64]:
        """Where scores are on the axis; below 0 or above 1 outside of it."""
        low, high = self._warped(self.low), self._warped(self.high)
        return (self._warped(scores) - low) / (high - low)

    def _warped(self, scores: Scores | float) -> NDArray[np.float64]:
        values = np.asarray(scores, dtype=np.float64)
        return values if self.unit is None else np.arcsinh((values - self.centre) / self.unit)

    def score(self, place: float) -> float:
        """The score at a place of the axis."""
        low, high = float(self._warped(self.low)), float(self._warped(self.high))
        warped = low + place * (high - low)
        return warped if self.unit is None else self.centre + self.unit * math.sinh(warped)

    def counts(self, scores: Scores, bins: int) -> NDArray[np.int64]:
        """(bins,) numbers of scores in bins of equal width on the axis; those outside of it are left out."""
        return np.histogram(self.place(scores), bins, (0.0, 1.0))[0]

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """About `count` places with the score there, rounded as far as its neighbours allow."""
        wanted = [(i + 0.5) / count for i in range(count)]
        # Rounded by the nearer of the neighbours: on an asinh scale one may be a power of ten away.
        beside = [[self.score(place + side * 0.25 / count) for side in (-1, 1)] for place in wanted]
        step = [min(abs(self.score(p) - one) for one in both) for p, both in zip(wanted, beside, strict=True)]
        found: dict[str, float] = {}
        for place, room in zip(wanted, step, strict=True):
            if room <= 0 or not math.isfinite(room):
                continue
            decimals = -math.floor(math.log10(room))
            value = round(self.score(place), decimals)
            at = float(self.place(value))
            if 0 <= at <= 1:
                found.setdefault(short_number(value, decimals), at)
        return [(at, text) for text, at in found.items()]


def short_number(value: float, decimals: int) -> str:
    """A number that was rounded to so many decimals (negative: to tens, hundreds, ...), in few characters."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(decimals, 0)}f}"
    digits = max(0, decimals + math.floor(math.log10(abs(value))))
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def score_scale(id_scores: Scores, ood_scores: Sequence[Scores]) -> ScoreScale:
    """The axis for a detector's scores: (N,) of the ID set, and (M,) of each OOD set; see above for the rule."""
    spans = np.array([np.quantile(scores, (ENDS[0], *CENTRAL, ENDS[1])) for scores in (id_scores, *ood_scores)])
    low, high = float(spans[:, 0].min()), float(spans[:, 3].max())
    if not low < high:
        half = max(0.5, abs(low) / 1e6)  # not lost beside a large score
        return ScoreScale(low - half, low + half)
    linear = ScoreScale(low, high)
    seen = [(spans[0, 1], spans[0, 2])]
    seen += [(spans[1:, 1].min(), spans[1:, 2].max())] if len(ood_scores) else []
    if covered(linear, seen) >= SHARE:
        return linear
    around = [id_scores, *([np.concatenate(ood_scores)] if len(ood_scores) else [])]
    bent = [ScoreScale(low, high, *found) for found in map(_centre_and_unit, around) if 0 < found[1] < math.inf]
    return max([linear, *bent], key=lambda scale: covered(scale, seen))


def _centre_and_unit(scores: Scores) -> tuple[float, float]:
    """The median and the median distance from it, or, where most scores are the same, that of the nearest others."""
    centre = float(np.median(scores))
    distance = np.abs(np.asarray(scores, dtype=np.float64) - centre)
    unit = float(np.median(distance))
    if unit == 0 and distance.any():
        unit = float(np.quantile(distance[distance > 0], 0.1))
    return centre, unit


def covered(scale: ScoreScale, ranges: Sequence[tuple[float, float]]) -> float:
    """The smallest share of the axis that a range of scores covers; ranges of one score do not count."""
    return min((float(scale.place(b) - scale.place(a)) for a, b in ranges if a < b), default=1.0)


def central_range(arrays: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The ends of a linear axis of scores that is wide enough for the central 99.8% of every set."""
    ends = np.array([np.quantile(array, ENDS) for array in arrays])
    low, high = float(ends.min()), float(ends.max())
    return (low, high) if low < high else (low - 0.5, low + 0.5)


# Numbers on the axis


@dataclass(frozen=True)
class _Number:
    """A rounded score that may be written."""

    at: float
    value: float
    decimals: int
    text: str
    width: float


def scale_ticks(scale: ScoreScale, panel: float, beyond: float = 0.0) -> list[Tick]:
    """Numbers for the axis of a panel: as many as have room, up to three.

    Where the usual places have room for less than two, they are the two shortest numbers that have. If none have,
    the second one is what is to be added to the first, as `+0.002`: scores may differ in their last digits alone. If
    that is still too long, the texts are beside their ticks.

    Args:
        scale: The axis.
        panel: Its width, in inches.
        beyond: By how much the last number may stick out to the right, in inches, if it cannot do without.
    """
    found = max((_fitting(scale.ticks(count), panel) for count in (3, 2)), key=len)
    if len(found) >= 2:
        return found
    numbers = sorted(_numbers(scale), key=lambda one: one.at)
    whole = _pair(numbers, panel, panel + beyond, added=False)
    pair = whole if whole and not whole[0][0] else _pair(numbers, panel, panel + beyond, added=True) or whole
    return pair[1] if pair else found


def _fitting(found: Sequence[tuple[float, str]], panel: float) -> list[Tick]:
    kept: list[Tick] = []
    end = 0.0
    for place, text in sorted(found):
        middle, half = panel * place, measure.width_of(text) / 2
        if middle - half >= end and middle + half <= panel:
            kept.append((middle, text, middle))
            end = middle + half + APART
    return kept


def _numbers(scale: ScoreScale) -> list[_Number]:
    """Scores all along an axis, rounded to as few digits as tell them from those a tenth of it away, or to one more."""
    found: dict[str, _Number] = {}
    for step in range(PLACES + 1):
        place = step / PLACES
        score = scale.score(place)
        near = max(abs(scale.score(place + side) - score) for side in (-0.1, 0.1))
        if not 0 < near < math.inf:
            continue
        fewest = -math.floor(math.log10(near)) - 1
        for decimals in range(fewest, fewest + 3):
            value = round(score, decimals)
            at = float(scale.place(value))
            text = short_number(value, decimals)
            if 0 <= at <= 1 and text not in found:
                found[text] = _Number(at, value, decimals, text, _width(text))
    return list(found.values())


_Order = tuple[bool, bool, float, int, float]
"""By what pairs are chosen, low is better: whether texts are beside their ticks, whether they stick out, by how much
they are beside them, the length of the texts, and the distance of the ticks (negative)."""


def _pair(numbers: Sequence[_Number], panel: float, end: float, added: bool) -> tuple[_Order, list[Tick]] | None:
    """The best two numbers that have room up to `end`, if there are any; `added`: the second one as a difference."""
    best: tuple[_Order, list[Tick]] | None = None
    for first, second in combinations(numbers, 2):
        if second.at - first.at < DISTANCE:
            continue
        text, width = (_difference(first, second), 0.0) if added else (second.text, second.width)
        if best and not any(best[0][:2]) and len(first.text) + len(text) > best[0][3]:
            continue
        width = width or _width(text)
        left, right = panel * first.at, panel * second.at
        near = max(left, first.width / 2)
        far = max(right, near + (first.width + width) / 2 + APART)
        beside = near - left + far - right
        sticks_out = far + width / 2 > panel
        order = (beside > 0, sticks_out, beside, len(first.text) + len(text), first.at - second.at)
        if far + width / 2 <= end and (best is None or order < best[0]):
            best = order, [(left, first.text, near), (right, text, far)]
    return best


def _width(text: str) -> float:
    """At least the width of a number: that of its characters, of which there are few to measure."""
    return sum(map(measure.width_of, text))


def _difference(first: _Number, second: _Number) -> str:
    decimals = max(first.decimals, second.decimals)
    return "+" + short_number(round(second.value - first.value, decimals), decimals)
