"""--epochs, --limit-train and --precision: part of the key and of every record, and marked in every view."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark.api import Prepared
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan import precision
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.tables import latex as table_latex
from oodbench.benchmark.views.tables import markdown as table_markdown
from oodbench.benchmark.views.tables import text as table_text
from tests.support import prepare_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-3]"
ood = [{ set = "uniform" }]
"""
Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare_tiny(tmp_path: Path) -> Prepare:
    return partial(prepare_suite, write_suite(tmp_path, MATRIX, training="epochs = 2"))


def training(prepared: Prepared) -> TrainJob:
    (job,) = (job for job in prepared.plan.jobs.values() if isinstance(job, TrainJob))
    return job


def test_each_is_part_of_the_key_and_of_the_record(prepare_tiny: Prepare) -> None:
    asked: list[dict[str, Any]] = [{}, {"epochs": 1}, {"limit_train": 40}, {"precision": "bfloat16"}]
    prepared = [prepare_tiny(**{"precision": "float32", **options}) for options in asked]
    jobs = [training(one) for one in prepared]
    assert len({job.id for job in jobs}) == len(jobs)
    assert [job.schedule.epochs for job in jobs] == [2, 1, 2, 2]
    assert jobs[2].train.images == 40
    assert [job.precision for job in jobs] == ["float32"] * 3 + ["bfloat16"]
    facts = [one.plan.cells[0].record.training for one in prepared]
    assert [f["epochs"] for f in facts] == [2, 1, 2, 2]
    assert [f["images"] for f in facts] == [jobs[0].train.images, jobs[0].train.images, 40, jobs[0].train.images]
    assert [f["precision"] for f in facts] == ["float32"] * 3 + ["bfloat16"]


def test_options_without_effect_do_not_change_the_key(prepare_tiny: Prepare) -> None:
    plain = training(prepare_tiny())
    assert training(prepare_tiny(epochs=2)).id == plain.id
    assert training(prepare_tiny(limit_train=10**6)).id == plain.id
    assert training(prepare_tiny(precision=precision.resolve_precision("auto", torch.device("cpu")))).id == plain.id


@pytest.mark.usefixtures("drawn")
def test_every_view_marks_a_quick_look(prepare_tiny: Prepare) -> None:
    run: StoredRun = prepare_tiny(epochs=1, limit_train=40).start()
    message = "quick look, not the suite's protocol: trained on at most 40 images of each ID set, 1 epoch"
    for text in (
        table_markdown.table_markdown(run),
        table_text.text_table(run),
        (run.path / "records.csv").read_text(),
    ):
        assert message in " ".join(text.split())
    assert message in " ".join(table_latex.table_latex(run).split()).replace("\\'", "'")
    pictures = [path.read_text() for path in (run.path / "plots").glob("*.svg")]
    assert pictures
    assert all("quick look" in picture for picture in pictures)


def test_a_full_run_is_not_marked(prepare_tiny: Prepare) -> None:
    run = prepare_tiny().start()
    assert "quick look" not in (run.path / "records.csv").read_text() + table_markdown.table_markdown(run)
    assert not any("quick look" in path.read_text() for path in (run.path / "plots").glob("*.svg"))


def test_limited_images_are_spread_over_the_stored_order(tmp_path: Path) -> None:
    library, spec = Library(tmp_path), parse_set("digits")
    whole, some = library.part(spec, "train"), library.part(spec, "train", 100)
    assert len(some) == 100
    assert some.checksum != whole.checksum
    rows = np.arange(100) * len(whole) // 100
    assert np.array_equal(some.images, whole.images[rows])
    assert library.part(spec, "train", len(whole)) is whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_train": 2}, "2 training images leave 3 of the 4 classes of 'digits[0-3]' without any."),
        ({"limit_train": -1}, "limit_train must be a whole number from 1, or 0 for the suite's own; got -1."),
        ({"epochs": -2}, "epochs must be a whole number from 1, or 0 for the suite's own; got -2."),
        ({"precision": "half"}, "Unknown precision 'half'. Choose one of auto, float32, bfloat16."),
    ],
)
def test_wrong_values_are_errors(prepare_tiny: Prepare, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        prepare_tiny(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "amx_tile": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_the_processor_decides(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision.resolve_precision("auto", torch.device("cpu")) == expected
    assert precision.resolve_precision("float32", torch.device("cpu")) == "float32"
    assert precision.resolve_precision("bfloat16", torch.device("cpu")) == "bfloat16"


def test_a_torch_without_capabilities_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.resolve_precision("auto", torch.device("cpu")) == "float32"
