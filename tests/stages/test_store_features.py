"""Features stored as float16: half the space, rounded, marked, and in keys; the default is what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plan.jobs import ExtractJob, Outputs, SetRef
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.stages import extract_parts
from oodbench.benchmark.stages.detecting.set_arrays import as_tensor
from oodbench.benchmark.stages.extract import extract
from oodbench.benchmark.stages.pass_arrays import GrowingArray
from oodbench.benchmark.store.store import Key
from tests.stages.extracted_sets import BACKBONE, ContextWith, checkpoint, labelled, no_tick, noise, stored_network
from tests.support import prepare_suite, run_suite, tiny_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")

PAIR = "[[id]]\nset = 'digits[0-2]'\nood = [{ set = 'uniform' }]"


def pass_of(count: int, **stored: str) -> ExtractJob:
    keys = Key("logits", ".npy", "x", {"set": "x"}), Key("features", ".npy", "x", {"set": "x", **stored})
    outputs = Outputs(SetRef("x", "test", count), *keys)
    return ExtractJob(title="x", makes=keys, checkpoint=checkpoint(), outputs=outputs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_float16_number_is_read_as_numpy_reads_it(tmp_path: Path, dtype: type[np.floating[Any]]) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    np.save(tmp_path / "every.npy", every)
    stored = np.load(tmp_path / "every.npy", mmap_mode="r")
    for rows in (stored, stored[3:9], stored[:, 5:7]):
        found = as_tensor(rows, dtype)
        np.testing.assert_array_equal(found.numpy(), rows.astype(dtype))
        assert found.numpy().dtype == dtype
        assert (np.signbit(found.numpy()) == np.signbit(rows)).all()
        found.zero_()  # in memory of its own
    assert np.array_equal(stored, every, equal_nan=True)


def test_features_are_rounded_and_logits_are_not(context_with: ContextWith) -> None:
    context = context_with({"x": labelled(noise(300))})
    stored_network(context)
    plain, half = pass_of(300), pass_of(300, stored="float16")
    arrays = []
    for job in (plain, half):
        extract(context, job, no_tick)
        arrays.append([context.store.load_array(key) for key in job.makes])
    (logits, features), (same, rounded) = arrays
    assert [str(array.dtype) for array in (logits, features, rounded)] == ["float32", "float32", "float16"]
    assert np.array_equal(logits, same)
    assert np.array_equal(features.astype(np.float16), rounded)
    assert not np.array_equal(features, rounded)
    sizes = [context.store.require(job.outputs.features).stat().st_size - 128 for job in (plain, half)]
    assert sizes[0] == 2 * sizes[1]


def test_a_divided_pass_stores_the_same_bytes(context_with: ContextWith) -> None:
    context = context_with({"x": labelled(noise(400))})
    stored_network(context)
    whole = pass_of(400, stored="float16")
    extract(context, whole, no_tick)
    expected = context.store.require(whole.outputs.features).read_bytes()
    parts = []
    for rows in ((0, 256), (256, 400)):
        keys = tuple(key.of_rows(rows) for key in whole.makes)
        parts.append(replace(whole, makes=keys, outputs=Outputs(whole.outputs.data, *keys), rows=rows))
        extract(context, parts[-1], no_tick)
    context.store.remove(whole.outputs.features)
    extract_parts.extract(context, replace(whole, parts=tuple(parts)), no_tick)
    assert context.store.require(whole.outputs.features).read_bytes() == expected


@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (-65504.0, True), (70000.0, False), (-1e30, False)])
def test_numbers_beyond_float16_are_refused(tmp_path: Path, value: float, fits: bool) -> None:
    array = GrowingArray(tmp_path / "a.npy", 2, Key("features", ".npy", "x", {"stored": "float16"}))
    rows = np.array([[0.0, value], [1.0, 2.0]], dtype=np.float32)
    if fits:
        array.add(rows)
        assert np.load(tmp_path / "a.npy").tolist() == rows.tolist()
    else:
        with pytest.raises(
            DataError, match=r"Features reach .*, and float16 holds numbers up to 65,504\. Store them as"
        ):
            array.add(rows)
        GrowingArray(tmp_path / "b.npy", 2).add(rows)  # float32 holds them


@pytest.mark.slow
def test_a_run_is_marked_and_its_numbers_are_close(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, PAIR, backbone=BACKBONE, training="epochs = 3")
    detectors = "msp,knn,relation,mahalanobis"
    plain = run_suite(suite, detectors, name="plain")
    half = run_suite(suite, detectors, name="half", store_features="float16")
    for one, other in zip(plain.records, half.records, strict=True):
        assert (one.status, one.reason, other.status, other.reason) == (OK, "", OK, "")
        assert abs(one.metrics["auroc"] - other.metrics["auroc"]) < 0.01
        assert one.id_accuracy == other.id_accuracy
        assert one.key != other.key
        assert one.notes == ()
        assert other.notes == ("features are stored as float16, rounded",)
        assert other.provenance["resolved"]["stored"] == "float16"
        assert "stored" not in one.provenance["resolved"]
    assert "features are stored as float16" in (half.path / "table.md").read_text(encoding="utf-8")
    both = run_suite(suite, "mahalanobis", name="plain", store_features="float16", add=True)
    labels = {record.label for record in both.records}
    assert {"mahalanobis", "mahalanobis (features=float16)"} < labels
    assert len(labels) == 5


def test_the_suite_may_say_so_and_the_default_keeps_its_keys(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, PAIR)
    text = tiny_suite(PAIR).replace("threads = 1", 'threads = 1\nstore_features = "float16"')
    declared = tmp_path / "half.toml"
    declared.write_text(text, encoding="utf-8")
    assert read_suite(str(declared)).store_features == "float16"
    ids = {
        name: set(prepared.plan.jobs)
        for name, prepared in {
            "default": prepare_suite(suite, "knn"),
            "float32": prepare_suite(declared, "knn", store_features="float32"),
            "suite": prepare_suite(declared, "knn"),
            "option": prepare_suite(suite, "knn", store_features="float16"),
        }.items()
    }
    assert ids["default"] == ids["float32"] != ids["suite"] == ids["option"]


def test_other_types_are_refused(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, PAIR)
    with pytest.raises(UserError, match=r"Features cannot be stored as 'int8'. Choose float32 or float16\."):
        prepare_suite(suite, store_features="int8")
    suite.write_text(tiny_suite(PAIR).replace("threads = 1", "threads = 1\nstore_features = 16"), encoding="utf-8")
    with pytest.raises(UserError, match=r"store_features in \[protocol\] is 16; it must be float32 or float16"):
        read_suite(str(suite))
