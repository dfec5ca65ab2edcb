"""Slow tests that repeat a fault run one share of the repeats, always the same one unless another is named."""

from __future__ import annotations

import pytest

from tests.support import SHARES, share


def test_shares_divide_the_repeats() -> None:
    shares = [share(range(10), str(number)) for number in range(1, SHARES + 1)]
    assert sorted(seed for one in shares for seed in one) == list(range(10))
    assert min(map(len, shares)) == 2
    assert share(range(10), "all") == list(range(10))


def test_the_environment_names_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OODBENCH_TEST_SHARE", raising=False)
    assert share(range(10)) == share(range(10)) == [0, 4, 8]
    monkeypatch.setenv("OODBENCH_TEST_SHARE", "2")
    assert share(range(10)) == [1, 5, 9]
    monkeypatch.setenv("OODBENCH_TEST_SHARE", "5")
    with pytest.raises(ValueError, match=r"^OODBENCH_TEST_SHARE is '5'; expected 1, 2, 3, 4 or all\.$"):
        share(range(10))
