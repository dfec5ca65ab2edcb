"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from oodbench.benchmark import ImageSet
from oodbench.benchmark.contract import Plugin
from oodbench.benchmark.data import Library
from oodbench.benchmark.jobs import SetRef
from oodbench.benchmark.registry import KINDS, Entry, registry
from oodbench.benchmark.store import Store
from oodbench.benchmark.work import Bench


@pytest.fixture(autouse=True)
def unchanged_registry() -> Iterator[None]:
    """Forget what a test registered and imported; built-ins that it was the first to import stay."""
    objects, files = dict(registry._objects), dict(registry._from_files)
    yield
    ours = {key: plugin for key, plugin in registry._objects.items() if plugin.__module__.startswith("oodbench.")}
    for kept, lasting in ((registry._objects, {**ours, **objects}), (registry._from_files, files)):
        kept.clear()
        kept.update(lasting)  # type: ignore[arg-type]
    for name in [name for name in sys.modules if name.startswith("oodbench_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[Plugin]], None]:
    """Register a class under a name until the test ends."""

    def add(name: str, plugin: type[Plugin]) -> None:
        kind = next(kind for kind, (base, *_) in KINDS.items() if issubclass(plugin, base))
        monkeypatch.setattr(plugin, "name", name)
        monkeypatch.setitem(registry._from_files, (kind, name), Entry(kind, name, "", "a test", lambda: plugin))

    return add


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The last bits of a network's outputs change with the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class GivenImages(Bench):
    """A bench whose sets are handed to it."""

    def __init__(self, root: Path, sets: Mapping[str, ImageSet]) -> None:
        super().__init__(Store(root), Library(root), torch.device("cpu"))
        self.sets = sets

    def images(self, data: SetRef) -> ImageSet:
        return self.sets[data.set]


@pytest.fixture
def bench_with(tmp_path: Path) -> Callable[[Mapping[str, ImageSet]], Bench]:
    """Make a bench, with an empty store, of image sets by name."""
    return lambda sets: GivenImages(tmp_path / "cache", sets)
