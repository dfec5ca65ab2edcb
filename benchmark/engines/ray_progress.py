"""Where workers of a Ray cluster post how far they are. Every worker reads this module, and so it is without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodbench.benchmark.engines.messages import Event


ANSWER = 5.0
"""Seconds that a cluster has to answer."""


class Board:
    """An actor that keeps what workers post until the command asks for it."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def post(self, event: Event) -> None:
        """Keep an event."""
        self._events.append(event)

    def taken(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events


@contextmanager
def open_board(ray: Any) -> Iterator[Any]:
    """A board on this node; workers that stay warm keep hold of it, so that it is ended here."""
    board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=_on_this_node(ray)).remote()
    try:
        yield board
    finally:
        ray.kill(board)


def poll(ray: Any, board: Any) -> list[Event]:
    """What was posted; nothing if the board is gone, which shows progress and does no work."""
    try:
        events: list[Event] = ray.get(board.taken.remote(), timeout=ANSWER)
    except ray.exceptions.RayError:
        return []
    return events


def _on_this_node(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
