"""A plug-in of pytest that writes down what each test costs: `python perf/tests.py` uses it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

VARIABLE = "OODBENCH_TEST_COSTS"
"""The environment variable that names the folder to write to."""


def processor_seconds() -> float:
    """CPU seconds of this process and of the children that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


class Costs:
    """Appends one line of JSON for each phase of each test; every process of the tests has a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}.jsonl"

    def write(self, name: str, phase: str, cpu: float, wall: float) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": name, "phase": phase, "cpu": cpu, "wall": wall}) + "\n")

    def measured(self, name: str, phase: str) -> Iterator[None]:
        cpu, wall = processor_seconds(), time.perf_counter()
        yield
        self.write(name, phase, processor_seconds() - cpu, time.perf_counter() - wall)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        self.write("", "start", processor_seconds(), 0.0)
        yield from self.measured("", "collection")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        yield from self.measured(item.nodeid, "setup")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        yield from self.measured(item.nodeid, "call")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        yield from self.measured(item.nodeid, "teardown")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        yield from self.measured(item.nodeid, "all")

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        self.write("", "process", processor_seconds(), 0.0)


def pytest_configure(config: pytest.Config) -> None:
    if folder := os.environ.get(VARIABLE):
        config.pluginmanager.register(Costs(Path(folder)))
