"""A file-based set has the channels that its images are stored in: one if all are grey, three if one is in colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.files.image_tree import ImageTree, Joined
from oodbench.benchmark.data.files.parquet import Parquet
from oodbench.benchmark.data.files.pixels import Fit, decode
from oodbench.benchmark.data.files.user_folder import adopt
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plugins.specs import parse_set
from tests.data.trees import as_folder, as_tar, as_zip
from tests.support import bench, encode_image, noise_images

PIXELS = noise_images(4, shape=(32, 32))
"""Grey images, uint8 (4, 32, 32)."""

Packer = Callable[[Path, Mapping[str, bytes]], Path]


def stored(pixels: np.ndarray, mode: str = "L") -> bytes:
    image = Image.fromarray(pixels)
    if mode == "LA":
        image.putalpha(255)
    return encode_image(image.convert(mode))


def members(modes: str) -> dict[str, bytes]:
    """One image per mode, such as 'L RGB'."""
    return {f"{k}.png": stored(PIXELS[k], mode) for k, mode in enumerate(modes.split())}


@pytest.mark.parametrize(("packer", "suffix"), [(as_folder, ""), (as_zip, ".zip"), (as_tar, ".tar")])
@pytest.mark.parametrize(
    ("modes", "channels"), [("L L L", 1), ("L LA L", 1), ("RGB RGB", 3), ("L RGB L", 3), ("P L", 3)]
)
def test_one_image_in_colour_makes_a_colour_set(
    tmp_path: Path, packer: Packer, suffix: str, modes: str, channels: int
) -> None:
    content = members(modes)
    path = packer(tmp_path / f"mine{suffix}", content)
    images = Library(tmp_path).split(adopt(parse_set(f"folder:{path}")), "test").images
    assert images.shape == (len(content), channels, 32, 32)
    for image, pixels in zip(images, PIXELS, strict=False):
        assert all(np.array_equal(plane, pixels) for plane in image)


def test_an_image_that_cannot_be_used_does_not_count(tmp_path: Path) -> None:
    content = {**members("L L"), "bad.png": b"no image"}
    path = as_folder(tmp_path / "mine", content)
    images = Library(tmp_path, skip_bad=True).split(adopt(parse_set(f"folder:{path}")), "test").images
    assert images.shape == (2, 1, 32, 32)


def test_a_parquet_file_of_grey_images_is_a_grey_set(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, modes, channels in (("grey", "L L", 1), ("mixed", "L RGB", 3)):
        rows = [{"bytes": data, "path": None} for data in members(modes).values()]
        pq.write_table(pa.table({"image": rows}), tmp_path / f"{name}.parquet")
        images = Parquet(()).read([tmp_path / f"{name}.parquet"]).images
        assert images.shape == (2, channels, 32, 32)
        assert np.array_equal(images[:, 0], PIXELS[:2])


def test_joined_files_have_three_channels_if_one_of_them_has(tmp_path: Path) -> None:
    grey, colour = (as_zip(tmp_path / f"{m}.zip", members(f"{m} {m}")) for m in ("L", "RGB"))
    part = (ImageTree(), 0, None)
    assert Joined((part, part)).read([grey, grey]).images.shape == (4, 1, 32, 32)
    mixed = Joined((part, part)).read([grey, colour]).images
    assert np.array_equal(mixed, np.concatenate([PIXELS[:2]] * 2)[:, None].repeat(3, axis=1))


@pytest.mark.parametrize("how", ["squeeze", "crop", "cut"])
@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_is_resized_as_each_channel_of_colour(mode: str, how: str) -> None:
    image = Image.fromarray(noise_images(1, shape=(45, 60))[0])
    if mode == "LA":
        image.putalpha(255)
    image = image.convert(mode)
    fit = Fit(how=how)  # type: ignore[arg-type]
    grey, found = decode(encode_image(image), fit)
    colour, _ = decode(encode_image(image.convert("L").convert("RGB")), fit)
    assert (grey.shape, found) == ((1, 32, 32), mode)
    assert all(np.array_equal(plane, grey[0]) for plane in colour)


def test_a_grey_jpeg_is_grey() -> None:
    out = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(out, "JPEG", quality=100)
    assert decode(out.getvalue(), Fit())[0].shape == (1, 32, 32)


def test_a_grey_folder_can_be_an_id_set_and_a_copy_in_colour_is_refused(tmp_path: Path) -> None:
    pixels = noise_images(60, 3, (32, 32))
    own = {f"{s}/{'ab'[k % 2]}/{k}.png": stored(pixels[k]) for k in range(60) for s in [("train", "test")[k > 39]]}
    as_folder(tmp_path / "grey", own)
    as_folder(tmp_path / "copy", {f"{k}.png": stored(pixels[k], "RGB") for k in range(40, 60)})
    options = ["--detectors", "msp", "--results", tmp_path / "results", "--threads", 1, "--epochs", 1]
    given = ["run", "--id", f"folder:{tmp_path / 'grey'}", "--backbone", "small_cnn[width=2,hidden=4]", *options]
    refused = bench(*given, "--ood", f"folder:{tmp_path / 'copy'}")
    assert refused.exit_code == 2
    assert "20 of 20 test images of 'folder:copy' are test images of 'folder:grey'" in refused.output
    others = noise_images(20, 9, (32, 32))
    as_folder(tmp_path / "other", {f"{k}.png": stored(image, "RGB") for k, image in enumerate(others)})
    done = bench(*given, "--ood", f"folder:{tmp_path / 'other'}")
    assert done.exit_code == 0, done.output
    assert "as their luma (ITU-R 601): folder:other for folder:grey." in " ".join(done.output.split())
