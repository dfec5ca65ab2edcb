"""Fixtures that several test files share."""

from __future__ import annotations

import os

# Before torch and numpy are imported: test processes share the cores (pytest -n), and so do processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from oodbench.benchmark import ImageSet
    from oodbench.benchmark.plugins.base import Plugin
    from oodbench.benchmark.stages.context import JobContext

# Nothing here imports torch before a fixture needs it: with -n, pytest also imports this file in a process that runs no
# test, and the others start after it.


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, and let it pass over what is there then.

    It took 8 of 21 seconds: modules and tests are almost a million objects, of which none is garbage.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def once() -> Iterator[None]:
    """Compute once what many tests need of the same images (tests/once.py)."""
    from tests.once import computed_once

    with pytest.MonkeyPatch.context() as patch:
        computed_once(patch)
        yield


@contextmanager
def forgotten() -> Iterator[None]:
    """Forget at the end what was registered and imported; built-ins that were first imported meanwhile stay."""
    from oodbench.benchmark.plugins.registry import registry

    objects, files, modules = dict(registry._objects), dict(registry._from_files), len(sys.modules)
    yield
    if registry._objects != objects or registry._from_files != files:
        ours = {key: plugin for key, plugin in registry._objects.items() if plugin.__module__.startswith("oodbench.")}
        for kept, lasting in ((registry._objects, {**ours, **objects}), (registry._from_files, files)):
            kept.clear()
            kept.update(lasting)  # type: ignore[arg-type]
    if len(sys.modules) != modules:  # there are thousands, and this runs after every test
        for name in [name for name in sys.modules if name.startswith("oodbench_plugin_")]:
            del sys.modules[name]


@pytest.fixture(autouse=True, scope="module")
def registry_of_a_module() -> Iterator[None]:
    """Forget what the fixtures of a test module registered, which are set up before those of a test."""
    with forgotten():
        yield


@pytest.fixture(autouse=True)
def unchanged_registry() -> Iterator[None]:
    """Forget what a test registered and imported."""
    with forgotten():
        yield


class Collected(logging.Handler):
    """Keeps the messages of the package."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the package logs while the test runs, as it comes."""
    logger, handler = logging.getLogger("oodbench"), Collected()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.messages
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[Plugin]], None]:
    """Register a class under a name until the test ends."""
    from oodbench.benchmark.plugins.registry import KINDS, PluginEntry, registry

    def add(name: str, plugin: type[Plugin]) -> None:
        kind = next(kind for kind, (base, *_) in KINDS.items() if issubclass(plugin, base))
        monkeypatch.setattr(plugin, "name", name)
        monkeypatch.setitem(registry._from_files, (kind, name), PluginEntry(kind, name, "", "a test", lambda: plugin))

    return add


@contextmanager
def same_threads() -> Iterator[None]:
    """Set the number of threads back at the end: a run sets it for its process, in which other tests follow."""
    import torch

    from oodbench.benchmark.stages.context import THREAD_VARIABLES, use_threads

    before, variables = torch.get_num_threads(), {name: os.environ.get(name) for name in THREAD_VARIABLES}
    yield
    if torch.get_num_threads() != before:
        use_threads(before)
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(autouse=True, scope="module")
def threads_of_a_module() -> Iterator[None]:
    """Set back what the fixtures of a test module set, which are set up before those of a test."""
    with same_threads():
        yield


@pytest.fixture(autouse=True)
def unchanged_threads() -> Iterator[None]:
    """Set back what a test sets."""
    with same_threads():
        yield


@pytest.fixture
def one_thread(unchanged_threads: None) -> None:
    """The last bits of a network's outputs change with the number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(
    params=[pytest.param("simulated", marks=pytest.mark.slow), pytest.param("real", marks=pytest.mark.gpu)],
)
def gpu(request: pytest.FixtureRequest, one_thread: None) -> Iterator[str]:
    """ "simulated" (tests/gpu/simulated.py), whose numbers are the CPU's, or "real"; the device is 'cuda' for both."""
    from tests.gpu.simulated import simulated_gpu

    if request.param == "simulated":
        with simulated_gpu():
            yield request.param
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    yield request.param


DRAWN_FOLDERS = ("chaos", "docs", "engines", "papers", "views")
"""Folders of tests in which runs draw their plots."""


@pytest.fixture(autouse=True, scope="module")
def plots_are_drawn_where_a_module_looks_at_them(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let runs draw no plots, which take longer than a tiny run: but in some folders, and modules with `DRAWN = True`.

    A single test asks for them with the fixture `drawn`.
    """
    from tests.support import draw_no_plots

    with pytest.MonkeyPatch.context() as patch:
        folders = request.path.relative_to(Path(__file__).parent).parts
        if folders[0] not in DRAWN_FOLDERS and not getattr(request.module, "DRAWN", False):
            draw_no_plots(patch)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw plots, in a module in which runs draw none."""
    from tests.support import draw_plots

    draw_plots(monkeypatch)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no plots: they take longer than a tiny run."""
    from tests.support import draw_no_plots

    draw_no_plots(monkeypatch)


@pytest.fixture
def context_with(tmp_path: Path) -> Callable[[Mapping[str, ImageSet]], JobContext]:
    """Create a job context with an empty store from image sets by name."""
    from tests.support import ContextOfSets

    return lambda sets: ContextOfSets(tmp_path / "cache", sets)


@pytest.fixture(params=["memory", "file"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store that machines share."""
    if request.param == "file":
        yield f"file://{tmp_path}/shared"
        return
    from fsspec.implementations.memory import MemoryFileSystem

    yield "memory://shared"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; tests with it are slow, and are skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no chromium; .ci/system_packages installs it where it can")
    sync = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[dev]' brings playwright")
    with sync.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] * (os.geteuid() == 0))
        yield found
        found.close()
