"""The store of artifacts: keys, saving and loading, crashes and damage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store.store import Store, digest
from tests.support import array_key, artifact_files, cut_last_byte, flip_last_bit

ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def again(store: Store) -> Store:
    """The same store as another process sees it."""
    return Store(store.root)


# keys


def test_a_label_is_not_part_of_the_identity() -> None:
    one, other = array_key(label="one"), array_key(label="other")
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == other.digest
    assert one.path != other.path


def test_the_content_is_the_identity() -> None:
    keys = [
        array_key(1),
        array_key(1.5),
        array_key("1"),
        array_key([1]),
        array_key(None),
        array_key(True),
        array_key(1, kind="logits"),
    ]
    assert len({key.digest for key in keys}) == len(keys)
    assert array_key(1) != "something else"


def test_a_digest_never_changes() -> None:
    """It is the SHA-256 of canonical JSON, which any language can write."""
    canonical = rb'{"a":"\u00e4","b":[1,2.5,null,true]}'
    assert digest({"b": [1, 2.5, None, True], "a": "ä"}) == hashlib.sha256(canonical).hexdigest()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
@settings(deadline=None)
def test_the_order_of_a_dict_does_not_matter(content: dict[str, Any]) -> None:
    assert digest(content) == digest(dict(reversed(content.items())))
    assert digest(content) == digest(json.loads(json.dumps(content)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object()])
def test_a_value_without_canonical_json_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        digest({"x": value})


@pytest.mark.parametrize("label", ["../../x", "..", "<b>", "a/b", "", "x" * 500, "odin[t=1,e=2]@joint", "é", "-rf"])
def test_a_path_stays_in_its_folder(label: str, tmp_path: Path) -> None:
    path = tmp_path / array_key(label=label).path
    assert path.resolve().parent == (tmp_path / "scores").resolve()
    assert len(path.name) < 200
    assert path.name.endswith(f"-{array_key().digest[:12]}.npy")
    assert not path.name.startswith(".")


# saving and loading


def test_an_array_is_stored(store: Store, logged: list[str]) -> None:
    key = array_key()
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
    assert artifact_files(store.root) == [key.path, f"{key.path}.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("array", [np.zeros(0), np.zeros((3, 0), np.float32), np.float64(3), np.asfortranarray(ARRAY)])
def test_arrays_of_any_shape_are_stored(store: Store, array: np.ndarray) -> None:
    store.save_array(array_key(), array, {})
    loaded = store.load_array(array_key())
    assert loaded.shape == array.shape
    assert np.array_equal(loaded, array)


def test_weights_are_stored(store: Store, logged: list[str]) -> None:
    key = array_key(kind="checkpoint", extension=".safetensors")
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "tied": shared, "view": shared[:, 1], "turned": shared.T, "whole": torch.arange(3),
               "parameter": torch.nn.Parameter(torch.ones(2)), "scalar": torch.tensor(2.0)}  # fmt: skip
    store.save_tensors(key, tensors, {})
    loaded = again(store).load_tensors(key)
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.detach())
        assert loaded[name].dtype == tensor.dtype


def test_the_side_file_describes_the_artifact(store: Store) -> None:
    key = array_key({"deep": ["x", 1]})
    path = store.save_array(key, ARRAY, {"title": "score x"})
    side = json.loads((path.parent / f"{path.name}.json").read_text())
    assert side["key"] == {"kind": "scores", "schema": 1, "made of": {"deep": ["x", 1]}}
    assert side["digest"] == key.digest
    assert side["about"] == {"title": "score x"}
    assert len(side["sha256"]) == 64


def test_saving_again_replaces(store: Store, logged: list[str]) -> None:
    for value in (1, 2):
        store.save_array(array_key(), np.full(3, value), {"value": value})
    assert again(store).load_array(array_key()).tolist() == [2, 2, 2]
    assert again(store).about(array_key()) == {"value": 2}
    assert len(artifact_files(store.root)) == 2


def test_a_missing_artifact_is_reported(store: Store) -> None:
    with pytest.raises(
        StoreError, match=r"^'scores/an_array-\w{12}\.npy' is missing from the store\. Run the same command"
    ):
        store.load_array(array_key())


def test_by_products_are_placed_beside_the_artifact(store: Store) -> None:
    key = array_key(kind="checkpoint", extension=".safetensors", label="joint[beta=0.5] on digits")
    path = store.extra(key, ".losses.csv")
    assert path.parent == (store.root / key.path).parent
    assert path.name == f"joint_beta_0.5_on_digits-{key.digest[:12]}.losses.csv"


def test_no_pickle_is_written(store: Store) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        store.save_array(array_key(), np.array([{"a": 1}], dtype=object), {})
    assert artifact_files(store.root) == []


@pytest.mark.parametrize("stored", [np.array([{"a": 1}], dtype=object), np.array(["x", None])])
def test_no_pickle_is_read(store: Store, stored: np.ndarray) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, stored, allow_pickle=True)

    store.save(array_key(), write, {})
    with pytest.raises(StoreError, match=r"is not an array that can be read safely .*Python objects"):
        store.load_array(array_key())


# crashes


@pytest.mark.parametrize("error", [ValueError("no luck"), KeyboardInterrupt(), MemoryError()])
def test_a_crash_during_writing_leaves_nothing(store: Store, error: BaseException) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        store.save(array_key(), write, {})
    assert artifact_files(store.root) == []
    assert store.find(array_key()) is None


def test_a_crash_during_writing_leaves_the_old_artifact(store: Store, logged: list[str]) -> None:
    store.save_array(array_key(), ARRAY, {})
    before = {file: (store.root / file).read_bytes() for file in artifact_files(store.root)}

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        store.save(array_key(), write, {})
    assert {file: (store.root / file).read_bytes() for file in artifact_files(store.root)} == before
    assert np.array_equal(again(store).load_array(array_key()), ARRAY)


def test_a_full_disk_is_reported(store: Store) -> None:
    def write(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"^Cannot write '.*': No space left on device\. Choose another --results\.$"):
        store.save(array_key(), write, {})
    assert artifact_files(store.root) == []


@pytest.mark.parametrize("dies", [1, 2])
def test_a_power_failure_while_files_are_renamed(
    store: Store, logged: list[str], monkeypatch: pytest.MonkeyPatch, dies: int
) -> None:
    """An artifact without its side file, which is written later, does not count."""
    real, calls = Path.replace, iter(range(1, 100))

    def killed(self: Path, target: Path) -> Path:
        if next(calls) == dies:
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.save_array(array_key(), ARRAY, {})
    other = again(store)
    assert other.find(array_key()) is None
    assert artifact_files(store.root) == ([] if dies == 1 else [array_key().path])
    other.save_array(array_key(), ARRAY, {})
    assert np.array_equal(again(store).load_array(array_key()), ARRAY)
    assert logged == []


def test_an_old_side_file_never_validates_a_new_artifact(
    store: Store, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_array(array_key(), ARRAY, {})
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store.save_array(array_key(), ARRAY + 1, {})
    assert again(store).find(array_key()) is None
    assert logged == []


# damage


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def side(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": cut_last_byte,
    "one bit flipped": flip_last_bit,
    "emptied": emptied,
    "side file garbage": lambda path: side(path).write_bytes(b"\xff{"),
    "side file empty": lambda path: side(path).write_text(""),
    "side file a list": lambda path: side(path).write_text("[]"),
    "side file of nothing": lambda path: side(path).write_text("{}"),
    "side file of another key": lambda path: side(path).write_text(
        json.dumps({**json.loads(side(path).read_text()), "digest": array_key(2).digest})
    ),
    "side file of another artifact": lambda path: side(path).write_text(
        json.dumps({**json.loads(side(path).read_text()), "sha256": "0" * 64})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_set_aside_and_reported(store: Store, logged: list[str], damage: str) -> None:
    key = array_key()
    path = store.save_array(key, ARRAY, {})
    DAMAGE[damage](path)
    damaged = path.read_bytes()
    other = again(store)
    assert other.find(key) is None
    aside = store.root / "damaged" / f"{path.name}.0"
    assert logged == [f"'{path}' does not match its checksum. It was moved to '{aside}' and is computed again."]
    assert artifact_files(store.root) == [f"damaged/{path.name}.0"]
    assert aside.read_bytes() == damaged
    assert other.find(key) is None
    assert len(logged) == 1, "reported once"
    with pytest.raises(StoreError, match="is missing from the store"):
        other.require(key)
    other.save_array(key, ARRAY, {})
    assert np.array_equal(again(store).load_array(key), ARRAY)


def test_damaged_files_do_not_replace_each_other(store: Store, logged: list[str]) -> None:
    for n in range(3):
        path = store.save_array(array_key(), np.full(3, n), {})
        flip_last_bit(path)
        assert again(store).find(array_key()) is None
    assert artifact_files(store.root) == [f"damaged/{path.name}.{n}" for n in range(3)]
    assert len(logged) == 3


def test_a_side_file_without_artifact_does_not_count(store: Store, logged: list[str]) -> None:
    path = store.save_array(array_key(), ARRAY, {})
    path.unlink()
    assert store.find(array_key()) is None
    assert again(store).find(array_key()) is None
    assert logged == []


def test_damage_that_cannot_be_moved_away_is_reported(store: Store, logged: list[str]) -> None:
    path = store.save_array(array_key(), ARRAY, {})
    flip_last_bit(path)
    (store.root / "damaged").write_text("a file in place of the folder")
    with pytest.raises(StoreError, match=r"' is damaged and cannot be moved away: .*\. Remove it\.$"):
        again(store).find(array_key())


def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(StoreError, match=r"^Cannot write '.*': .*\. Choose another --results\.$"):
        Store(tmp_path / "cache").save_array(array_key(), ARRAY, {})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o555)
    with pytest.raises(StoreError, match=r"^Cannot write '.*': Permission denied\. Choose another --results\.$"):
        Store(tmp_path / "cache").save_array(array_key(), ARRAY, {})
