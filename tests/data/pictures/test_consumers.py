"""What compares sets, and what is made of them, without decoding whole sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.duplicates import CachedDuplicates
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.native.open_split import streamed_split
from oodbench.benchmark.data.pictures.block import BLOCK, block_of
from oodbench.benchmark.data.pictures.derived import DerivedImages
from oodbench.benchmark.data.pictures.source import ListedFiles
from oodbench.benchmark.data.pictures.streamed import StreamedImages
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import Preprocessing
from tests.data.pictures.pictures import encoded, photo
from tests.data.trees import as_folder

VIEW = PictureView(Preprocessing((24, 24)))


def a_set(path: Path, pictures: Sequence[bytes], view: PictureView = VIEW) -> ImageSet:
    names = [f"{k:02d}.img" for k in range(len(pictures))]
    as_folder(path, dict(zip(names, pictures, strict=True)))
    return streamed_split(path.name, ListedFiles(path, names), (), view, None).images


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


def test_copies_and_near_duplicates(tmp_path: Path, decoded: list[int]) -> None:
    pictures = [photo(60, 50, k) for k in range(12)]
    seen = a_set(tmp_path / "seen", [encoded(picture, "PNG") for picture in pictures])
    other_pixel = pictures[3].copy()
    other_pixel.putpixel((0, 0), (255, 255, 255))
    tested = a_set(
        tmp_path / "tested",
        [
            encoded(pictures[0], "PNG"),  # the same file
            encoded(pictures[1], "BMP"),  # the same pixels in another file
            encoded(pictures[2], "JPEG"),  # the same picture compressed
            encoded(photo(60, 50, 99), "PNG"),  # another picture
        ],
    )
    duplicates = CachedDuplicates(DataCache(None))
    assert duplicates.exact(seen, tested) == 2
    assert len(decoded) == 2, "only the pair with equal thumbnails is decoded"
    assert duplicates.near(seen, tested) == 3
    assert len(decoded) == 2


def test_pictures_with_equal_thumbnails_and_other_pixels_are_not_copies(tmp_path: Path, decoded: list[int]) -> None:
    picture = Image.new("RGB", (640, 640), (128, 128, 128))
    other = picture.copy()
    other.putpixel((320, 320), (129, 128, 128))
    view = PictureView(Preprocessing(crop=(24, 24)))
    one, two = (a_set(tmp_path / str(k), [encoded(p, "PNG")], view) for k, p in enumerate((picture, other)))
    assert np.array_equal(one.small, two.small)
    assert CachedDuplicates(DataCache(None)).exact(one, two) == 0
    assert len(decoded) == 2


def test_changed_pictures_come_in_blocks(tmp_path: Path) -> None:
    images = a_set(tmp_path / "set", [encoded(photo(40, 30, k), "PNG") for k in range(5)]).lazy
    assert images is not None
    changed = DerivedImages(images, [lambda block: 255 - block, lambda block: block // 2], "inverted or dark")
    expected = np.concatenate([255 - images[:], images[:] // 2])
    for size in (1, 4, 100):
        assert np.array_equal(np.concatenate(list(changed.blocks(size))), expected)


@pytest.mark.parametrize(
    "side, block", [(8, 256), (32, 256), (33, 128), (64, 64), (96, 16), (128, 16), (224, 8), (1024, 8)]
)
def test_blocks_follow_the_size_of_the_images(side: int, block: int) -> None:
    assert block_of((3, side, side), "squeezed") == block
    assert block_of((3, side, side), "") == BLOCK
    assert block_of((3, side, side), "squeezed", 5) == block_of((3, side, side), "", 5) == 5
