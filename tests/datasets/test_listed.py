"""The cards of data sets that are lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.lists import ListedDataset
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.datasets._openood import MEMBERS

HEXADECIMAL = 64


def cards() -> dict[str, ListedDataset]:
    """Every data set of oodbench that is a list."""
    built_in = [e for e in registry.entries("dataset").values() if e.origin.startswith("oodbench.")]
    return {e.name: e.load()() for e in built_in if issubclass(e.load(), ListedDataset)}


CARDS = cards()


def test_the_boards_sets_exist() -> None:
    ten = ["cifar10-openood", "cifar100-openood10", "tinyimagenet-openood10", "places365-openood10", "cifar10c-openood"]
    hundred = ["cifar100-openood", "cifar10-openood100", "tinyimagenet-openood100", "places365-openood100"]
    assert {*ten, *hundred, "mnist-openood", "svhn-openood", "textures-openood"} <= set(CARDS)
    large = ["ssb-hard", "ninco", "inaturalist", "textures-43of47", "openimage-o", "imagenet-v2", "imagenet-c"]
    large += ["imagenet1k", "imagenet200"]
    assert {*large, "imagenet-r", "imagenet-es", "imagenet200-v2", "imagenet-val", "sun", "places"} <= set(CARDS)
    assert all(CARDS[name].native for name in large)


def test_other_sets_are_not_native() -> None:
    assert not any(card.native for name, card in CARDS.items() if "openood" in name)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_card_is_complete(name: str) -> None:
    card = CARDS[name]
    assert card.title
    assert card.paper
    assert card.licence
    assert len(card.origin) > 40
    assert "not run" in card.caveats.lower()
    assert set(card.sources) == set(card.splits)
    assert set(card.sizes) <= set(card.splits)
    assert set(card.optional) < set(card.splits)
    assert card.family in ("", *registry.entries("dataset"))


@pytest.mark.parametrize("name", sorted(CARDS))
def test_an_absent_set_says_which_file_to_put_where(name: str, tmp_path: Path) -> None:
    for split in CARDS[name].splits:
        with pytest.raises(DataError) as caught:
            Library(tmp_path).split(parse_set(name), split)
        message = str(caught.value)
        assert CARDS[name].sources[split][0].files[0].names[0] in message
        assert str(tmp_path) in message
        assert "\n" not in message


def test_the_digests_of_lists_are_of_lists_that_cards_read() -> None:
    """Of every list with a digest, some card reads it."""
    accepted = {
        name.removeprefix("benchmark_imglist/").removesuffix(".txt")
        for card in CARDS.values()
        for sources in card.sources.values()
        for source in sources
        for file in source.files
        for name in file.names
    }
    assert set(MEMBERS) <= accepted
    assert all(len(digest) == HEXADECIMAL for digest in MEMBERS.values())
    assert len(set(MEMBERS.values())) == len(MEMBERS)
