"""What detectors compute from large training splits is stored where it took long, and read by later commands."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch
from oodbench.benchmark.plugins.inputs import UndeclaredInputError
from oodbench.benchmark.stages.detecting import stored_results
from oodbench.benchmark.stages.detecting.shared_results import SharedResults
from oodbench.benchmark.stages.detecting.stored_results import StoredResults
from oodbench.benchmark.store.store import Store
from oodbench.benchmark.store.tensor_file import from_file, to_bytes
from oodbench.detectors._directions import Directions
from oodbench.detectors._gaussian import class_means, covariance, mean_of
from oodbench.detectors._moments import Moments, moments
from oodbench.detectors._rectified import positive_units
from tests.support import run_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT, UNITS = 40, 5


@pytest.fixture(autouse=True)
def everything_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_results, "LEAST", 1)
    monkeypatch.setattr(stored_results, "LONG", 0.0)


class Commands:
    """Commands that use one store: each has its own results in memory."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.rows: Counter[str] = Counter()
        random = torch.Generator().manual_seed(0)
        self.drawn = {name: torch.randn(COUNT, UNITS, generator=random) for name in ("features", "logits", "maps")}
        self.drawn["labels"] = torch.arange(COUNT) % 4

    def batch(self, *names: str, images: str = "split", reads_store: bool = True) -> Batch:
        """The split as a detector of a new command sees it, which declares these inputs."""
        shared = SharedResults(stored=StoredResults(self.store.root))
        shared.reads_store = reads_store
        parts: Mapping[str, Callable[[slice], Tensor]] = {name: self._reader(name) for name in names}
        self.rows.clear()
        return Batch(COUNT, parts, "one", once=shared.of(images, COUNT, parts, "one"))

    def stored(self) -> list[Path]:
        """The files of stored results."""
        return sorted(self.store.root.glob("statistics/*.safetensors"))

    def _reader(self, name: str) -> Callable[[slice], Tensor]:
        def read(where: slice) -> Tensor:
            self.rows[name] += len(self.drawn[name][where])
            return self.drawn[name][where].clone()

        return read


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path / "cache")


ZERO = torch.zeros(UNITS, dtype=torch.float64)


@pytest.mark.parametrize(
    "function, settings",
    [
        (mean_of, ()),
        (moments, ()),
        (moments, (Directions(),)),
        (class_means, (4,)),
        (covariance, (ZERO,)),
        (positive_units, ()),
    ],
    ids=["a tensor", "a named tuple", "a dataclass", "a tuple", "a tensor as setting", "numbers"],
)
def test_a_later_command_reads_the_same_bits(commands: Commands, function: Any, settings: tuple[Any, ...]) -> None:
    names = ("features", "labels") if function is class_means else ("features",)
    computed = commands.batch(*names).once(function, *settings)
    assert commands.rows["features"] >= COUNT
    found = commands.batch(*names).once(function, *settings)
    assert commands.rows["features"] == 0
    assert type(found) is type(computed)
    parts = [(found, computed)] if isinstance(found, Tensor) else list(zip(found, computed, strict=True))
    for one, other in parts:
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
        assert type(one) is type(other)


def test_named_tuples_keep_their_methods(commands: Commands) -> None:
    about = commands.batch("features").once(moments).about(ZERO)
    found = commands.batch("features").once(moments)
    assert isinstance(found, Moments)
    assert torch.equal(found.about(ZERO), about)


