"""Artifacts by key, what is done about damaged ones, pruning, and records on disk."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.api import prepare
from oodbench.benchmark.errors import PluginError, StoreError, UserError
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.csv_file import CSV_COLUMNS, records_csv
from oodbench.benchmark.records.prune import prune
from oodbench.benchmark.records.record import SCHEMA, Record, read_record, write_record
from oodbench.benchmark.records.run import read_run, write_run_info
from oodbench.benchmark.stages.detector_state import load_state, save_state
from oodbench.benchmark.store.atomic import slug, to_json, write_atomically
from oodbench.benchmark.store.store import Key, Store, digest

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


def key_of(content: Any = 1, label: str = "an array", kind: str = "scores", extension: str = ".npy") -> Key:
    return Key(kind, extension, label, {"made of": content})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def again(store: Store) -> Store:
    """The same store as another process sees it."""
    return Store(store.root)


def files(folder: Path) -> list[str]:
    """Every file but the remembered checksums of data sets and the locks, which are no artifacts."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.endswith(("data/checksums.json", ".lock")))


# keys


def test_a_label_is_for_people_only() -> None:
    one, other = key_of(label="one"), key_of(label="other")
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == other.digest
    assert one.path != other.path


def test_what_it_is_made_of_is_the_key() -> None:
    keys = [key_of(1), key_of(1.5), key_of("1"), key_of([1]), key_of(None), key_of(True), key_of(1, kind="logits")]
    assert len({key.digest for key in keys}) == len(keys)
    assert key_of(1) != "something else"


def test_a_digest_never_changes() -> None:
    """It is the SHA-256 of JSON that any language can write."""
    canonical = rb'{"a":"\u00e4","b":[1,2.5,null,true]}'
    assert digest({"b": [1, 2.5, None, True], "a": "ä"}) == hashlib.sha256(canonical).hexdigest()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
@settings(deadline=None)
def test_the_order_of_a_dict_does_not_matter(content: dict[str, Any]) -> None:
    assert digest(content) == digest(dict(reversed(content.items())))
    assert digest(content) == digest(json.loads(json.dumps(content)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object()])
def test_what_has_no_canonical_form_makes_no_key(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        digest({"x": value})


@pytest.mark.parametrize("label", ["../../x", "..", "<b>", "a/b", "", "x" * 500, "odin[t=1,e=2]@joint", "é", "-rf"])
def test_a_path_stays_in_its_folder(label: str, tmp_path: Path) -> None:
    path = tmp_path / key_of(label=label).path
    assert path.resolve().parent == (tmp_path / "scores").resolve()
    assert len(path.name) < 200
    assert path.name.endswith(f"-{key_of().digest[:12]}.npy")
    assert not path.name.startswith(".")


# keeping


def test_an_array_is_kept(store: Store, logged: list[str]) -> None:
    key = key_of()
    assert store.find(key) is None
    path = store.save_array(key, ARRAY, {"seconds": 1.5})
    for one in (store, again(store)):
        assert one.find(key) == path == store.root / key.path
        loaded = one.load_array(key)
        assert np.array_equal(loaded, ARRAY)
        assert loaded.dtype == ARRAY.dtype
        assert not loaded.flags.writeable
        assert one.about(key) == {"seconds": 1.5}
    assert logged == []
    assert files(store.root) == [key.path, f"{key.path}.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("array", [np.zeros(0), np.zeros((3, 0), np.float32), np.float64(3), np.asfortranarray(ARRAY)])
def test_arrays_of_any_shape_are_kept(store: Store, array: np.ndarray) -> None:
    store.save_array(key_of(), array, {})
    loaded = store.load_array(key_of())
    assert loaded.shape == array.shape
    assert np.array_equal(loaded, array)


def test_weights_are_kept(store: Store, logged: list[str]) -> None:
    key = key_of(kind="checkpoint", extension=".safetensors")
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "tied": shared, "view": shared[:, 1], "turned": shared.T, "whole": torch.arange(3),
               "parameter": torch.nn.Parameter(torch.ones(2)), "scalar": torch.tensor(2.0)}  # fmt: skip
    store.save_tensors(key, tensors, {})
    loaded = again(store).load_tensors(key)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.detach())
        assert loaded[name].dtype == tensor.dtype


