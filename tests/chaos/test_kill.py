"""A run killed at any moment goes on, when the same command is given again, to the same bytes."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.chaos.conftest import Nursery
    from tests.chaos.distributed import Tables

KILLED = -9
PHASES = {"plan", "train", "extract", "fit", "score", "records", "tables"}


def moments(nursery: Nursery, count: int, seed: int) -> list[int]:
    """Numbers of events of an undisturbed run, drawn in turn from each phase: planning, training, ... and writing."""
    lines = (nursery.folder / "whole.log").read_text().splitlines()
    by_phase: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(lines, start=1):
        by_phase[line.partition("\t")[0]].append(number)
    assert set(by_phase) == PHASES, Counter({phase: len(numbers) for phase, numbers in by_phase.items()})
    draw = random.Random(seed)
    for numbers in by_phase.values():
        draw.shuffle(numbers)
    turns = [number for turn in zip(*map(_endless, by_phase.values()), strict=False) for number in turn]
    return turns[:count]


def _endless(numbers: list[int]) -> list[int]:
    return (numbers * 100)[:100]


def dies_and_recovers(nursery: Nursery, whole: Tables, moment: int) -> None:
    results = f"killed{moment}"
    ended = nursery.run(results, kill=moment, log=f"{results}.log")
    told = (nursery.folder / f"{results}.log").read_text().splitlines()
    if ended == 0 and len(told) < moment:  # how many hashes are worth remembering depends on the clock
        return
    assert ended == KILLED, nursery.said(results)
    expected = (nursery.folder / "whole.log").read_text().splitlines()[moment - 1]
    assert told[-1].split()[:2] == expected.split()[:2], "it died where it was to die"
    assert nursery.run(results) == 0, nursery.said(results)
    assert nursery.tables(results) == whole, f"killed at event {moment}: {expected}"
    assert nursery.left_over(results) == []


def test_killed_at_a_few_moments(nursery: Nursery, whole: Tables) -> None:
    of_training, of_scores, of_tables = moments(nursery, len(PHASES), seed=1)[1::2]
    for moment in (of_training, of_scores, of_tables):
        dies_and_recovers(nursery, whole, moment)


@pytest.mark.slow
def test_killed_at_fifty_moments(nursery: Nursery, whole: Tables) -> None:
    for moment in dict.fromkeys(moments(nursery, 50, seed=0)):
        dies_and_recovers(nursery, whole, moment)


@pytest.mark.slow
def test_killed_again_and_again(nursery: Nursery, whole: Tables) -> None:
    """Each life goes on from where the one before ended, and is killed a little later."""
    lives, kill = 0, 40
    while nursery.run("again", kill=kill) == KILLED:
        lives, kill = lives + 1, kill + 15
        assert lives < 60, nursery.said("again")
    assert lives >= 5
    assert nursery.tables("again") == whole
    assert nursery.left_over("again") == []
