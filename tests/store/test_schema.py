"""Validation of parsed JSON: what passes, what is refused, and what the messages say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from oodbench.benchmark.store.schema import Count, Number, convert


class Inner(TypedDict):
    name: str


@dataclass(frozen=True)
class Outer:
    title: str
    share: Number
    images: Count | None = None
    parts: tuple[Inner, ...] = ()
    metrics: Mapping[str, Number] = ()  # type: ignore[assignment]
    anything: Any = None


WHOLE: dict[str, Any] = {"title": "a", "share": 0.5}


def test_fields_are_converted_and_undeclared_ones_dropped() -> None:
    value = {**WHOLE, "parts": [{"name": "x", "more": 1}], "anything": [{"a": 1e300}], "new": 1, "images": 3}
    assert convert(value, Outer) == Outer("a", 0.5, 3, ({"name": "x"},), (), [{"a": 1e300}])  # type: ignore[arg-type]
    assert convert({**WHOLE, "share": 1}, Outer).share == 1.0


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"title": 5}, "'title' is 5: expected `str`, got `int`"),
        ({"share": "0.5"}, "'share' is '0.5': expected `float`, got `str`"),
        ({"share": True}, "'share' is True: expected `float`, got `bool`"),
        ({"share": 1e100}, "'share' is 1e+100: expected `float` < 1e+100"),
        ({"share": -1e100}, "'share' is -1e+100: expected `float` > -1e+100"),
        ({"share": 10**101}, "'share' is 100000000000000000...0000000000000000000: expected `float` < 1e+100"),
        ({"images": 1.0}, "'images' is 1.0: expected `int | null`, got `float`"),
        ({"images": 1 << 63}, "'images' is 9223372036854775808: expected `int` <= 4611686018427387904"),
        ({"parts": {}}, "'parts' is {}: expected `array`, got `object`"),
        ({"parts": [{"name": "x"}, {}]}, "'parts[1]' is {}: object missing required field `name`"),
        ({"parts": [{"name": None}]}, "'parts[0].name' is None: expected `str`, got `null`"),
        ({"metrics": {"auroc": "high"}}, "'metrics' is {'auroc': 'high'}: expected `float`, got `str`"),
    ],
)
def test_what_does_not_fit_is_named_with_its_value(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=r"expected|missing") as error:
        convert({**WHOLE, **change}, Outer)
    assert str(error.value) == expected


def test_a_value_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected `object`, got `array`$"):
        convert([], Outer)
    with pytest.raises(ValueError, match=r"^object missing required field `title`$"):
        convert({}, Outer)
    with pytest.raises(ValueError, match="surrogates"):
        convert({**WHOLE, "\ud800": 1}, Outer)