@pytest.mark.parametrize("change", ["images", "settings", "type of a setting", "code", "field of a setting"])
def test_other_images_settings_and_code_are_other_results(
    commands: Commands, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.batch("features").once(covariance, ZERO)
    commands.batch("features").once(moments, Directions(1.0))
    images, function, settings = "split", covariance, (ZERO,)
    if change == "images":
        images = "another"
    elif change == "settings":
        settings = (ZERO + 1,)
    elif change == "type of a setting":
        settings = (ZERO.float(),)
    elif change == "code":
        monkeypatch.setattr(stored_results, "code_version", lambda modules: "source:other")
    else:
        function, settings = moments, (Directions(0.5),)  # type: ignore[assignment]
    before = len(commands.stored())
    commands.batch("features", images=images).once(function, *settings)
    assert commands.rows["features"] == COUNT
    assert len(commands.stored()) == before + 1


def of_a_test(train: Batch) -> Tensor:
    return train.features.sum(dim=0)


@dataclass(frozen=True)
class Elsewhere:
    """A setting of a module that is no part of the project."""

    power: float = 1.0

    def __call__(self, part: Batch) -> Tensor:
        return part.features.double()


@pytest.mark.parametrize(
    "function, settings",
    [
        (of_a_test, ()),
        (lambda train: mean_of(train), ()),
        (mean_of, (Elsewhere(),)),
        (mean_of, (lambda part: part.features.double(),)),
    ],
    ids=["another module", "a lambda", "a class elsewhere", "a lambda as setting"],
)
def test_what_has_no_name_in_the_project_is_computed_again(
    commands: Commands, function: Any, settings: tuple[Any, ...]
) -> None:
    for _ in range(2):
        commands.batch("features").once(function, *settings)
        assert commands.rows["features"] == COUNT
    assert commands.stored() == []


def test_what_is_quick_or_small_is_not_stored(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_results, "LONG", 1000.0)
    commands.batch("features").once(mean_of)
    assert commands.stored() == []
    monkeypatch.setattr(stored_results, "LONG", 0.0)
    monkeypatch.setattr(stored_results, "LEAST", COUNT + 1)
    commands.batch("features").once(mean_of)
    assert commands.stored() == []


def test_a_command_that_computes_everything_again_reads_nothing_stored(commands: Commands) -> None:
    commands.batch("features").once(mean_of)
    (path,) = commands.stored()
    before = path.read_bytes()
    commands.batch("features", reads_store=False).once(mean_of)
    assert commands.rows["features"] == COUNT
    assert path.read_bytes() == before


def test_a_stored_result_is_no_way_to_inputs_that_are_not_declared(commands: Commands) -> None:
    commands.batch("features", "labels").once(class_means, 4)
    with pytest.raises(UndeclaredInputError, match="Detector 'one' asked for 'labels', which it does not declare"):
        commands.batch("features").once(class_means, 4)


@pytest.mark.parametrize("how", ["changed bytes", "forged type", "forged content"])
def test_a_damaged_or_forged_result_is_computed_again(commands: Commands, how: str) -> None:
    expected = commands.batch("features").once(moments)
    (path,) = commands.stored()
    if how == "changed bytes":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        found = from_file(path)
        found["type" if how == "forged type" else "value"] = "oodbench.detectors._moments:no_such_type"
        side = path.with_name(path.name + ".json")
        key = commands.store.key_of(path.relative_to(commands.store.root).as_posix())
        assert key is not None
        side.unlink()
        content = to_bytes(found)
        commands.store.save(key, lambda file: stored_results._write(file, content), {"seconds": 1.0})
    found = commands.batch("features").once(moments)
    assert commands.rows["features"] == COUNT
    assert torch.equal(found.covariance, expected.covariance)
    assert isinstance(found, Moments)


@pytest.mark.slow
def test_a_run_stores_what_took_long_and_the_next_detector_reads_it(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, '[[id]]\nset = "digits[0-3]"\nood = [{ set = "uniform" }]')
    detectors = ["residual", "vim", "mahalanobis", "relative_mahalanobis"]
    alone = {
        name: run_suite(suite, name, name=f"alone-{name}", results=tmp_path / f"alone-{name}") for name in detectors
    }
    cache = tmp_path / "results" / "cache"
    written: dict[Path, int] = {}
    for number, name in enumerate(detectors):
        run = run_suite(suite, name, name=f"run-{number}")
        assert [record.metrics for record in run.records] == [record.metrics for record in alone[name].records]
        now = {path: path.stat().st_mtime_ns for path in cache.glob("statistics/*.safetensors")}
        assert now.items() >= written.items()  # read, not computed and written again
        written = now
    titles = [json.loads(side.read_text())["key"]["function"] for side in cache.glob("statistics/*.json")]
    # `residual` has made both, the others have read them
    assert titles.count("oodbench.detectors._gaussian:class_means") == 1
    assert titles.count("oodbench.detectors._gaussian:covariance") == 1
    assert not any("statistics" in path for record in run.records for path in record.artifacts.values())
