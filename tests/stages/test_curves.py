"""The losses of a training as files and in displays, while it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark import Recipe, TrainBatch, Training
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.recipe import Task
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages.training.curves import EVERY, Curves, refuse_missing_tensorboard, write_stored_curves
from oodbench.benchmark.stages.training.epoch_values import EpochValues
from oodbench.benchmark.store.store import Store
from tests.support import array_key, run_suite, write_suite

LOSSES = [{"loss": 2.0, "accuracy": 0.25}, {"loss": 1.0, "accuracy": 0.5}, {"loss": 0.5, "accuracy": 1.0}]
KEY = array_key(label="training", kind="checkpoint", extension=".safetensors")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "cache")
    store.extra(KEY, "").parent.mkdir(parents=True)
    return store


def rows(store: Store) -> list[str]:
    path = store.extra(KEY, ".losses.csv")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def test_the_csv_file_grows_while_a_network_trains_but_not_too_often(store: Store) -> None:
    clock = Clock()
    curves = Curves(store, KEY, clock=clock)
    curves.add(LOSSES[:1])
    assert not rows(store)
    clock.now = EVERY
    curves.add(LOSSES[:2])
    assert rows(store) == ["epoch,loss,accuracy", "1,2.0,0.25", "2,1.0,0.5"]
    curves.add(LOSSES)
    assert len(rows(store)) == 3
    curves.finish(LOSSES)
    assert rows(store)[-1] == "3,0.5,1.0"


def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What TensorBoard is asked to write: a stand-in for it."""
    calls: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            calls.append(("open", Path(folder).name))

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            calls.append((name, value, epoch))

        def flush(self) -> None:
            calls.append(("flush",))

        def close(self) -> None:
            calls.append(("close",))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return calls


def test_tensorboard_gets_every_epoch_once_and_when_it_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = written(monkeypatch)
    curves = Curves(store, KEY, tensorboard=True)
    for epoch in (1, 2):
        curves.add(LOSSES[:epoch])
        assert calls[-1] == ("flush",), "it can be looked at now"
    curves.finish(LOSSES)
    name = store.extra(KEY, ".tensorboard").name
    scalars = [(of, row[of], epoch + 1) for epoch, row in enumerate(LOSSES) for of in row]
    assert [call for call in calls if call != ("flush",)] == [("open", name), *scalars, ("close",)]


def test_a_training_that_starts_again_begins_new_curves(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = written(monkeypatch)
    stale = store.extra(KEY, ".tensorboard") / "events.of-the-first"
    curves = Curves(store, KEY, tensorboard=True)
    curves.add(LOSSES[:2])
    curves.restart()
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    curves.finish(LOSSES[2:])
    assert calls[-4:-1] == [("loss", 0.5, 1), ("accuracy", 1.0, 1), ("flush",)]
    assert not stale.exists()


def test_tensorboard_reads_what_is_written(store: Store) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = Curves(store, KEY, tensorboard=True)
    curves.add(LOSSES[:1])
    curves.finish(LOSSES)
    events = EventAccumulator(str(store.extra(KEY, ".tensorboard")))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.0), (3, 0.5)]


def test_stored_losses_are_written_once_for_tensorboard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = written(monkeypatch)
    Curves(store, KEY).finish(LOSSES)
    other = array_key(2, label="scores")
    assert not calls
    write_stored_curves(store, [other, KEY])
    scalars = [(of, row[of], epoch + 1) for epoch, row in enumerate(LOSSES) for of in row]
    name = store.extra(KEY, ".tensorboard").name
    assert [call for call in calls if call != ("flush",)] == [("open", name), *scalars, ("close",)]
    calls.clear()
    store.extra(KEY, ".tensorboard").mkdir()
    write_stored_curves(store, [other, KEY])
    assert not calls


