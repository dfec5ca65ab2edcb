"""What is computed for a few rows at a time, or by other functions, has the bits of the plain computation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch
from oodbench.detectors import _gaussian
from oodbench.detectors._rows import ROWS, add_by_label, by_rows, gathered, sum_of_rows
from oodbench.detectors._softmax import BOTTOM, margins
from oodbench.detectors.vra import of_sorted

pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(count: int, width: int = 37) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count)).clamp_min(-0.3)


@pytest.mark.parametrize("count", [1, ROWS - 1, ROWS, ROWS + 1, 5 * ROWS + 1])
def test_rows_have_the_bits_that_they_have_together(count: int) -> None:
    seen = list[int]()

    def lengths(rows: Tensor, factor: Tensor) -> Tensor:
        seen.append(len(rows))
        found: Tensor = torch.linalg.vector_norm(rows.double(), dim=1) * factor
        return found

    values, factors = vectors(count), torch.arange(count)
    found = by_rows(lengths, values, factors)
    assert torch.equal(found, torch.linalg.vector_norm(values.double(), dim=1) * factors)
    assert max(seen) <= ROWS
    assert sum(seen) == count


def test_results_of_blocks_are_joined_in_one_tensor_that_is_made_with_the_first() -> None:
    values, marks = vectors(10), torch.arange(10) % 3 == 0
    held = list[int]()

    def blocks() -> Iterator[tuple[Tensor, ...]]:
        for rows in (slice(0, 4), slice(4, 5), slice(5, 10)):
            part = values[rows].clone()
            held.append(part.data_ptr())
            yield part, marks[rows], part.sum(dim=1).double()

    whole, flags, sums = gathered(10, blocks())
    assert torch.equal(whole, values)
    assert torch.equal(flags, marks)
    assert sums.dtype == torch.float64
    assert torch.equal(sums, torch.cat([values[:4].sum(dim=1), values[4:5].sum(dim=1), values[5:].sum(dim=1)]).double())
    assert whole.data_ptr() not in held


def test_a_graph_has_all_rows_in_any_number() -> None:
    class Lengths(torch.nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return by_rows(lambda some: some.square().sum(dim=1), rows)

    count = torch.export.Dim("N", min=1, max=10_000)
    graph = torch.export.export(Lengths(), (vectors(3),), dynamic_shapes=({0: count},)).module()
    for rows in (2, 3 * ROWS + 5):
        torch.testing.assert_close(graph(vectors(rows)), vectors(rows).square().sum(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_those_of_float64(dtype: torch.dtype) -> None:
    values = vectors(1000).to(dtype)
    assert torch.equal(sum_of_rows(values), values.sum(dim=0, dtype=torch.float64))


def test_sums_by_label_add_one_after_the_other() -> None:
    values, labels = vectors(3 * ROWS + 7), torch.arange(3 * ROWS + 7) ** 2 % 5
    sums = torch.ones(6, values.shape[1], dtype=torch.float64) / 3
    expected = sums.clone()
    for label, value in zip(labels.tolist(), values.double(), strict=True):
        expected[label] += value
    add_by_label(sums, labels, values)
    assert torch.equal(sums, expected)


def test_blocks_minus_their_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gaussian, "BLOCK", 100)
    monkeypatch.setattr(_gaussian, "PIECE", 30)
    values, labels = vectors(250), torch.arange(250) % 3
    train = Batch(250, {"features": values.__getitem__, "labels": labels.__getitem__}, "a test")
    means = vectors(3).double()
    blocks = [(len(part), centred.clone()) for part, centred in _gaussian.centred_blocks(train, means)]
    assert [count for count, _ in blocks] == [100, 100, 50]
    assert torch.equal(torch.cat([centred for _, centred in blocks]), values.double() - means[labels])
    one = [centred.clone() for _, centred in _gaussian.centred_blocks(train, means[0])]
    assert torch.equal(torch.cat(one), values.double() - means[0])


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101, 1000])
@pytest.mark.parametrize("percentile", [0.0, 10.0, 33.3, 50.0, 60.0, 99.0])
def test_percentiles_of_sorted_numbers_are_those_of_numpy(count: int, percentile: float) -> None:
    values = vectors(count, 5).numpy()
    expected = np.percentile(values.astype(np.float64), percentile, axis=0)
    np.testing.assert_array_equal(of_sorted(np.sort(values.T, axis=1), percentile), expected)


@pytest.mark.parametrize("classes", [1, 2, 10])
def test_margins_are_those_of_their_definition(classes: int) -> None:
    """At margins at which exp overflows and underflows, and with two largest logits, of which the first is the best."""
    logits = torch.randn(50, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(classes)) * 3
    logits[1, 0] += 2000
    logits[2, 0] -= 2000
    logits[3, :2] = logits[3].max() + 1
    best = logits.argmax(dim=1, keepdim=True)
    below = (logits - logits.gather(1, best)).scatter_(1, best, BOTTOM)
    second = below.amax(dim=1, keepdim=True)
    others = (below - second).exp()
    found = margins(logits)
    assert torch.equal(found.best, best)
    assert torch.equal(found.below, below)
    assert torch.equal(found.others, others)
    assert torch.equal(found.log_odds, others.sum(dim=1, keepdim=True).log() + second)
