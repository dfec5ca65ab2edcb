"""Names of given sets: any name of the user's can be registered, and comes back in tables and messages."""

from __future__ import annotations

import pytest

from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from oodbench.benchmark.records.given_sets import plain_name, registered_name, with_plain_names

NAMES = (
    "svhn",
    "Places 365 (crop)",
    "a/b",
    "digits[0-3]+inverted",
    "50% @ x=1, y",
    "été",
    "it's",
    "outputs:0123abcd/x",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back_and_is_a_data_set_without_classes_and_forms(name: str) -> None:
    registered = registered_name("0123abcdef", name)
    assert registered.startswith("outputs:0123abcd/")
    assert plain_name(registered) == name
    assert parse_set(registered) == SetSpec(registered)
    text = f"'{registered}' (test) has no labels; {registered}, too."
    assert with_plain_names(text) == f"'{name}' (test) has no labels; {name}, too."


def test_other_names_stay_as_they_are() -> None:
    for name in ("svhn", "outputs:xyz/svhn", "folder:outputs", "https://0123abcd/svhn"):
        assert plain_name(name) == name
        assert with_plain_names(name) == name
