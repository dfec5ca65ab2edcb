"""The linear head that maps features to logits: whether it belongs to them, and how it is found if it is not given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from oodbench.benchmark.data.outputs.formats.spool import rows_per_block
from oodbench.benchmark.data.outputs.given import GivenHead, GivenOutputs
from oodbench.benchmark.errors import UserError

Floats = NDArray[np.floating[Any]]
Pair = tuple[Floats, Floats]
"""(N, D) features and (N, K) logits."""

Product = Callable[[Floats, Floats], Floats]
"""A matrix product."""

EXACT = 2e-4
"""Largest difference between head(features) and logits, as a share of the largest logit, that float32 explains."""

REDUCED = 1e-2
"""The same for networks that compute in bfloat16 (8 bits), float16 or TF32."""

HALF = 2e-3
"""The same for float16 alone."""

CONSTANT = 0.1
"""Share of the differences' root mean square that is left without what is the same in all rows, or in all columns, if
that is all there is to them."""

FEWEST_ROWS = 4096
ROWS_PER_FEATURE = 4
"""Rows that a head is found from: this many times the number of its unknowns per class, at least `FEWEST_ROWS`."""

NOISE = 1e-7
"""Directions with less than this share of the features' largest deviation are rounding errors of float32."""


ROUNDS = 4
"""How often rows are added on which the head of the rows before does not hold."""

RARE = 0.05
"""Largest share of such rows."""


