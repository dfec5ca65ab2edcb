"""Fixtures that several test files share."""

from __future__ import annotations

import os

# Before torch and numpy are imported: test processes share the cores (pytest -n), and so do processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData, ImageSet, api
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import KINDS, PluginEntry, registry
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.store.store import Store
from oodbench.benchmark.views import plots


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

    def add(name: str, plugin: type[Plugin]) -> None:
        kind = next(kind for kind, (base, *_) in KINDS.items() if issubclass(plugin, base))
        monkeypatch.setattr(plugin, "name", name)
        monkeypatch.setitem(registry._from_files, (kind, name), PluginEntry(kind, name, "", "a test", lambda: plugin))

    return add


@pytest.fixture(autouse=True)
def unchanged_threads() -> Iterator[None]:
    """A run sets the number of threads for its process, in which other tests follow."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def one_thread(unchanged_threads: None) -> None:
    """The last bits of a network's outputs change with the number of threads."""
    torch.set_num_threads(1)


TINY = """
schema = 1
[protocol]
backbone = "small_cnn[width=2,hidden=4]"
recipe = "cross_entropy"
[training]
epochs = 1
"""


@pytest.fixture(scope="session")
def tiny_suite() -> Callable[[str], str]:
    """Complete a suite, given what is tested on what (`[[id]]`): a tiny network, trained for one epoch."""
    return lambda matrix: TINY + matrix.lstrip("\n")


@pytest.fixture(scope="session")
def tiny_run() -> Callable[..., StoredRun]:
    """Run a suite's file as `api.run` does, on one thread and without plots."""

    def run(suite: Path, detectors: str = "msp", **options: Any) -> StoredRun:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plots, "draw", lambda *_: [])
            return api.run(detectors, suite=str(suite), threads=1, **options)

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no plots: they take longer than a tiny run."""
    monkeypatch.setattr(plots, "draw", lambda *_: [])


class FeatureWorld:
    """Features, labels and a linear head: what post-hoc detectors look at, without images. Change it before `fit`."""

    def __init__(self, classes: int = 3, units: int = 5, images: int = 42, seed: int = 0) -> None:
        random = np.random.RandomState(seed)
        centres = 2 * abs(random.randn(classes, units))
        lengths = (centres**2).sum(axis=1)  # the head finds the nearest centre
        self.weight, self.bias = centres - centres.mean(axis=0), (lengths.max() - lengths) / 2 + 1
        self.labels = np.arange(images) % classes
        self.features = abs(centres[self.labels] + 0.7 * random.randn(images, units)).astype(np.float32)
        self.validation_labels = np.arange(3 * classes) % classes
        noise = random.randn(3 * classes, units)
        self.validation = abs(centres[self.validation_labels] + noise).astype(np.float32)
        self.test = abs(1.5 * random.randn(9, units)).astype(np.float32)

    def logits(self, features: np.ndarray) -> np.ndarray:
        made: np.ndarray = features.astype(np.float64) @ self.weight.T + self.bias
        return made

    def classifier(self) -> Classifier:
        network = nn.Module()
        network.head = nn.Linear(*self.weight.T.shape).double()
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(self.weight))
            network.head.bias.copy_(torch.from_numpy(self.bias))
        return Classifier(network, len(self.weight))

    def batch(self, detector: Detector, features: np.ndarray, labels: np.ndarray | None = None) -> Batch:
        """What the detector declares of these features, and labels where given."""
        parts = {"features": torch.from_numpy(features).__getitem__} if "features" in detector.needs else {}
        if "logits" in detector.needs:
            parts["logits"] = torch.from_numpy(self.logits(features)).__getitem__
        if labels is not None:
            parts["labels"] = torch.from_numpy(labels).__getitem__
            return Batch(len(features), parts, detector.name)
        bank = None
        if "similarities" in detector.needs:
            bank = TrainingBank(self.features, self.bank_rows(detector))
            parts["similarities"] = bank.similarities(torch.from_numpy(features)).__getitem__
        return Batch(len(features), parts, detector.name, bank=bank)

    def bank_rows(self, detector: Detector) -> Tensor | None:
        """The training images that a detector compares with, as the harness has it choose them."""
        values = {"features": self.features, "labels": self.labels}
        parts = {name: torch.from_numpy(value).__getitem__ for name, value in values.items()}
        return detector.bank_rows(Batch(len(self.labels), parts, detector.name))

    def fit(self, name: str, **settings: Any) -> Detector:
        detector: Detector = registry.get("detector", name)(**settings)
        train = self.batch(detector, self.features, self.labels)
        validation = self.batch(detector, self.validation, self.validation_labels)
        detector.fit(self.classifier(), FitData(train, validation, bank=self.bank_rows(detector)))
        return detector

    def score(self, name: str, **settings: Any) -> np.ndarray:
        """Scores of `test` by a detector fitted on the training features."""
        detector = self.fit(name, **settings)
        scores: np.ndarray = detector.score(self.batch(detector, self.test)).numpy()
        assert scores.shape == (len(self.test),)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        return scores


@pytest.fixture
def feature_world() -> type[FeatureWorld]:
    """Make worlds of features."""
    return FeatureWorld


class ContextOfSets(JobContext):
    """A job context with the given image sets."""

    def __init__(self, root: Path, sets: Mapping[str, ImageSet]) -> None:
        super().__init__(Store(root), Library(root), torch.device("cpu"))
        self.sets = sets

    def images(self, data: SetRef) -> ImageSet:
        return self.sets[data.set]


@pytest.fixture
def context_with(tmp_path: Path) -> Callable[[Mapping[str, ImageSet]], JobContext]:
    """Create a job context with an empty store from image sets by name."""
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
