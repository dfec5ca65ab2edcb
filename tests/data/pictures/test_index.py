"""The index: what it says of pictures, what cannot be used, that it resumes, and that it follows its files."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.files import cache as cache_module
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.file_dataset import Access
from oodbench.benchmark.data.files.native.open_split import NO_ALPHA, NOT_ROTATED, streamed_split
from oodbench.benchmark.data.files.user_folder import adopt
from oodbench.benchmark.data.pictures.index import index_of
from oodbench.benchmark.data.pictures.index_files import HEIGHT, ROTATED, TRANSPARENT, WIDTH, PictureIndex
from oodbench.benchmark.data.pictures.source import ListedFiles
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.errors import DataError, StoreError
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec
from tests.data.pictures.pictures import encoded, photo, varied
from tests.data.trees import as_folder

VIEW = PictureView(Preprocessing((16, 16)))


class Counted(ListedFiles):
    """Counts what is read."""

    reads = 0

    def read(self, row: int) -> bytes:
        self.reads += 1
        return super().read(row)


@pytest.fixture
def files(tmp_path: Path) -> Counted:
    return Counted(as_folder(tmp_path / "set", varied()), sorted(varied()))


def header_of_60_megapixels() -> bytes:
    """A PNG that declares 10,000 x 6,000 pixels and holds those of a smaller one."""
    png = bytearray(encoded(photo(10, 6), "PNG"))
    png[16:24] = (10_000).to_bytes(4, "big") + (6_000).to_bytes(4, "big")
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    return bytes(png)


def odd() -> dict[str, bytes]:
    deep = Image.fromarray(np.full((9, 9), 40_000, np.uint16))
    film = [photo(20, 20, k).quantize() for k in range(2)]
    file = io.BytesIO()
    film[0].save(file, "GIF", save_all=True, append_images=film[1:])
    return {
        "deep.png": encoded(deep, "PNG"),
        "empty.jpg": b"",
        "film.gif": file.getvalue(),
        "huge.png": header_of_60_megapixels(),
        "named.jpg": b"\x00\x00\x00\x1cftypheic" + bytes(30),
        "short.jpg": encoded(photo(80, 60), "JPEG")[:-500],
        "text.jpg": b"not a picture",
    }


@pytest.mark.parametrize("root", [True, False], ids=["stored", "in memory"])
def test_what_the_index_says(tmp_path: Path, files: Counted, root: bool) -> None:
    index = index_of("set", files, tmp_path / "cache" if root else None, part=4)
    names = list(files.names)
    assert files.reads == len(names), "each file is read once"
    assert not index.wrong
    for row, name in enumerate(names):
        with Image.open(files.place / name) as stored:
            assert (index.facts[row, WIDTH], index.facts[row, HEIGHT]) == stored.size, name
            squeezed = np.asarray(stored.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR), np.int16)
        difference = np.abs(index.array("thumbnails")[row].transpose(1, 2, 0) - squeezed)
        assert difference.mean() < (3 if name.endswith("jpg") else 1e-9), name
        assert bytes(index.array("fingerprints")[row]) == hashlib.sha256(varied()[name]).digest()
    assert index.flagged(ROTATED) == index.flagged(TRANSPARENT) == 1
    assert index.modes["CMYK"] == index.modes["P"] == index.modes["L"] == 1
    assert not index.grey


def test_an_index_is_read_again_and_follows_its_files(tmp_path: Path, files: Counted) -> None:
    first = index_of("set", files, tmp_path / "cache", part=4)
    files.reads = 0
    again = index_of("set", files, tmp_path / "cache", part=4)
    assert files.reads == 0
    assert np.array_equal(first.array("thumbnails"), again.array("thumbnails"))
    (files.place / "grey.jpg").write_bytes(encoded(photo(30, 30, 77), "JPEG"))
    changed = index_of("set", files, tmp_path / "cache", part=4)
    assert files.reads == len(files.names)
    assert changed.key != first.key
    sides = list((tmp_path / "cache").glob("*.json"))
    assert len(sides) == 1, "the index of the earlier files is removed"
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.parametrize("name", ["thumbnails", "facts", "fingerprints"])
def test_a_damaged_index_is_made_again(tmp_path: Path, files: Counted, name: str) -> None:
    index_of("set", files, tmp_path / "cache")
    expected = index_of("set", files, tmp_path / "cache").array(name).tobytes()
    array = next((tmp_path / "cache").glob(f"*.{name}.npy"))
    content = bytearray(array.read_bytes())
    content[-5] ^= 1
    array.write_bytes(content)
    assert index_of("set", files, tmp_path / "cache").array(name).tobytes() == expected


def test_odd_and_damaged_pictures_are_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "set", {**varied(), **odd()})
    names = [*sorted({**varied(), **odd()}), "gone.jpg"]
    split = streamed_split("set", ListedFiles(folder, names), (), VIEW, None)
    assert len(split.images) == len(varied())
    assert split.images.names == sorted(varied())
    assert {left.name: left.reason for left in split.left_out} == {
        "deep.png": "has more than 8 bits a channel",
        "film.gif": "has several frames",
        "named.jpg": "is HEIC, which is not read",
    }
    bad = {text.partition(" ")[0]: text for text in split.bad}
    assert bad["empty.jpg"] == "empty.jpg in set is empty"
    assert bad["gone.jpg"] == "gone.jpg is not there"
    assert bad["text.jpg"] == "text.jpg in set is no image in a known format"
    assert "cannot be decoded" in bad["short.jpg"]
    assert "cannot be decoded" in bad["huge.png"]
    assert len(bad) == len(split.bad) == 5
    assert split.remarks == {NOT_ROTATED: 1, NO_ALPHA: 1}


def test_a_set_without_usable_pictures_is_an_error(tmp_path: Path) -> None:
    files = ListedFiles(as_folder(tmp_path / "set", odd()), sorted(odd()))
    with pytest.raises(DataError, match="None of the 7 images of 'set' can be used"):
        streamed_split("set", files, (), VIEW, None)


def test_damaged_pictures_refuse_a_set_unless_they_are_skipped(tmp_path: Path) -> None:
    as_folder(tmp_path / "pictures", {**varied(), **odd()})
    card = registry.get("dataset", adopt(SetSpec(f"folder:{tmp_path / 'pictures'}")).name)()
    access = Access(tmp_path, DataCache(tmp_path / "cache"), view=VIEW)
    with pytest.raises(DataError, match=r"has 4 images that are damaged: empty.jpg in pictures is empty; .*--skip-bad"):
        card.open("test", access)
    opened = card.open("test", access._replace(skip_bad=True))
    assert len(opened.images) == len(varied())
    notes = " ".join(opened.notes)
    assert "4 of 13 images could not be used and were left out" in notes
    assert "32x32" not in notes
    assert f"{NO_ALPHA}: 1 of 16 images" in notes


def test_a_killed_pass_resumes_with_the_same_bytes(tmp_path: Path) -> None:
    pictures = {f"{k:03d}.jpg": encoded(photo(300, 200, k), "JPEG") for k in range(60)}
    folder = as_folder(tmp_path / "set", pictures)
    cache = tmp_path / "cache"
    cache.mkdir()
    program = (
        "import sys, time; from pathlib import Path\n"
        "from oodbench.benchmark.data.pictures.index import index_of\n"
        "from oodbench.benchmark.data.pictures.source import ListedFiles\n"
        "class Slow(ListedFiles):\n"
        "    def read(self, row):\n"
        "        time.sleep(0.02 if row < 40 else 60)\n"
        "        return super().read(row)\n"
        "folder = Path(sys.argv[1])\n"
        "index_of('set', Slow(folder, sorted(p.name for p in folder.iterdir())), Path(sys.argv[2]), part=8)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(folder), str(cache)])
    try:
        deadline = time.monotonic() + 60
        while len(list(cache.glob("*.part"))) < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    parts = len(list(cache.glob("*.part")))
    assert parts == 5
    files = Counted(folder, sorted(pictures))
    resumed = index_of("set", files, cache, part=8)
    assert files.reads == 60 - 8 * parts
    fresh = index_of("set", Counted(folder, sorted(pictures)), tmp_path / "fresh", part=8)
    for name in ("fingerprints", "thumbnails", "facts"):
        assert resumed.array(name).tobytes() == fresh.array(name).tobytes()
    assert not list(cache.glob("*.part"))


def test_a_damaged_part_is_made_again(tmp_path: Path, files: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: object, parts: Iterator[object], made_from: object) -> None:
        assert len([*parts]) == 3
        raise StoreError("the disk is full")

    monkeypatch.setattr(PictureIndex, "store", full_disk)
    with pytest.raises(StoreError):
        index_of("set", files, tmp_path / "cache", part=4)
    monkeypatch.undo()
    parts = sorted((tmp_path / "cache").glob("*.part"))
    assert len(parts) == 3
    os.truncate(parts[0], 100)
    files.reads = 0
    index = index_of("set", files, tmp_path / "cache", part=4)
    assert files.reads in (4, 1), "only the damaged part is read again"
    assert index.array("facts").tobytes() == index_of("set", files, None, part=4).array("facts").tobytes()


def test_each_picture_of_a_folder_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = as_folder(tmp_path / "photos", {**varied(), "notes.txt": b"1"})
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    card = registry.get("dataset", adopt(SetSpec(f"folder:{folder}")).name)()
    hashed: list[str] = []
    original = cache_module.file_hash

    def counted(path: Path, algorithm: str = "sha256") -> str:
        hashed.append(path.name)
        return original(path, algorithm)

    monkeypatch.setattr(cache_module, "file_hash", counted)
    opened = card.open("test", Access(tmp_path, DataCache(tmp_path / "cache"), view=VIEW))
    assert hashed == ["notes.txt"]
    assert opened.files == {str(folder): DataCache(None).hash(folder)}
    assert len(hashed) == 1 + len(varied()) + 1


class Stampless(Counted):
    """Files that are exchanged without a trace in their stamps."""

    def stamps(self, rows: Sequence[int]) -> list[str]:
        return ["the same"] * len(rows)


@pytest.mark.parametrize("again", [False, True])
def test_exchanged_pictures_are_found_when_all_are_hashed_again(tmp_path: Path, again: bool) -> None:
    files = Stampless(as_folder(tmp_path / "set", varied()), sorted(varied()))
    first = index_of("set", files, tmp_path / "cache").array("fingerprints").tobytes()
    assert index_of("set", files, tmp_path / "cache", again=again).array("fingerprints").tobytes() == first
    (files.place / "grey.jpg").write_bytes(encoded(photo(30, 30, 77), "JPEG"))
    index = index_of("set", files, tmp_path / "cache", again=again)
    assert (index.array("fingerprints").tobytes() != first) is again
    assert np.array_equal(index.facts, index_of("set", files, tmp_path / "cache").facts)
    assert bool(index.facts[list(files.names).index("grey.jpg"), WIDTH] == 30) is again
