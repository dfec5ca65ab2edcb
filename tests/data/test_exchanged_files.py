"""Data files and artifacts that are exchanged under the same name, size and modification time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.files import cache as cache_module
from oodbench.benchmark.data.files.cache import DataCache, file_hash
from oodbench.benchmark.data.files.file_dataset import FileDataset
from oodbench.benchmark.data.files.file_source import Source, tree_file
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.store.store import Store
from tests.support import array_key, bench, run_suite, write_suite

Register = Callable[[str, type[Plugin]], None]


def in_place(path: Path, content: bytes) -> None:
    """Write into the same file."""
    with path.open("r+b") as file:
        file.write(content)


def by_another_file(path: Path, content: bytes) -> None:
    """Replace the file by another one, as `mv` and `rsync -t` do."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def by_a_link(path: Path, content: bytes) -> None:
    """Replace the file by a link to one elsewhere."""
    other = path.parent.parent / f"{path.name}-elsewhere"
    other.write_bytes(content)
    path.unlink()
    path.symlink_to(other)


EXCHANGES = (in_place, by_another_file, by_a_link)


def exchange(path: Path, content: bytes, how: Callable[[Path, bytes], None]) -> None:
    """Exchange a file's content; its size and modification time stay as they were."""
    before = path.stat()
    assert len(content) == before.st_size
    assert content != path.read_bytes()
    time.sleep(0.02)  # the system's clock for change times ticks every few milliseconds
    how(path, content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.fixture
def a_minute_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough for their hashes to be stored."""
    monkeypatch.setattr(cache_module, "time", SimpleNamespace(time=lambda: time.time() + 60))


def bitmap(shade: int) -> bytes:
    """A picture of one grey level; equal in size for every level."""
    return b"P6 32 32 255\n" + bytes([shade]) * 3072


@pytest.mark.usefixtures("a_minute_later")
@pytest.mark.parametrize("how", EXCHANGES)
@pytest.mark.parametrize("again", [True, False], ids=["in one process", "in another"])
def test_an_exchanged_file_is_hashed_again(tmp_path: Path, how: Callable[[Path, bytes], None], again: bool) -> None:
    path = tmp_path / "data/pets.bin"
    path.parent.mkdir()
    path.write_bytes(b"cats" * 100)
    cache = DataCache(tmp_path / "cache")
    assert cache.hash(path) == file_hash(path)
    exchange(path, b"dogs" * 100, how)
    assert (cache if again else DataCache(tmp_path / "cache")).hash(path) == file_hash(path)


@pytest.mark.usefixtures("a_minute_later")
@pytest.mark.parametrize("how", [in_place, by_another_file])
def test_an_exchanged_file_of_a_folder_is_decoded_again(
    tmp_path: Path, register: Register, how: Callable[[Path, bytes], None]
) -> None:
    register("pets", one_split())
    for k, name in enumerate(("cat/1.ppm", "dog/1.ppm")):
        (tmp_path / "pets" / name).parent.mkdir(parents=True)
        (tmp_path / "pets" / name).write_bytes(bitmap(k))
    before = pixels(tmp_path)
    exchange(tmp_path / "pets/dog/1.ppm", bitmap(9), how)
    after = pixels(tmp_path)
    assert np.array_equal(after[0], before[0])
    assert (after[1] == 9).all()


@pytest.mark.usefixtures("a_minute_later")
def test_exchanged_pixels_in_the_cache_are_decoded_again(tmp_path: Path, register: Register) -> None:
    register("pets", one_split())
    for k, name in enumerate(("cat/1.ppm", "dog/1.ppm")):
        (tmp_path / "pets" / name).parent.mkdir(parents=True)
        (tmp_path / "pets" / name).write_bytes(bitmap(k))
    before = pixels(tmp_path)
    stored = next((tmp_path / "cache").glob("*.images.npy"))
    exchange(stored, stored.read_bytes()[:-1] + b"\x63", in_place)
    assert np.array_equal(pixels(tmp_path), before)


def one_split() -> type[FileDataset]:
    class Pets(FileDataset):
        splits = ("test",)
        classes = ("cat", "dog")
        sizes = {"test": 2}
        sources = {"test": (Source((tree_file("pets"),), ImageTree(("cat", "dog"))),)}

    return Pets


def pixels(folder: Path) -> np.ndarray:
    return np.array(Library(folder, folder / "cache").split(parse_set("pets"), "test").images)


def test_a_file_that_changed_a_moment_ago_is_hashed_each_time(tmp_path: Path) -> None:
    """Within a tick of the clock, a second change would leave no trace."""
    path = tmp_path / "pets.bin"
    path.write_bytes(b"cats")
    os.utime(path, (0, 0))
    DataCache(tmp_path / "cache").hash(path)
    assert not (tmp_path / "cache/hashes.json").exists()


@pytest.mark.parametrize("how", EXCHANGES)
def test_an_exchanged_artifact_is_set_aside(
    tmp_path: Path, how: Callable[[Path, bytes], None], logged: list[str]
) -> None:
    store, key = Store(tmp_path / "cache"), array_key()
    path = store.save_array(key, np.arange(12), {})
    assert store.find(key) == path
    exchange(path, path.read_bytes()[:-1] + b"\x01", how)
    assert store.find(key) is None
    assert "does not match its checksum" in logged[0]


# bench verify

SHADES = ("dark", "light")


@pytest.fixture
def finished(tmp_path: Path, register: Register) -> Path:
    """The results folder of a run on files that are in the folder `data` beside it."""

    class Shades(FileDataset):
        classes = SHADES
        sizes = {"train": 40, "test": 20}
        sources = {split: (Source((tree_file(f"shades-{split}"),), ImageTree(SHADES)),) for split in ("train", "test")}

    register("shades", Shades)
    random = np.random.RandomState(0)
    for split, count in Shades.sizes.items():
        for row in range(count):
            path = tmp_path / "data" / f"shades-{split}" / SHADES[row % 2] / f"{row:02}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.randint(0, 256, (32, 32, 3)).astype(np.uint8)).save(path)
    for row in range(8):
        path = tmp_path / "mine" / f"{row}.bmp"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.randint(0, 256, (32, 32, 3)).astype(np.uint8)).save(path)
    suite = write_suite(tmp_path, '[[id]]\nset = "shades"\nood = [{ set = "greek" }]', training="epochs = 1")
    run_suite(suite, data_dir=tmp_path / "data", ood_sets=f"greek,folder:{tmp_path / 'mine'}")
    registry._objects.pop(("dataset", "folder:mine"), None)
    registry._from_files.pop(("dataset", "folder:mine"), None)
    return tmp_path / "results"


def verified(results: Path) -> tuple[int, list[str]]:
    done = bench("verify", "tiny", "--results", results, "--data-dir", results.parent / "data")
    return done.exit_code, done.output.splitlines()


@pytest.mark.parametrize(
    "file, expected",
    [
        ("data/shades-train/dark/00.bmp", "shades (train): SHA-256 "),
        ("data/shades-test/dark/00.bmp", "shades (test): SHA-256 "),
        ("mine/3.bmp", "folder:mine (test): SHA-256 "),
    ],
)
def test_verify_hashes_the_data_files_whatever_their_stamps_say(finished: Path, file: str, expected: str) -> None:
    assert verified(finished)[0] == 0, verified(finished)
    path = finished.parent / file
    content = path.read_bytes()
    exchange(path, content[:-1] + bytes([content[-1] ^ 255]), in_place)
    keep_hashes(finished / "cache/data/hashes.json")
    code, lines = verified(finished)
    assert code == 1
    (problem,) = (line for line in lines if line.startswith(expected))
    assert " in --data-dir, but the cell was computed from " in problem


def keep_hashes(file: Path) -> None:
    """Let the stored hashes be valid for the files as they are, as on a system whose stamps do not change."""
    hashes = json.loads(file.read_text()) if file.exists() else {}
    for name, known in hashes.items():
        known["stamp"] = cache_module._stamp(Path(name.partition(" ")[2]))[0]
    file.write_text(json.dumps(hashes))


def test_verify_says_which_data_it_did_not_find(finished: Path) -> None:
    (finished.parent / "data/shades-train").rename(finished.parent / "data/gone")
    code, lines = verified(finished)
    assert code == 0
    assert "not checked for 2 cells: data sets, which are not in --data-dir" in lines[-1]