@pytest.mark.parametrize("text", ["", "epoch,loss\n1,2.0,3.0\n", "epoch,loss\n1,much\n", "loss\n1\n"])
def test_a_damaged_file_of_losses_is_named(
    text: str, store: Store, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    calls = written(monkeypatch)
    store.extra(KEY, ".losses.csv").write_text(text, encoding="utf-8")
    write_stored_curves(store, [KEY])
    (message,) = logged
    assert message.startswith(f"{store.extra(KEY, '.losses.csv')} cannot be read, so that TensorBoard does not show it")
    assert not calls


def test_a_training_that_goes_on_without_tensorboard_leaves_no_half_of_its_curves(store: Store) -> None:
    half = store.extra(KEY, ".tensorboard") / "events.of-a-stopped-training"
    half.parent.mkdir()
    half.write_text("")
    Curves(store, KEY).finish(LOSSES)
    assert not half.exists()


def test_a_run_that_trains_nothing_writes_the_curves_of_its_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oodbench.benchmark.api.refuse_missing_tensorboard", lambda: None)
    suite = write_suite(tmp_path, '[[id]]\nset = "digits"\nood = [{ set = "uniform" }]', training="epochs = 2")
    run_suite(suite, limit_train=100, limit_test=20)
    calls = written(monkeypatch)
    run_suite(suite, limit_train=100, limit_test=20)
    assert not calls
    run_suite(suite, limit_train=100, limit_test=20, tensorboard=True)
    (folder,) = {value for name, value, *_ in (call for call in calls if len(call) > 1) if name == "open"}
    assert folder.startswith("cross_entropy")
    assert folder.endswith(".tensorboard")
    assert [call[2] for call in calls if call[0] == "cross_entropy"] == [1, 2]


def test_tensorboard_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--tensorboard needs TensorBoard: pip install 'oodbench\[tensorboard\]'\.$"):
        refuse_missing_tensorboard()


@pytest.mark.parametrize(
    "values, expected",
    [
        (EpochValues(3, 10, {"cross_entropy": 0.07123, "accuracy": 0.9791}), "cross entropy 0.0712, accuracy 97.9%"),
        (EpochValues(3, 10, {"loss": float("nan")}), "loss nan"),
        (
            EpochValues(3, 10, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 5.0, "accuracy": 1.0}),
            "a 1, b 2, c 3, d 4, accuracy 100.0%",
        ),
    ],
)
def test_values_as_a_line(values: EpochValues, expected: str) -> None:
    assert values.text() == f"epoch 3 of 10, {expected}"
    assert values._replace(attempt=2).text() == f"attempt 2, epoch 3 of 10, {expected}"


RECIPES: Sequence[str] = (
    *("cross_entropy", "confidence", "logitnorm", "t2fnorm", "regmixup", "mixoe", "outlier_exposure"),
    *(
        "energy_finetune",
        "outlier_exposure_finetune",
        "vos",
        "standard",
        "one_cycle",
        "fine_tune",
        "joint",
        "gan_confidence",
    ),
)
AUGMENTING: Mapping[str, Mapping[str, Any]] = {
    "standard": {"padding": 0, "flip": False},
    "one_cycle": {"shift": 0, "flip": False},
    "fine_tune": {"shift": 0.0, "flip": False},
    "joint": {"width": 2},
}
"""Settings with which images stay as they are."""


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_log_the_accuracy_of_the_batch(name: str) -> None:
    torch.manual_seed(0)
    recipe: Recipe = registry.get("recipe", name)(**AUGMENTING.get(name, {}))
    task = Task(4, (3, 32, 32), lambda: Net(3 * 32 * 32, 4))
    given: dict[str, torch.nn.Module] = {}
    if recipe.builds_on:
        base: Recipe = registry.get("recipe", recipe.builds_on)(**({"width": 2} if recipe.builds_on == "gan" else {}))
        given = {of: network.eval().requires_grad_(False) for of, network in base.networks(task).items()}
    networks = recipe.networks(task)
    training = Training(networks, recipe.optimizers(networks), given, torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    images, outliers = torch.rand(2, 24, 3, 32, 32, generator=random)
    expected_from = given.get("classifier", networks["classifier"])
    logits = expected_from(images).detach().numpy()
    labels = torch.from_numpy(np.where(np.arange(24) < 15, logits.argmax(axis=1), logits.argmin(axis=1)))
    logged = recipe.step(training, TrainBatch(images, labels, outliers))
    assert float(logged["accuracy"]) == pytest.approx(15 / 24)
    assert not logged["accuracy"].requires_grad


class Net(torch.nn.Module):
    """One layer of features and a linear head, which differ between images enough to disagree on classes."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.body, self.head = torch.nn.Linear(inputs, 16), torch.nn.Linear(16, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(images.flatten(1))
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.features(images))
        return found