def test_the_side_file_says_how_it_was_made(store: Store) -> None:
    key = key_of({"deep": ["x", 1]})
    path = store.save_array(key, ARRAY, {"title": "score x"})
    side = json.loads((path.parent / f"{path.name}.json").read_text())
    assert side["key"] == {"kind": "scores", "schema": 1, "made of": {"deep": ["x", 1]}}
    assert side["digest"] == key.digest
    assert side["about"] == {"title": "score x"}
    assert len(side["sha256"]) == 64


def test_saving_again_replaces(store: Store, logged: list[str]) -> None:
    for value in (1, 2):
        store.save_array(key_of(), np.full(3, value), {"value": value})
    assert again(store).load_array(key_of()).tolist() == [2, 2, 2]
    assert again(store).about(key_of()) == {"value": 2}
    assert len(files(store.root)) == 2


def test_what_is_gone_is_told(store: Store) -> None:
    with pytest.raises(
        StoreError, match=r"^'scores/an_array-\w{12}\.npy' is missing from the store\. Run the same command"
    ):
        store.load_array(key_of())


def test_by_products_lie_beside(store: Store) -> None:
    key = key_of(kind="checkpoint", extension=".safetensors", label="joint[beta=0.5] on digits")
    path = store.extra(key, ".losses.csv")
    assert path.parent == (store.root / key.path).parent
    assert path.name == f"joint_beta_0.5_on_digits-{key.digest[:12]}.losses.csv"


def test_no_pickle_is_written(store: Store) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        store.save_array(key_of(), np.array([{"a": 1}], dtype=object), {})
    assert files(store.root) == []


@pytest.mark.parametrize("stored", [np.array([{"a": 1}], dtype=object), np.array(["x", None])])
def test_no_pickle_is_read(store: Store, stored: np.ndarray) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, stored, allow_pickle=True)

    store.save(key_of(), write, {})
    with pytest.raises(StoreError, match=r"is not an array that can be read safely .*Python objects"):
        store.load_array(key_of())


# crashes


@pytest.mark.parametrize("error", [ValueError("no luck"), KeyboardInterrupt(), MemoryError()])
def test_a_writer_that_dies_leaves_nothing(store: Store, error: BaseException) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        store.save(key_of(), write, {})
    assert files(store.root) == []
    assert store.find(key_of()) is None


def test_a_writer_that_dies_leaves_the_old_artifact(store: Store, logged: list[str]) -> None:
    store.save_array(key_of(), ARRAY, {})
    before = {file: (store.root / file).read_bytes() for file in files(store.root)}

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        store.save(key_of(), write, {})
    assert {file: (store.root / file).read_bytes() for file in files(store.root)} == before
    assert np.array_equal(again(store).load_array(key_of()), ARRAY)


def test_a_full_disk_is_told(store: Store) -> None:
    def write(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"^Cannot write '.*': No space left on device\. Choose another --results\.$"):
        store.save(key_of(), write, {})
    assert files(store.root) == []


@pytest.mark.parametrize("dies", [1, 2])
def test_power_that_goes_while_files_are_put_in_place(
    store: Store, logged: list[str], monkeypatch: pytest.MonkeyPatch, dies: int
) -> None:
    """Between the artifact and its side file there is a moment; what is found then is made again."""
    real, calls = Path.replace, iter(range(1, 100))

    def dying(self: Path, target: Path) -> Path:
        if next(calls) == dies:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            store.save_array(key_of(), ARRAY, {})
    other = again(store)
    assert other.find(key_of()) is None
    assert files(store.root) == ([] if dies == 1 else [key_of().path])
    other.save_array(key_of(), ARRAY, {})
    assert np.array_equal(again(store).load_array(key_of()), ARRAY)
    assert logged == []


