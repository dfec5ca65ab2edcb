"""A row of a matrix product has the same bits wherever it stands, on any processor."""

from __future__ import annotations

import pytest
import torch

import oodbench.benchmark  # noqa: F401  # before the first product of this process

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 256


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("inner", [7, 11, 12, 33, 64, 71])
@pytest.mark.parametrize("columns", [3, 10, 11, 71])
def test_a_row_of_a_product_does_not_depend_on_its_place(kind: torch.dtype, inner: int, columns: int) -> None:
    drawn = torch.Generator().manual_seed(0)
    left = torch.randn(ROWS, inner, dtype=kind, generator=drawn)
    for right in (
        torch.randn(inner, columns, dtype=kind, generator=drawn),
        torch.randn(columns, inner, dtype=kind, generator=drawn).T,
    ):
        whole = left @ right
        for row in (0, 1, 130, ROWS - 1):
            assert torch.equal(left[row].expand(ROWS, -1).contiguous() @ right, whole[row].expand(ROWS, -1))
