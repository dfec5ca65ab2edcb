"""Given weights that do not fit the ID set's labels are reported under the table, and every number is marked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from oodbench.benchmark import api
from oodbench.benchmark.metrics.extended import ClassifiedImages
from oodbench.benchmark.records.record import MISFIT
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.class_order import class_order_note
from oodbench.benchmark.views.tables.text import text_table

pytestmark = pytest.mark.usefixtures("one_thread")


def classified(predicted: np.ndarray, labels: np.ndarray, classes: int) -> ClassifiedImages:
    return ClassifiedImages(np.eye(classes, dtype=np.float32)[predicted], labels)


LABELS = np.arange(400) % 10


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (LABELS, ""),
        ((LABELS + 1) % 10, "accuracy 0.0% on 400 ID test images, and 100.0% under the best permutation of classes"),
        ((LABELS + 1) % 10, "(output 0 is class 9, output 1 is class 0, output 2 is class 1 and 7 more)"),
        (9 - LABELS, "(output 0 is class 9, output 1 is class 8, output 2 is class 7 and 7 more)"),
        (np.where(LABELS < 2, 1 - LABELS, LABELS), "accuracy 80.0% on 400 ID test images, and 100.0% under the best"),
        (np.where(LABELS < 2, 1 - LABELS, LABELS), "order (output 0 is class 1, output 1 is class 0)."),
        (np.zeros_like(LABELS), "accuracy 10.0% on 400 ID test images, where always the same class would have 10.0%"),
        (np.random.default_rng(1).integers(0, 10, 400), "would have 10.0%, and no other order"),
        (np.where(np.arange(400) % 4 == 0, LABELS, 0), ""),  # 25% and more: poor, and no order explains it
    ],
)
def test_the_note_names_the_reason(predicted: np.ndarray, expected: str) -> None:
    note = class_order_note(classified(predicted, LABELS, 10))
    assert expected in note
    assert bool(note) == bool(expected)


def thousand(images: int, per_output: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of a classifier of 1,000 classes that is right on three quarters, outputs reordered."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 1000
    return per_output[np.where(rng.random(images) < 0.75, labels, rng.integers(0, 1000, images))], labels


def test_a_thousand_classes_in_another_order_are_found() -> None:
    order = np.random.default_rng(1).permutation(1000)
    note = class_order_note(classified(*thousand(8000, order), 1000))
    assert "accuracy 0." in note
    assert "under the best permutation of classes" in note
    assert not class_order_note(classified(*thousand(8000, np.arange(1000)), 1000))


def test_a_network_that_always_names_one_class_is_in_no_other_order() -> None:
    """Of a head with outputs for other classes, too: its output could be taken for the most frequent class."""
    note = class_order_note(classified(np.full(90, 7), np.arange(90) % 3, 1000))
    assert "accuracy 0.0%" in note
    assert "permutation" not in note
    assert "rotated" not in note


def test_rotated_rows_are_found_with_one_image_of_each_class() -> None:
    """No permutation can be seen on so few images; a shift can."""
    predicted, labels = thousand(1000, np.roll(np.arange(1000), 1))
    note = class_order_note(classified(predicted, labels, 1000))
    right = np.mean((predicted + 1) % 1000 == labels)
    assert f"and {100 * right:.1f}% if every output stood for the class 1 further on, of 1,000" in note
    assert "the last layer's rows are rotated" in note
    assert not class_order_note(classified(*thousand(1000, np.arange(1000)), 1000))


def test_few_images_of_each_class_decide_nothing_about_their_order() -> None:
    order = np.random.default_rng(1).permutation(1000)
    note = class_order_note(classified(*thousand(1000, order), 1000))
    assert "no other order of the classes can be told from so few images of each: check that file" in note


def test_guessing_is_measured_by_the_most_frequent_class() -> None:
    labels = np.r_[np.zeros(90, dtype=np.int64), np.ones(10, dtype=np.int64)]
    assert "always the same class would have 90.0%" in class_order_note(classified(np.zeros_like(labels), labels, 2))
    assert not class_order_note(classified(labels, labels, 2))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredRun]:
    """A run that trains, and runs with its weights: as they are, and with the rows of the last layer moved by one."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, Any] = {"results": folder / "results", "data_dir": folder, "threads": 1, "device": "cpu"}
    options |= {"id_sets": "digits", "ood_sets": "greek", "backbone": "small_cnn[hidden=16,width=4]"}
    trained = api.run("msp", **options, epochs=12, limit_train=600)
    weights = load_file(folder / "results" / "cache" / trained.records[0].artifacts["checkpoint"])
    save_file(weights, folder / "same.safetensors")
    rolled = {name: value.roll(1, 0) if ".head." in name else value for name, value in weights.items()}
    save_file(rolled, folder / "rolled.safetensors")
    files = {name: folder / f"{name}.safetensors" for name in ("same", "rolled")}
    return {
        "trained": trained,
        **{name: api.run("msp,energy", **options, checkpoint=file, name=name) for name, file in files.items()},
    }


def test_weights_in_another_order_are_reported_and_marked(runs: dict[str, StoredRun]) -> None:
    own = runs["trained"].records[0].id_accuracy
    assert own is not None
    for record in runs["rolled"].records:
        assert record.id_accuracy is not None
        assert record.id_accuracy < 0.2 < own
        (note,) = (note for note in record.notes if note.startswith(MISFIT))
        assert f"and {100 * own:.1f}% under the best permutation of classes" in note
        assert "(output 0 is class 9, output 1 is class 0, output 2 is class 1 and 7 more)" in note
        table, warning, below = text_table(runs["rolled"], 2000).partition("Warning: the given weights do not fit")
        assert warning
        assert "Percent." in below  # the warning is the first line under the table
        (row,) = (line for line in table.splitlines() if line.startswith(f"{record.detector} "))
        assert row.count("¶") == 5
        assert below.startswith(" the ID set's labels, for which the notes give the reason")
        assert below.count(f"Note: {note}") == 1


def test_msp_is_the_same_in_any_order(runs: dict[str, StoredRun]) -> None:
    assert runs["rolled"].records[0].metrics == pytest.approx(runs["same"].records[0].metrics, abs=1e-3)


@pytest.mark.parametrize("name", ["trained", "same"])
def test_weights_that_fit_have_no_note(runs: dict[str, StoredRun], name: str) -> None:
    assert not any(note.startswith(MISFIT) for record in runs[name].records for note in record.notes)
    assert "do not fit" not in text_table(runs[name])