def test_an_old_side_file_never_vouches_for_a_new_artifact(
    store: Store, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_array(key_of(), ARRAY, {})
    real = Path.replace

    def dying(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            store.save_array(key_of(), ARRAY + 1, {})
    assert again(store).find(key_of()) is None
    assert logged == []


# damage


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def side(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": truncated,
    "one bit flipped": flipped,
    "emptied": emptied,
    "side file garbage": lambda path: side(path).write_bytes(b"\xff{"),
    "side file empty": lambda path: side(path).write_text(""),
    "side file a list": lambda path: side(path).write_text("[]"),
    "side file of nothing": lambda path: side(path).write_text("{}"),
    "side file of another key": lambda path: side(path).write_text(
        json.dumps({**json.loads(side(path).read_text()), "digest": key_of(2).digest})
    ),
    "side file of another artifact": lambda path: side(path).write_text(
        json.dumps({**json.loads(side(path).read_text()), "sha256": "0" * 64})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_set_aside_told_and_made_again(store: Store, logged: list[str], damage: str) -> None:
    key = key_of()
    path = store.save_array(key, ARRAY, {})
    DAMAGE[damage](path)
    damaged = path.read_bytes()
    other = again(store)
    assert other.find(key) is None
    aside = store.root / "damaged" / f"{path.name}.0"
    assert logged == [f"'{path}' does not match its checksum. It was moved to '{aside}' and is computed again."]
    assert files(store.root) == [f"damaged/{path.name}.0"]
    assert aside.read_bytes() == damaged
    assert other.find(key) is None
    assert len(logged) == 1, "told once"
    with pytest.raises(StoreError, match="is missing from the store"):
        other.require(key)
    other.save_array(key, ARRAY, {})
    assert np.array_equal(again(store).load_array(key), ARRAY)


def test_damaged_files_do_not_replace_each_other(store: Store, logged: list[str]) -> None:
    for n in range(3):
        path = store.save_array(key_of(), np.full(3, n), {})
        flipped(path)
        assert again(store).find(key_of()) is None
    assert files(store.root) == [f"damaged/{path.name}.{n}" for n in range(3)]
    assert len(logged) == 3


def test_a_side_file_alone_is_nothing(store: Store, logged: list[str]) -> None:
    path = store.save_array(key_of(), ARRAY, {})
    path.unlink()
    assert store.find(key_of()) is None
    assert again(store).find(key_of()) is None
    assert logged == []


def test_damage_that_cannot_be_moved_away_is_told(store: Store, logged: list[str]) -> None:
    path = store.save_array(key_of(), ARRAY, {})
    flipped(path)
    (store.root / "damaged").write_text("a file where the folder is to be")
    with pytest.raises(StoreError, match=r"' is damaged and cannot be moved away: .*\. Remove it\.$"):
        again(store).find(key_of())


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StoreError, match=r"^Cannot write '.*': .*\. Choose another --results\.$"):
        Store(tmp_path / "cache").save_array(key_of(), ARRAY, {})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    with pytest.raises(StoreError, match=r"^Cannot write '.*': Permission denied\. Choose another --results\.$"):
        Store(tmp_path / "cache").save_array(key_of(), ARRAY, {})


# what a detector learned


class Learner(Detector):
    def score(self, batch: Batch) -> Any:
        return batch.logits[:, 0]


def stored(value: Any, folder: Path) -> Any:
    detector, fresh = Learner(), Learner()
    detector.load_state({"learned_": value})
    save_state(detector, folder / "state.safetensors")
    load_state(fresh, folder / "state.safetensors")
    assert set(fresh.state()) == {"learned_"}
    return fresh.state()["learned_"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -0.25,
        "wörd",
        [1, [2.5, "x"], []],
        (1, (2,), [3]),
        {"a": 1, 2: "b", (3, "c"): {"d": None}},
        {"tensor": 1, "array": 2, "dict": 3, "tuple": 4},
    ],
)
def test_plain_data_is_kept(tmp_path: Path, value: Any) -> None:
    assert stored(value, tmp_path) == value
    assert repr(stored(value, tmp_path)) == repr(value), "types too"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"])
def test_arrays_and_tensors_are_kept(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    for value in (array, array[:, ::-1], array.T, array[:0], np.array(array[1, 1])):
        loaded = stored(value, tmp_path)
        assert isinstance(loaded, np.ndarray)
        assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape)
        assert np.array_equal(loaded, value)
        as_tensor = torch.from_numpy(value.copy())
        back = stored({"means": [as_tensor, as_tensor]}, tmp_path)["means"]
        assert all(
            isinstance(t, torch.Tensor) and t.dtype == as_tensor.dtype and torch.equal(t, as_tensor) for t in back
        )


def test_what_is_learned_is_copied_not_shared(tmp_path: Path) -> None:
    weights = torch.nn.Parameter(torch.ones(3))
    loaded = stored(weights[1:], tmp_path)
    assert not loaded.requires_grad
    assert loaded.tolist() == [1, 1]


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    for _ in range(2):
        stored({"b": torch.ones(3), "a": [np.zeros(2), "x"]}, tmp_path)
        (tmp_path / "state.safetensors").replace(tmp_path / f"{len(files(tmp_path))}")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        object(),
        lambda: None,
        float("nan"),
        np.array([{}], dtype=object),
        np.array(["a"]),
        np.array([1 + 2j]),
        torch.nn.Linear(2, 2),
        torch.eye(3).to_sparse(),
        [torch.ones(2), Path("x")],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_stored_is_told(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        PluginError, match=r"^What detector '' learned cannot be stored: .* Attributes that end in '_' "
    ):
        stored(value, tmp_path)
    assert files(tmp_path) == []


# pruning

SUITE = """
schema = 1
protocol = { backbone = "small_cnn", recipe = "cross_entropy" }
[[id]]
set = "digits[0-3]"
outliers = "glyphs"
ood = [{ set = "digits[4-5]" }]
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder as after a run: every artifact of a plan that has a recipe built on another, and its records."""
    (tmp_path / "tiny.toml").write_text(SUITE)
    results = tmp_path / "results"
    prepared = prepare("gan_confidence,energy", suite=str(tmp_path / "tiny.toml"), results=results)
    store = Store(results / "cache")
    for job in prepared.plan.jobs.values():
        for key in job.makes:
            store.save_array(key, ARRAY, {})
            if key.kind == "checkpoint":
                store.extra(key, ".losses.csv").write_text("epoch\n")
                (store.extra(key, ".tensorboard") / "events").mkdir(parents=True)
                (store.extra(key, ".tensorboard") / "events" / "x").write_text("")
    for cell in prepared.plan.cells:
        assert cell.id_scores is not None
        assert cell.ood_scores is not None
        assert cell.checkpoint is not None
        keys = {"id_scores": cell.id_scores, "ood_scores": cell.ood_scores, "checkpoint": cell.checkpoint.key}
        paths = {name: key.path for name, key in keys.items()}
        write_record(results / "runs" / "tiny", replace(cell.record, artifacts=paths))
    return results


def test_prune_keeps_what_records_were_made_from(results: Path) -> None:
    before = files(results)
    kinds = {name.split("/")[1] for name in before if name.startswith("cache/")}
    assert kinds == {"checkpoint", "logits", "features", "scores"}
    assert sum(name.startswith("cache/checkpoint/gan-") for name in before) == 4, "the GAN that a recipe builds on"
    assert prune(results) == (0, 0)
    assert files(results) == before


def test_prune_deletes_what_no_record_names(results: Path) -> None:
    before = files(results)
    store = Store(results / "cache")
    store.save_array(key_of(), ARRAY, {})
    strangers = ["checkpoint/old.safetensors", "damaged/x.npy.0", "scores/.half.tmp", "scores/alone.npy.json"]
    for name in strangers:
        path = results / "cache" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    more = sorted(set(files(results)) - set(before))
    size = sum((results / name).stat().st_size for name in more)
    assert len(more) == 6
    assert prune(results, dry_run=True) == (size, 6)
    assert sorted(set(files(results)) - set(before)) == more, "a dry run deletes nothing"
    assert prune(results) == (size, 6)
    assert files(results) == before
    assert prune(results) == (0, 0)


def test_prune_deletes_what_only_a_deleted_record_used(results: Path) -> None:
    records = list((results / "runs" / "tiny" / "cells").iterdir())
    for path in records:
        if read_record(path).detector == "gan_confidence":
            path.unlink()
    prune(results)
    left = files(results / "cache")
    assert not [name for name in left if "gan" in name]
    assert len([name for name in left if name.startswith("checkpoint/cross_entropy")]) == 4
    for path in records:
        path.unlink(missing_ok=True)
    prune(results)
    assert files(results / "cache") == []


def test_prune_of_nothing(tmp_path: Path) -> None:
    assert prune(tmp_path) == (0, 0)
    with pytest.raises(UserError, match=r"results folder '.*absent' does not exist"):
        prune(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


# records

RECORD = Record(
    id_set="digits",
    ood_set="glyphs",
    group="near",
    outlier_source=True,
    seen=False,
    detector="energy",
    settings={"temperature": 2.0},
    recipe="cross_entropy",
    recipe_settings={"learning_rate": 0.002},
    backbone="small_cnn",
    seed=3,
    label="energy[temperature=2.0]",
    n_id=510,
    n_ood=600,
    id_accuracy=0.1 + 0.2,
    tpr=0.9509803921568627,
    metrics={name: (k + 1) / 7 for k, name in enumerate(METRICS)},
    intervals={name: [k / 7, (k + 1) / 7 + 0.1] for k, name in enumerate(METRICS)},
    forward_images=1110,
    seconds=1.23456,
    key="abc",
    artifacts={"id_scores": "scores/x.npy"},
    notes=("One.", "Two."),
)


def test_a_record_is_read_back(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    assert path.parent == tmp_path / "cells"
    assert read_record(path) == RECORD
    data = json.loads(path.read_text())
    assert data["schema"] == SCHEMA
    assert data["id_accuracy"] == 0.1 + 0.2, "raw numbers"
    bare = replace(RECORD, n_id=None, id_accuracy=None, tpr=None, metrics={}, notes=(), status="failed", reason='é\n"x')
    assert read_record(write_record(tmp_path, bare)) == bare


def test_text_that_is_no_text_is_kept(tmp_path: Path) -> None:
    """As in the name of a file that Linux lets be."""
    strange = replace(RECORD, reason="no such file: \udcff")
    assert read_record(write_record(tmp_path, strange)) == strange


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    path.write_text(json.dumps({**json.loads(path.read_text()), "novelty": 1}))
    assert read_record(path) == RECORD


def test_a_newer_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": SCHEMA + 41}))
    with pytest.raises(UserError) as error:
        read_record(path)
    assert str(error.value) == (
        f"'{path}' has schema {SCHEMA + 41}, newer than {SCHEMA}, the newest this oodbench reads. "
        "Upgrade oodbench, or choose another --name."
    )


@pytest.mark.parametrize(
    "content, told",
    [
        (b"{", "cannot be read as JSON ("),
        (b"", "cannot be read as JSON ("),
        (b"\xff", "cannot be read as JSON ("),
        (b"[]", "has no schema number, so it was not written by oodbench. Remove it and run again."),
        (b"{}", "has no schema number, so it was not written by oodbench. Remove it and run again."),
        (b'{"schema": "1"}', "has no schema number, so it was not written by oodbench. Remove it and run again."),
        (b'{"schema": 1}', "is not a cell record: "),
        (b'{"schema": 1, "id_set": "digits"}', "is not a cell record: "),
    ],
)
def test_what_is_no_record_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "cell.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_record(path)
    assert str(error.value).startswith(f"'{path}' {told}")
    assert str(error.value).endswith("Remove it and run again.")


def test_a_run_shows_the_records_that_it_lists(tmp_path: Path) -> None:
    records = [replace(RECORD, seed=seed) for seed in (2, 0, 1)]
    for record in records:
        write_record(tmp_path, record)
    write_record(tmp_path, replace(RECORD, seed=9))
    names = [record.file_name for record in records]
    write_run_info(tmp_path, {"cells": [*names, "not-yet.json"], "name": "x"})
    run = read_run(tmp_path)
    assert run.records == records
    assert (run.path, run.info["name"]) == (tmp_path, "x")


def test_a_run_reads_no_file_outside_its_folder(tmp_path: Path) -> None:
    write_record(tmp_path / "other", RECORD)
    (tmp_path / "run" / "cells").mkdir(parents=True)
    assert (tmp_path / "run" / "cells" / "../../other/cells" / RECORD.file_name).is_file()
    write_run_info(tmp_path / "run", {"cells": [f"../../other/cells/{RECORD.file_name}"]})
    assert read_run(tmp_path / "run").records == []


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"' is not a run: it has no run\.json\. 'bench list runs' shows the runs that exist"
    ):
        read_run(tmp_path)


HOSTILE = ["../../x", "..", ".", "<b>", "/etc/passwd", "C:\\x", "a" * 300, "", " ", "\n", "con[x=1]@y", "é", "a\0b"]


@pytest.mark.parametrize("label", HOSTILE)
def test_hostile_names_stay_in_the_folder(tmp_path: Path, label: str) -> None:
    record = replace(RECORD, label=label, id_set=label, ood_set=label)
    path = write_record(tmp_path, record)
    assert path.resolve().parent == (tmp_path / "cells").resolve()
    assert len(path.name) < 255
    assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not path.name.startswith(".")
    assert read_record(path) == record


def test_plain_names_are_readable() -> None:
    assert replace(RECORD, label="msp").file_name == "msp--digits--glyphs--s3.json"
    assert RECORD.file_name.startswith("energy_temperature_2.0--digits--glyphs--s3-")


@given(
    st.lists(st.sampled_from([*HOSTILE, "a_b", "a[b]", "a@b", "x" * 99 + "1", "x" * 99 + "2"]), min_size=6, max_size=6)
)
@settings(deadline=None)
def test_different_cells_have_different_files(names: list[str]) -> None:
    one, other = (replace(RECORD, label=a, id_set=b, ood_set=c) for a, b, c in (names[:3], names[3:]))
    assert (one.file_name == other.file_name) == (names[:3] == names[3:])


@pytest.mark.parametrize("text", HOSTILE)
def test_a_slug_is_a_plain_name(text: str) -> None:
    assert slug(text)
    assert len(slug(text)) <= 100
    assert slug(text) not in (".", "..")
    assert slug(slug(text)) == slug(text)


# writing


@pytest.mark.parametrize("old", [None, "old"])
def test_a_writer_that_dies_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None
) -> None:
    path = tmp_path / "run.json"
    if old is not None:
        path.write_text(old)

    def dying(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert files(tmp_path) == ([] if old is None else ["run.json"])
    assert old is None or path.read_text() == old


def test_a_file_is_flushed_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    real_replace, real_sync = Path.replace, os.fsync

    def replaced(self: Path, target: Path) -> Path:
        happened.append("replace")
        return real_replace(self, target)

    def synced(handle: int) -> None:
        happened.append("sync")
        real_sync(handle)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    write_atomically(tmp_path / "deep" / "x.json", b"\x00\xff")
    assert happened[-3:] == ["sync", "replace", "sync"], "the file, its name, the folder"
    assert set(happened[:-3]) == {"sync"}, "the folders that were made"
    assert (tmp_path / "deep" / "x.json").read_bytes() == b"\x00\xff"


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"^Cannot write '.*': .*\. Choose a writable folder with --results\.$"):
        write_atomically(tmp_path / "file" / "x.json", "x")


def test_json_is_sorted_and_strict() -> None:
    assert to_json({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json({"x": float("nan")})


# records.csv


def test_the_tidy_table_has_its_columns_and_raw_values() -> None:
    assert ",".join(CSV_COLUMNS) == (
        "id_set,ood_set,group,seen,detector,settings,recipe,backbone,seed,status,reason,n_id,n_ood,id_accuracy,"
        "tnr_at_tpr95,auroc,detection_accuracy,aupr_in,aupr_out,aupr_in_counts,aupr_out_counts,fpr_at_tpr95,"
        "openood_fpr95,forward_images,seconds,key,notes,"
        + ",".join(f"{name}_{end}" for name in METRICS for end in ("low", "high"))
    )
    text = records_csv([RECORD])
    assert "\r" not in text
    (row,) = csv.DictReader(io.StringIO(text))
    assert tuple(row) == CSV_COLUMNS
    assert json.loads(row["settings"]) == {"temperature": 2.0}
    assert (row["seen"], row["seed"], row["n_id"], row["seconds"]) == ("false", "3", "510", "1.235")
    assert float(row["id_accuracy"]) == 0.1 + 0.2
    for name, value in RECORD.metrics.items():
        assert float(row[name]) == value, "nothing is rounded"
        assert [float(row[f"{name}_{end}"]) for end in ("low", "high")] == RECORD.intervals[name]


def test_the_tidy_table_leaves_empty_what_is_not_there() -> None:
    failed = replace(
        RECORD, metrics={}, intervals={}, id_accuracy=None, tpr=None, status="failed", reason='a, "b"\nc', seen=True
    )
    (row,) = csv.DictReader(io.StringIO(records_csv([failed])))
    assert {row[name] for name in (*METRICS, "id_accuracy", "auroc_low", "auroc_high")} == {""}
    assert (row["status"], row["reason"], row["seen"]) == ("failed", 'a, "b"\nc', "true")
    assert records_csv([]) == ",".join(CSV_COLUMNS) + "\n"
