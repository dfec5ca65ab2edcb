"""Collects the events of the workers of a Ray cluster. Workers import this module first, so it does without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodbench.benchmark.engines.messages import Event


TIMEOUT = 5.0
"""Seconds within which the cluster must answer."""


class EventBuffer:
    """A Ray actor that buffers the events of all workers until the planning process polls them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def post(self, event: Event) -> None:
        """Add an event."""
        self._events.append(event)

    def drain(self) -> list[Event]:
        """Remove and return all events."""
        events, self._events = self._events, []
        return events


@contextmanager
def event_buffer(ray: Any) -> Iterator[Any]:
    """An event buffer on this node. It is ended explicitly, because idle workers keep a reference to it."""
    buffer = ray.remote(EventBuffer).options(num_cpus=0, scheduling_strategy=_on_this_node(ray)).remote()
    try:
        yield buffer
    finally:
        ray.kill(buffer)


def poll(ray: Any, buffer: Any) -> list[Event]:
    """The events since the last call; none if the buffer is lost, since only the progress display needs them."""
    try:
        events: list[Event] = ray.get(buffer.drain.remote(), timeout=TIMEOUT)
    except ray.exceptions.RayError:
        return []
    return events


def _on_this_node(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
