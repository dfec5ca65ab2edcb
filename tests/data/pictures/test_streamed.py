"""Pictures at their own size: every source gives the same images, and they are those of torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from oodbench.benchmark.data.files import ImageTree
from oodbench.benchmark.data.files.native.open_split import streamed_split
from oodbench.benchmark.data.files.own_images import OwnImages
from oodbench.benchmark.data.files.pixels import Fit
from oodbench.benchmark.data.pictures.source import ListedFiles, PictureFiles
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import LazyImages, Preprocessing
from tests.data.pictures.pictures import encoded, photo, varied
from tests.data.trees import as_folder, as_tar, as_zip

VIEW = PictureView(Preprocessing(24, (20, 20), "bicubic"))

PACKED: dict[str, Callable[[Path], Path]] = {
    "folder": lambda path: as_folder(path, varied()),
    "zip": lambda path: as_zip(path.with_suffix(".zip"), varied()),
    "tar": lambda path: as_tar(path.with_suffix(".tar"), varied()),
    "tar.gz": lambda path: as_tar(path.with_suffix(".tar.gz"), varied()),
}


def streamed(files: PictureFiles, view: PictureView = VIEW, root: Path | None = None) -> ImageSet:
    return streamed_split("set", files, (), view, root).images


def own(path: Path, root: Path | None = None) -> PictureFiles:
    return OwnImages("test", Fit()).pictures([path], root)


def pixels(images: ImageSet) -> np.ndarray:
    assert images.lazy is not None
    return images.lazy[:]


@pytest.mark.parametrize("packed", PACKED)
def test_every_source_gives_the_same_images(tmp_path: Path, packed: str) -> None:
    path = PACKED[packed](tmp_path / "set")
    names = sorted(varied())
    expected = streamed(ListedFiles(as_folder(tmp_path / "listed", varied()), names))
    for files in (own(path, tmp_path / "cache"), own(path), ImageTree(fit=Fit()).pictures([path], None)):
        assert files is not None
        images = streamed(files)
        assert images.checksum == expected.checksum
        assert images.names == names
        assert np.array_equal(pixels(images), pixels(expected))


@pytest.mark.parametrize(
    "resize, crop, how",
    [(24, 20, "bilinear"), (30, 24, "bicubic"), ((20, 28), None, "bilinear"), (16, 24, "bilinear")],
    ids=str,
)
def test_pixels_are_those_of_torchvision(
    tmp_path: Path, resize: int | tuple[int, int], crop: int | None, how: str
) -> None:
    folder = as_folder(tmp_path / "set", varied())
    view = PictureView(Preprocessing(resize, None if crop is None else (crop, crop), how))
    images = streamed(own(folder), view)
    size = [resize] if isinstance(resize, int) else list(resize)
    steps: list[Callable[[Image.Image], Image.Image]] = [transforms.Resize(size, InterpolationMode[how.upper()])]
    steps += [] if crop is None else [transforms.CenterCrop(crop)]
    assert images.names is not None
    for row, name in enumerate(images.names):
        with Image.open(folder / name) as stored:
            picture = stored.convert("RGB")
        expected = np.asarray(transforms.Compose(steps)(picture)).transpose(2, 0, 1)
        assert np.array_equal(images.images[row : row + 1][0], expected), name


def test_rotation_by_exif_is_applied_if_asked_for(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "set", {"a.jpg": encoded(photo(40, 30), "JPEG", rotated=6)})
    squeezed = Preprocessing((24, 24))
    as_stored, turned = (pixels(streamed(own(folder), PictureView(squeezed, exif=exif)))[0] for exif in (False, True))
    with Image.open(folder / "a.jpg") as stored:
        expected = np.asarray(stored.convert("RGB").transpose(Image.Transpose.ROTATE_270).resize((24, 24), 2))
    assert np.array_equal(turned, expected.transpose(2, 0, 1))
    assert not np.array_equal(turned, as_stored)


def test_a_set_of_grey_pictures_keeps_one_channel(tmp_path: Path) -> None:
    grey = {f"{k}.png": encoded(photo(30 + k, 40, k).convert("L"), "PNG") for k in range(3)}
    images = streamed(own(as_folder(tmp_path / "grey", grey)))
    assert images.image_shape == (1, 20, 20)
    assert images.small.shape == (3, 1, 32, 32)
    mixed = {**grey, "z.png": encoded(photo(30, 30), "PNG")}
    repeated = streamed(own(as_folder(tmp_path / "mixed", mixed)))
    assert repeated.image_shape == (3, 20, 20)
    assert np.array_equal(pixels(repeated)[:3], np.repeat(pixels(images), 3, axis=1))


def test_rows_blocks_and_parts_are_the_same_images(tmp_path: Path) -> None:
    images = streamed(own(as_folder(tmp_path / "set", varied())))
    whole = pixels(images)
    assert images.lazy is not None
    for size in (1, 3, 100):
        assert np.array_equal(np.concatenate(list(images.lazy.blocks(size))), whole)
    rows = np.array([4, 0, 2])
    some = images.take(rows)
    assert np.array_equal(pixels(some), whole[rows])
    assert np.array_equal(some.small, images.small[rows])
    assert some.lazy is not None
    assert some.lazy.content() == LazyImages.content(some.lazy) != images.lazy.content()
    assert some.names == [images.lazy.names[row] for row in rows]
    assert np.array_equal(images.images[[True, *[False] * (len(whole) - 1)]], whole[:1])


def test_a_picture_that_changes_while_it_is_used_is_an_error(tmp_path: Path) -> None:
    folder = as_folder(tmp_path / "set", varied())
    images = streamed(own(folder))
    (folder / "colour.jpg").write_bytes(encoded(photo(50, 40, 9), "JPEG"))
    with pytest.raises(DataError, match=r"'colour.jpg' in '.*set' has changed while it was in use"):
        pixels(images)
    (folder / "colour.jpg").unlink()
    with pytest.raises(DataError, match=r"'colour.jpg' in '.*set' is not there"):
        pixels(images)


def test_errors_come_in_order_and_end_the_threads(tmp_path: Path) -> None:
    names = [f"{k}.jpg" for k in range(40)]
    folder = as_folder(tmp_path / "set", {name: encoded(photo(30, 30, k), "JPEG") for k, name in enumerate(names)})
    images = streamed(ListedFiles(folder, names)).lazy
    assert images is not None
    (folder / "20.jpg").unlink()
    blocks = images.blocks(8)
    assert [len(next(blocks)) for _ in range(2)] == [8, 8]
    with pytest.raises(DataError, match=r"'20.jpg'"):
        next(blocks)
    assert next(blocks, None) is None


def test_images_in_memory_are_resized_when_they_are_read() -> None:
    from oodbench.benchmark.data.files.native.open_split import wrapped

    stored = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    images = wrapped(ImageSet(stored), VIEW)
    resize = transforms.Compose([transforms.Resize(24, InterpolationMode.BICUBIC), transforms.CenterCrop(20)])
    expected = [np.asarray(resize(Image.fromarray(image.transpose(1, 2, 0)))).transpose(2, 0, 1) for image in stored]
    assert np.array_equal(pixels(images), np.stack(expected))
    assert np.array_equal(images.small, stored)
    assert images.checksum != ImageSet(stored).checksum
