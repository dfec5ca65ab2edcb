"""Nothing is pickled or unpickled: the source has no such calls, and pickles planted in files are not executed."""

from __future__ import annotations

import ast
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset
from oodbench.benchmark.data.files.file_source import File, Source, tree_file
from oodbench.benchmark.data.files.idx import Idx
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.papers.published import read_reference
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plan.weights.file import read_weights
from oodbench.benchmark.records.record import read_record
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.store.store import Key, Store
from oodbench.benchmark.store.tensor_file import from_file

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmark", "detectors", "datasets", "figures", "perf", "docs")
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
STATED = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
"""Keyword arguments that must be given, whatever the library's default is."""
FORBIDDEN = {"torch.save", "pd.read_pickle", "read_pickle", "to_pickle", "eval", "exec", "yaml.load", "os.system"}


def breaches(source: str) -> Iterator[str]:
    """The places in a module's source that unpickle, or execute text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN or name.rpartition(".")[2] in {"read_pickle", "to_pickle"}:
                yield f"calls {name}"
            if name in STATED:
                keyword, value = STATED[name]
                given = {k.arg: ast.literal_eval(k.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
                if given.get(keyword) is not value:
                    yield f"{name} without {keyword}={value}"


@pytest.mark.slow
def test_no_module_unpickles() -> None:
    modules = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(modules) > 100
    found = {str(path.relative_to(ROOT)): list(breaches(path.read_text(encoding="utf-8"))) for path in modules}
    assert {path: places for path, places in found.items() if places} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def late():\n    import shelve",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, map_location='cpu')",
        "torch.save(network, file)",
        "frame.to_pickle(file)",
        "eval(text)",
    ],
)
def test_the_search_finds_breaches(source: str) -> None:
    assert list(breaches(source))


# Planted pickles


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_the_bomb_works(tmp_path: Path) -> None:
    """Otherwise the tests below could not fail."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "marker")))  # noqa: S301
    assert (tmp_path / "marker").exists()


def pickled_npy(bomb: Bomb) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([bomb], dtype=object), allow_pickle=True)
    return out.getvalue()


def in_store(folder: Path, content: bytes, extension: str) -> tuple[Store, Key]:
    """Store an artifact with a correct checksum."""
    store, key = Store(folder / "cache"), Key("scores", extension, "planted", {})

    def write(path: Path) -> None:
        path.write_bytes(content)

    store.save(key, write, {})
    return store, key


class Planted(FileDataset):
    """An image tree, named and packed like a data set."""

    name = "planted"
    splits = ("test",)
    sources = {"test": (Source((tree_file("planted"),), ImageTree()),)}


class PlantedPair(FileDataset):
    """Two idx files."""

    name = "pair"
    splits = ("test",)
    classes = ("a", "b")
    sources = {"test": (Source((File(("images",)), File(("labels",))), Idx(2)),)}


def opened(folder: Path, card: FileDataset) -> None:
    card.open("test", Access(folder, DataCache(None)))


def as_array(folder: Path, bomb: Bomb) -> None:
    store, key = in_store(folder, pickled_npy(bomb), ".npy")
    store.load_array(key)


def as_bare_array(folder: Path, bomb: Bomb) -> None:
    store, key = in_store(folder, pickle.dumps(bomb), ".npy")
    store.load_array(key)


def as_array_in_an_archive(folder: Path, bomb: Bomb) -> None:
    out = io.BytesIO()
    np.savez(out, a=np.array([bomb], dtype=object))
    store, key = in_store(folder, out.getvalue(), ".npy")
    store.load_array(key)


def as_stored_weights(folder: Path, bomb: Bomb) -> None:
    store, key = in_store(folder, pickle.dumps(bomb), ".safetensors")
    store.load_tensors(key)


def as_stored_json(folder: Path, bomb: Bomb) -> None:
    store, key = in_store(folder, pickle.dumps(bomb), ".json")
    store.load_json(key)


