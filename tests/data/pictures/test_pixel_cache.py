"""Decoded pixels on the disk: the same bytes, written by the second pass, checked, and never required."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.data.files.native.open_split import streamed_split
from oodbench.benchmark.data.pictures.check import remove_damaged
from oodbench.benchmark.data.pictures.pixel_cache import PixelCache
from oodbench.benchmark.data.pictures.source import ListedFiles
from oodbench.benchmark.data.pictures.streamed import StreamedImages
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.records.prune import prune
from tests.data.pictures.pictures import varied
from tests.data.trees import as_folder

VIEW = PictureView(Preprocessing((16, 16)))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are decoded."""
    rows: list[int] = []
    original = StreamedImages.decode

    def counted(self: StreamedImages, row: int) -> np.ndarray:
        rows.append(row)
        return original(self, row)

    monkeypatch.setattr(StreamedImages, "decode", counted)
    return rows


def opened(tmp_path: Path, view: PictureView = VIEW) -> StreamedImages:
    folder = tmp_path / "set"
    if not folder.exists():
        as_folder(folder, varied())
    images = streamed_split("set", ListedFiles(folder, sorted(varied())), (), view, tmp_path / "cache").images.lazy
    assert isinstance(images, StreamedImages)
    return images


def passed(images: StreamedImages, size: int = 4) -> np.ndarray:
    return np.concatenate([block.copy() for block in images.blocks(size)])


def stored(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*.pixels"))


def test_the_second_pass_stores_what_the_third_reads(tmp_path: Path, decoded: list[int]) -> None:
    first = passed(opened(tmp_path))
    assert not stored(tmp_path)
    assert np.array_equal(passed(opened(tmp_path), 2), first)
    assert len(decoded) == 18
    assert len(stored(tmp_path)) == 1
    third = opened(tmp_path)
    assert np.array_equal(passed(third, 5), first)
    rows = np.array([7, 3, 4, 5, 0, 0])
    assert np.array_equal(third[rows], first[rows])
    some = third.select(rows[:4])
    assert np.array_equal(some[:], first[rows[:4]])
    assert np.array_equal(passed(some.select(np.array([2, 0]))), first[[4, 7]])
    assert len(decoded) == 18, "nothing is decoded again"
    assert not list((tmp_path / "cache").glob("*.once"))


@pytest.mark.parametrize("gigabytes", [0, 9 * 16 * 16 * 3 / 1e9 - 1e-9])
def test_sets_above_the_limit_are_decoded_each_time(tmp_path: Path, decoded: list[int], gigabytes: float) -> None:
    for _ in range(3):
        passed(opened(tmp_path, replace(VIEW, pixel_cache=gigabytes)))
    assert len(decoded) == 27
    assert not stored(tmp_path)


def test_another_view_has_other_pixels(tmp_path: Path) -> None:
    for view in (VIEW, replace(VIEW, exif=True), PictureView(Preprocessing((16, 16), interpolation="bicubic"))):
        passes = [passed(opened(tmp_path, view)) for _ in range(3)]
        assert np.array_equal(passes[0], passes[2])
    assert len(stored(tmp_path)) == 3


def test_damaged_pixels_are_decoded_again(tmp_path: Path, decoded: list[int]) -> None:
    first, _ = (passed(opened(tmp_path)) for _ in range(2))
    path = stored(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert np.array_equal(passed(opened(tmp_path)), first)
    assert len(decoded) == 27


def test_a_pass_that_ends_early_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed(opened(tmp_path))
    alive, method = [], PixelCache.passed

    def kept(self: PixelCache, blocks: Any) -> Any:
        alive.append(method(self, blocks))
        return alive[-1]

    monkeypatch.setattr(PixelCache, "passed", kept)  # the garbage collector, which some Pythons leave it to, is late
    blocks = opened(tmp_path).blocks(3)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert not stored(tmp_path)
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = passed(opened(tmp_path))

    def full(self: PixelCache, temporary: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PixelCache, "_finish", full)
    assert np.array_equal(passed(opened(tmp_path)), first)
    assert not stored(tmp_path)


def test_what_is_stored_is_checked(tmp_path: Path) -> None:
    for _ in range(2):
        passed(opened(tmp_path))
    cache = tmp_path / "cache"
    assert remove_damaged(cache) == []
    pixels = stored(tmp_path)[0]
    pixels.write_bytes(bytes(pixels.stat().st_size))
    assert remove_damaged(cache) == [pixels]
    assert not pixels.exists()
    thumbnails = next(cache.glob("*.thumbnails.npy"))
    thumbnails.write_bytes(thumbnails.read_bytes()[:-1])
    assert remove_damaged(cache) == [thumbnails]
    assert not [path for path in cache.iterdir() if path.is_file()]


def test_pruning_keeps_what_belongs_to_pictures_that_are_there(tmp_path: Path) -> None:
    results = tmp_path / "results"
    folder = as_folder(tmp_path / "set", varied())
    for _ in range(2):
        files = ListedFiles(folder, sorted(varied()))
        images = streamed_split("set", files, (), VIEW, results / "cache" / "data").images.lazy
        assert isinstance(images, StreamedImages)
        passed(images)
    unfinished = results / "cache" / "data" / "other-0123.part"
    unfinished.write_bytes(b"1")
    kept = {path for path in (results / "cache" / "data").iterdir() if path.is_file()} - {unfinished}
    assert len(kept) == 6
    prune(results)
    assert {path for path in (results / "cache" / "data").iterdir() if path.is_file()} == kept
    folder.rename(tmp_path / "moved")
    prune(results)
    assert not [path for path in (results / "cache" / "data").iterdir() if path.is_file()]
