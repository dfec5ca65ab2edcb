"""A run killed at any moment: the same command, given again, completes it with the same bytes."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.support import share

if TYPE_CHECKING:
    from tests.chaos.conftest import ForkServer
    from tests.chaos.distributed import Tables

KILLED = -9
PHASES = {"plan", "train", "extract", "fit", "score", "records", "tables"}


def moments(fork_server: ForkServer, count: int, seed: int) -> list[int]:
    """Numbers of events of an undisturbed run, drawn from each phase in turn: planning, training, ... and writing."""
    lines = (fork_server.folder / "reference.log").read_text().splitlines()
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


def dies_and_recovers(fork_server: ForkServer, reference: Tables, moment: int) -> None:
    results = f"killed{moment}"
    code = fork_server.run(results, kill=moment, log=f"{results}.log")
    events = (fork_server.folder / f"{results}.log").read_text().splitlines()
    if code == 0 and len(events) < moment:  # how many hashes the store remembers depends on the clock
        return
    assert code == KILLED, fork_server.output(results)
    expected = (fork_server.folder / "reference.log").read_text().splitlines()[moment - 1]
    assert events[-1].split()[:2] == expected.split()[:2], "it was killed at the wrong event"
    assert fork_server.run(results) == 0, fork_server.output(results)
    assert fork_server.tables(results) == reference, f"killed at event {moment}: {expected}"
    assert fork_server.left_over(results) == []


@pytest.mark.slow
def test_killed_at_a_few_moments(fork_server: ForkServer, reference: Tables) -> None:
    of_training, of_scores, of_tables = moments(fork_server, len(PHASES), seed=1)[1::2]
    for moment in (of_training, of_scores, of_tables):
        dies_and_recovers(fork_server, reference, moment)


@pytest.mark.slow
def test_killed_at_many_moments(fork_server: ForkServer, reference: Tables) -> None:
    """Each share of the 52 has moments of every phase, because these are drawn in turn."""
    chosen = share(moments(fork_server, 52, seed=0))
    lines = (fork_server.folder / "reference.log").read_text().splitlines()
    assert {lines[moment - 1].partition("\t")[0] for moment in chosen} == PHASES
    for moment in dict.fromkeys(chosen):
        dies_and_recovers(fork_server, reference, moment)


@pytest.mark.slow
def test_killed_again_and_again(fork_server: ForkServer, reference: Tables) -> None:
    """Each process continues where the one before was killed, and is killed a little later."""
    kills, kill = 0, 40
    while fork_server.run("again", kill=kill) == KILLED:
        kills, kill = kills + 1, kill + 15
        assert kills < 60, fork_server.output("again")
    assert kills >= 5
    assert fork_server.tables("again") == reference
    assert fork_server.left_over("again") == []