def as_checkpoint(folder: Path, bomb: Bomb, zipped: bool = True) -> None:
    torch.save({"weight": torch.ones(2), "bomb": bomb}, folder / "mine.pt", _use_new_zipfile_serialization=zipped)
    read_weights(folder / "mine.pt")


def as_old_checkpoint(folder: Path, bomb: Bomb) -> None:
    as_checkpoint(folder, bomb, zipped=False)


def as_bare_checkpoint(folder: Path, bomb: Bomb) -> None:
    (folder / "mine.pt").write_bytes(pickle.dumps(bomb))
    read_weights(folder / "mine.pt")


def as_member_of_a_zip(folder: Path, bomb: Bomb) -> None:
    with zipfile.ZipFile(folder / "planted.zip", "w") as archive:
        archive.writestr("0.png", pickle.dumps(bomb))
    opened(folder, Planted())


def as_member_of_a_tar(folder: Path, bomb: Bomb) -> None:
    content = pickle.dumps(bomb)
    with tarfile.open(folder / "planted.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("data_batch_1.png")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    opened(folder, Planted())


def as_image_in_a_folder(folder: Path, bomb: Bomb) -> None:
    (folder / "planted").mkdir()
    (folder / "planted" / "0.png").write_bytes(pickle.dumps(bomb))
    opened(folder, Planted())


def as_idx_file(folder: Path, bomb: Bomb) -> None:
    (folder / "images").write_bytes(pickle.dumps(bomb))
    (folder / "labels").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 1) + b"\0")
    opened(folder, PlantedPair())


def as_suite(folder: Path, bomb: Bomb) -> None:
    (folder / "mine.toml").write_bytes(pickle.dumps(bomb))
    read_suite(str(folder / "mine.toml"))


def as_record(folder: Path, bomb: Bomb) -> None:
    (folder / "x.json").write_bytes(pickle.dumps(bomb))
    read_record(folder / "x.json")


def as_run(folder: Path, bomb: Bomb) -> None:
    (folder / "run.json").write_bytes(pickle.dumps(bomb))
    read_stored_run(folder)


def as_reference(folder: Path, bomb: Bomb) -> None:
    (folder / "mine.csv").write_bytes(pickle.dumps(bomb))
    read_reference(str(folder / "mine.csv"))


PLACES: list[Callable[[Path, Bomb], None]] = [
    as_array,
    as_bare_array,
    as_array_in_an_archive,
    as_stored_weights,
    as_stored_json,
    as_checkpoint,
    as_old_checkpoint,
    as_bare_checkpoint,
    as_member_of_a_zip,
    as_member_of_a_tar,
    as_image_in_a_folder,
    as_idx_file,
    as_suite,
    as_record,
    as_run,
    as_reference,
]


@pytest.mark.parametrize("plant", PLACES, ids=lambda plant: plant.__name__)
def test_a_planted_pickle_is_not_executed(tmp_path: Path, plant: Callable[[Path, Bomb], None]) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(OodbenchError) as error:
        plant(tmp_path, Bomb(marker))
    assert not marker.exists()
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).endswith(".")


def test_a_planted_state_is_not_executed(tmp_path: Path) -> None:
    """States of detectors, and snapshots, which callers recompute after a ValueError."""
    (tmp_path / "state").write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises(ValueError, match=r"\w"):
        from_file(tmp_path / "state")
    assert not (tmp_path / "marker").exists()


def test_planted_pixels_are_not_executed_and_decoded_again(tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "planted" / "0.png")
    access = Access(tmp_path, DataCache(tmp_path / "cache"))
    checksum = Planted().open("test", access).images.checksum
    (stored,) = (tmp_path / "cache").glob("*.images.npy")
    stored.write_bytes(pickled_npy(Bomb(tmp_path / "marker")))
    assert Planted().open("test", Access(tmp_path, DataCache(tmp_path / "cache"))).images.checksum == checksum
    assert not (tmp_path / "marker").exists()
