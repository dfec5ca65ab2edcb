"""A diverged training in the cells of a run: why it failed, or that another attempt took its place."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.runner.provenance import STARTED_AGAIN
from oodbench.benchmark.stages.training.epoch_values import EpochValues
from oodbench.benchmark.views.tables.text import text_table
from oodbench.detectors.cross_entropy import CrossEntropy
from tests.support import prepare_suite, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "digits[5-9]", group = "near" }, { set = "uniform", group = "far" }]
"""
REASON = "it has had enough (recipe 'shaky') in epoch 1"
Register = Callable[[str, type[Plugin]], None]


class Shaky(CrossEntropy):
    """Fails at the end of its first epochs, as many as `failing` says."""

    version = "1"
    failing: ClassVar[list[int]] = []

    def diverged(self, losses: Mapping[str, float]) -> str | None:
        return "it has had enough" if self.failing and self.failing.pop() else None


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return write_suite(tmp_path, MATRIX)


def run(suite: Path, **options: Any) -> Any:
    return run_suite(suite, "msp,msp@shaky", epochs=1, **options)


def test_a_training_that_was_started_again_is_marked(suite: Path, register: Register) -> None:
    class Twice(Shaky):
        version = "1"
        retries = 1
        failing: ClassVar[list[int]] = [1]

    register("shaky", Twice)
    done = run(suite)
    assert {record.status for record in done.records} == {"ok"}
    notes = {record.label: [n for n in record.notes if n.startswith(STARTED_AGAIN)] for record in done.records}
    assert notes == {"msp": [], "msp@shaky": [f"{STARTED_AGAIN}: {REASON}"]}
    marked = next(record for record in done.records if record.label == "msp@shaky")
    trained = next(one for one in marked.provenance["artifacts"] if one["kind"] == "checkpoint")
    assert (trained["attempt"], trained["diverged"]) == (2, [REASON])
    text = " ".join(text_table(done, width=200).split())
    assert f"Note: {STARTED_AGAIN}: {REASON} (digits[0-1], msp@shaky, " in text
    stored = json.loads((done.path / "cells" / marked.file_name).read_text(encoding="utf-8"))
    assert stored["notes"] == [*marked.notes]


def test_a_training_that_fails_for_good_says_why_in_its_cells(suite: Path, register: Register) -> None:
    class Once(Shaky):
        version = "1"
        failing: ClassVar[list[int]] = [1]

    register("shaky", Once)
    done = run(suite)
    failed = [record for record in done.records if record.label == "msp@shaky"]
    assert {record.status for record in failed} == {"failed"}
    for record in failed:
        assert record.reason.endswith(
            f": Training diverged: {REASON}. Lower its learning rate or the weight of an added loss."
        )
    assert {record.status for record in done.records if record.label == "msp"} == {"ok"}
    assert f"Training diverged: {REASON}." in " ".join(text_table(done, width=200).split())


def test_tensorboard_is_refused_before_any_work_where_it_is_not_installed(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.util.find_spec
    for installed in (True, False):
        spec = known("json") if installed else None
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *more, s=spec: s if name == "tensorboard" else known(name, *more)
        )
        if installed:
            config = prepare_suite(suite, "msp", tensorboard=True).context.config
            assert config is not None
            assert config.tensorboard
        else:
            with pytest.raises(UserError, match=r"^--tensorboard needs TensorBoard: pip install 'oodbench\[tensor"):
                prepare_suite(suite, "msp", tensorboard=True)
    plain = prepare_suite(suite, "msp").context.config
    assert plain is not None
    assert not plain.tensorboard


def test_every_display_of_a_run_gets_losses(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[EpochValues] = []

    class Watching:
        def start(self, job: Any) -> None: ...
        def tick(self, job: Any, images: int) -> None: ...
        def finish(self, job: Any, reason: str) -> None: ...

        def training(self, job: Any, values: EpochValues) -> None:
            assert job.kind == "train"
            shown.append(values)

    original = registry.get("recipe", "cross_entropy").step

    def slow(self: CrossEntropy, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        monkeypatch.setattr("oodbench.benchmark.stages.training.train.SHOW_EVERY", 0.0)
        losses: dict[str, Tensor] = original(self, training, batch)
        return losses

    monkeypatch.setattr(CrossEntropy, "step", slow)
    run_suite(suite, "msp", epochs=2, progress=Watching())
    assert {values.epoch for values in shown} == {1, 2}
    assert all(values.values.keys() == {"cross_entropy", "accuracy"} for values in shown)
    assert all(torch.isfinite(torch.tensor(list(values.values.values()))).all() for values in shown)