class Difference(NamedTuple):
    """How head(features) differs from logits."""

    largest: float
    """Largest absolute difference."""
    row: int
    """Where it is."""
    scale: float
    """Largest absolute logit."""
    by_class: bool
    """Whether the differences are the same in every row, as without a bias."""
    by_row: bool
    """Whether the differences are the same in every column, as with logarithms of probabilities."""

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest logit."""
        return self.largest / self.scale if self.scale else float(self.largest > 0) * np.inf


def check_head(
    features: Floats, logits: Floats, head: GivenHead, where: str = "", product: Product = np.matmul
) -> Difference:
    """Raise `UserError` if head(features) is not the logits, within what reduced precision explains.

    `features`: (N, D); `logits`: (N, K), both finite; `where`: of the arrays, in the message, such as "'id_test'";
    `product`: what multiplies. A missing bias is found although it may change logits by less than bfloat16 does.
    """
    place = f" of {where}" if where else ""
    wanted = (logits.shape[1], features.shape[1])
    if head.weight.shape != wanted:
        turned = " It is transposed: save weight.T." if head.weight.shape == wanted[::-1] else ""
        raise UserError(
            f"The head's weight has the shape {head.weight.shape}, but the features{place} have {wanted[1]:,} columns "
            f"and the logits {wanted[0]:,}; expected ({wanted[0]}, {wanted[1]}).{turned}"
        )
    if not (np.isfinite(head.weight).all() and np.isfinite(head.bias).all()):
        raise UserError("The head's weight or bias is not finite; save it again as float32.")
    found = head_difference(features, logits, head, product)
    if found.share <= EXACT or (found.share <= REDUCED and not found.by_class and not found.by_row):
        return found
    if found.by_class:
        hint = "The difference is the same for every image: is the bias missing?"
    elif found.by_row:
        hint = "The difference is the same for all classes of an image: are these log-probabilities (log_softmax)?"
    else:
        hint = (
            "Do features, logits and head come from one network, in the same order, and are features the head's input?"
        )
    raise UserError(
        f"The head does not belong to the features and logits{place}: head(features) and logits differ by up to "
        f"{found.largest:.3g} (row {found.row:,}), where the largest logit is {found.scale:.3g}. {hint} Correct them, "
        "or leave the head out."
    )


def head_difference(features: Floats, logits: Floats, head: GivenHead, product: Product = np.matmul) -> Difference:
    """Compare head(features) with the logits, block by block, in float32 unless the features are float64."""
    largest, row, scale, squares, row_squares = 0.0, 0, 0.0, 0.0, 0.0
    sums = np.zeros(logits.shape[1])
    for start, rest, y in _residuals(features, logits, head, product):
        scale = max(scale, float(np.abs(y).max()))
        apart = np.abs(rest).max(axis=1)
        if apart.max() > largest:
            largest, row = float(apart.max()), start + int(apart.argmax())
        squares += float(np.square(rest).sum(dtype=np.float64))
        row_squares += float(np.square(rest - rest.mean(axis=1, keepdims=True)).sum(dtype=np.float64))
        sums += rest.sum(axis=0, dtype=np.float64)
    column_squares = squares - float(np.square(sums).sum()) / len(logits)
    limit = CONSTANT**2 * squares
    by_class = len(logits) > 1 and column_squares < min(limit, row_squares)
    return Difference(largest, row, scale, by_class, by_row=row_squares < limit and not by_class)


def head_of(given: GivenOutputs) -> GivenHead | None:
    """The head of some outputs: the one given, or else the one recovered from features and logits; None without either.

    Features that are zero for all ID images often are not for OOD images, and what the head does with them cannot be
    learned from ID images. So a head found from the ID splits is used only if it holds on every set, and otherwise one
    is found from all sets; labels have no influence on it. Raises `UserError` for a given head that does not belong to
    the arrays.
    """
    named = {f"id_{split}": arrays for split, arrays in given.id.items()} | dict(given.ood)
    pairs = {n: (a.features, a.logits) for n, a in named.items() if a.features is not None and a.logits is not None}
    if given.head is not None:
        for name, (features, logits) in pairs.items():
            check_head(features, logits, given.head, f"'{name}'")
        return given.head
    tolerance = max((_tolerance(*pair) for pair in pairs.values()), default=EXACT)
    head = _recovered([pair for name, pair in pairs.items() if name not in given.ood], tolerance)
    others = [pair for name, pair in pairs.items() if name in given.ood]
    if head is None or all(head_difference(*pair, head).share <= tolerance for pair in others):
        return head
    return _recovered(list(pairs.values()), tolerance)


def recovered_head(features: Floats, logits: Floats) -> GivenHead | None:
    """The head with which head(features) = logits, float64; None if there is none within the arrays' precision.

    Least squares in float64 on rows spread evenly over the (N, D) features and (N, K) logits, then checked on all. None
    if N is not larger than D, because then any logits fit. Memory does not depend on N. It holds for images whose
    features vary in no other directions than these (`head_of`).
    """
    if len(features) != len(logits) or not len(features):
        return None
    return _recovered([(features, logits)], _tolerance(features, logits))


def _tolerance(features: Floats, logits: Floats) -> float:
    """How far head(features) may be from logits, as a share of the largest logit, by the precision of their values.

    float32 arrays often hold values of a network that computed in half precision.
    """
    rows = np.unique(np.linspace(0, len(logits) - 1, 100).astype(int))
    found = EXACT
    for values in (np.asarray(array[rows], dtype=np.float32) for array in (features, logits)):
        if not (values.view(np.uint32) & 0xFFFF).any():  # bfloat16 is the upper half of a float32
            return REDUCED
        with np.errstate(over="ignore"):
            if np.array_equal(values, values.astype(np.float16)):
                found = HALF
    return found


def _recovered(pairs: Sequence[Pair], tolerance: float) -> GivenHead | None:
    """The head that holds on all rows of all pairs; None if there are not more rows than features.

    Rows on which the head of the first rows does not hold are added to them, because a feature may be zero in all but
    one of a million images.
    """
    count = sum(len(features) for features, _ in pairs)
    dim = pairs[0][0].shape[1] if pairs else 0
    if not pairs or count <= dim or (tolerance > EXACT and count < ROWS_PER_FEATURE * (dim + 1)):
        return None
    share = max(FEWEST_ROWS, ROWS_PER_FEATURE * (dim + 1)) / count
    rows = [np.unique(np.linspace(0, len(f) - 1, min(len(f), int(len(f) * share) + 2)).astype(int)) for f, _ in pairs]
    for _ in range(ROUNDS):
        x, y = (np.concatenate([pair[k][r] for pair, r in zip(pairs, rows, strict=True)]) for k in (0, 1))
        head = _least_squares(x, y)
        outside = [_rows_outside(*pair, head, tolerance) for pair in pairs]
        if not any(len(r) for r in outside):
            return head
        if sum(map(len, outside)) > FEWEST_ROWS or sum(map(len, outside)) > count * RARE:  # it is not linear
            return None
        rows = [np.union1d(*both) for both in zip(rows, outside, strict=True)]
    return None


def _least_squares(x: Floats, y: Floats) -> GivenHead:
    """The head with the smallest weights among those nearest to `y`, in float64."""
    mean, target = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    gram = np.zeros((x.shape[1], x.shape[1]))
    for _, a, _ in _blocks(x, y, np.float64):
        gram += (a - mean).T @ (a - mean)
    values, vectors = np.linalg.eigh(gram)
    kept = values > max(values[-1], 0.0) * NOISE**2
    basis = vectors[:, kept] / np.sqrt(values[kept])
    weight = np.zeros((x.shape[1], y.shape[1]))
    for _ in range(2):  # the second pass removes the rounding errors of the first
        moments = np.zeros_like(weight)
        for _, a, b in _blocks(x, y, np.float64):
            moments += (a - mean).T @ (b - target - (a - mean) @ weight)
        weight += basis @ (basis.T @ moments)
    return GivenHead(np.ascontiguousarray(weight.T), target - mean @ weight)


def _rows_outside(features: Floats, logits: Floats, head: GivenHead, tolerance: float) -> NDArray[np.intp]:
    """Rows in which head(features) differs from logits by more than their precision explains, in ascending order."""
    apart, scale = [], 0.0
    for _, rest, y in _residuals(features, logits, head):
        scale = max(scale, float(np.abs(y).max()))
        apart.append(np.abs(rest).max(axis=1))
    return np.flatnonzero(~(np.concatenate(apart) <= tolerance * scale))


def _residuals(
    features: Floats, logits: Floats, head: GivenHead, product: Product = np.matmul
) -> Iterator[tuple[int, Floats, Floats]]:
    """The first row, head(features) - logits, and logits, block by block."""
    dtype = np.result_type(features.dtype, np.float32)
    weight, bias = (np.asarray(array, dtype=dtype) for array in head)
    for start, x, y in _blocks(features, logits, dtype):
        yield start, product(x, weight.T) + bias - y, y


def _blocks(features: Floats, logits: Floats, dtype: DTypeLike) -> Iterator[tuple[int, Floats, Floats]]:
    """The first row, and features and logits of a type, block by block."""
    rows = min(rows_per_block(features), rows_per_block(logits))
    for start in range(0, len(features), rows):
        part = slice(start, start + rows)
        yield start, np.asarray(features[part], dtype=dtype), np.asarray(logits[part], dtype=dtype)
