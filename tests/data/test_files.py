"""Reading image files: formats, refused files and their messages, the cache, and a user's own folders."""

from __future__ import annotations

import gzip
import io
import json
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench.benchmark.data.files import cache as cache_module
from oodbench.benchmark.data.files.archives import open_tree
from oodbench.benchmark.data.files.cache import DataCache, file_hash
from oodbench.benchmark.data.files.file_dataset import FileDataset
from oodbench.benchmark.data.files.file_source import File, Source, tree_file
from oodbench.benchmark.data.files.idx import Idx
from oodbench.benchmark.data.files.image_tree import ImageTree, Joined
from oodbench.benchmark.data.files.parquet import Parquet
from oodbench.benchmark.data.files.pixels import BadImageError, Fit, decode, resized
from oodbench.benchmark.data.files.tree import Limits
from oodbench.benchmark.data.files.user_folder import adopt, adopted
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import DataError, OodbenchError, UserError
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.prune import prune
from tests.data.trees import as_folder, as_tar, as_zip
from tests.support import bench, encode_idx, encode_image, write_suite

CLASSES = ("cat", "dog")
Register = Callable[[str, type[Plugin]], None]


def picture(seed: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Image.Image:
    """An image of random values; `size` is (height, width)."""
    channels = {"RGB": (3,), "RGBA": (4,), "CMYK": (4,), "L": (), "LA": (2,)}[mode]
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (*size, *channels)).astype(np.uint8), mode)


def tree(count: int = 3, classes: tuple[str, ...] = CLASSES, first: int = 0) -> dict[str, bytes]:
    """CLASS/IMAGE.png, `count` images per class; the first of them is picture number `first`."""
    seeds = {f"{c}/{k:02d}.png": first + 10 * n + k for n, c in enumerate(classes) for k in range(count)}
    return {name: encode_image(picture(seed)) for name, seed in seeds.items()}


PACKERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "": as_folder,
    ".zip": as_zip,
    ".tar": as_tar,
    ".tar.gz": as_tar,
}


class Pets(FileDataset):
    """Two classes in a tree, with the number of images that the tests write."""

    splits = ("test",)
    classes = CLASSES
    sizes = {"test": 6}
    sources = {"test": (Source((tree_file("pets"),), ImageTree(CLASSES)),)}


@pytest.fixture
def pets(register: Register) -> str:
    register("pets", Pets)
    return "pets"


def load(
    folder: Path, cache: Path | None = None, skip_bad: bool = False, name: str = "pets"
) -> tuple[Library, np.ndarray]:
    library = Library(folder, cache, skip_bad)
    return library, library.split(parse_set(name), "test").images


def refusal(folder: Path, name: str = "pets") -> str:
    """The message with which a set is refused: one line that ends with a full stop."""
    with pytest.raises(DataError) as caught:
        load(folder, name=name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# Trees of images


@pytest.mark.parametrize("suffix", PACKERS)
def test_packing_does_not_change_how_a_tree_is_read(tmp_path: Path, pets: str, suffix: str) -> None:
    members = tree()
    shuffled = dict(reversed(members.items()))
    PACKERS[suffix](tmp_path / f"pets{suffix}", {**shuffled, ".hidden": b"x", "__MACOSX/cat/._00.png": b"x"})
    images = Library(tmp_path).split(parse_set(pets), "test")
    assert images.labels is not None
    assert list(images.labels) == [0, 0, 0, 1, 1, 1]
    for row, content in enumerate(members.values()):
        assert np.array_equal(images.images[row].transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(content))))


def test_a_folder_and_an_archive_of_the_same_name_are_an_error(tmp_path: Path, pets: str) -> None:
    as_folder(tmp_path / "pets", tree())
    as_zip(tmp_path / "pets.zip", tree())
    message = refusal(tmp_path)
    assert "pets.zip' and '" in message
    assert "Remove all but one" in message


def test_an_absent_set_says_which_file_to_put_where(tmp_path: Path, pets: str) -> None:
    message = refusal(tmp_path)
    assert message == (
        f"The test split of 'pets' is not in '{tmp_path}'. Put one of these there: pets.zip (or pets.tar, pets.tar.gz, "
        "pets) ('bench show pets' says how to get it)."
    )


BAD: dict[str, Callable[[], bytes]] = {
    "cut short": lambda: encode_image(picture(0))[:-40],
    "no image": lambda: b"<html>not found</html>",
    "empty": lambda: b"",
    "too large": lambda: encode_image(picture(0, (33, 32))),
    "transparent": lambda: encode_image(picture(0, mode="RGBA")),
    "16 bits grey": lambda: encode_image(Image.fromarray(np.full((32, 32), 40_000, np.uint16))),
    "16 bits a channel": lambda: png16(),
    "several frames": lambda: encode_image(
        picture(0), "WEBP", save_all=True, append_images=[picture(1)], lossless=True
    ),
    "huge": lambda: huge_png(),
}


def chunk(kind: bytes, data: bytes) -> bytes:
    import zlib

    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    import zlib

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def png16() -> bytes:
    return png(32, 32, 16, (b"\0" + bytes(32 * 6)) * 32)


def huge_png() -> bytes:
    return png(60_000, 60_000, 8, b"\0")


def test_a_folder_in_place_of_a_file(tmp_path: Path, register: Register) -> None:
    class Pair(FileDataset):
        splits = ("test",)
        classes = CLASSES
        sources = {"test": (Source((File(("images",)), File(("labels",))), Idx(2)),)}

    register("pair", Pair)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    assert "The test split of 'pair' cannot be read from '" in refusal(tmp_path, "pair")


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_image_is_an_error_unless_it_may_be_left_out(tmp_path: Path, pets: str, kind: str) -> None:
    as_zip(tmp_path / "pets.zip", {**tree(), "dog/01.png": BAD[kind]()})
    message = refusal(tmp_path)
    assert "'pets' (test) has images that cannot be used: dog/01.png in pets.zip " in message
    assert "--skip-bad-images" in message
    for _ in range(2):  # decoded, then from the cache
        library, images = load(tmp_path, tmp_path / "cache", skip_bad=True)
        assert len(images) == 5
        assert (
            "pets (test): 1 of 6 images could not be used and were left out: dog/01.png in pets.zip" in library.notes[0]
        )
    with pytest.raises(DataError, match=r"has images that cannot be used: dog/01\.png"):
        load(tmp_path, tmp_path / "cache")


def test_several_bad_images_are_counted(tmp_path: Path, pets: str) -> None:
    as_zip(tmp_path / "pets.zip", {**tree(), "cat/00.png": b"", "dog/02.png": b"", "dog/notes.txt": b"hello"})
    assert "cat/00.png in pets.zip is no image in a known format, and 2 more" in refusal(tmp_path)


def test_a_set_of_bad_images_only_is_refused(tmp_path: Path, pets: str) -> None:
    as_zip(tmp_path / "pets.zip", dict.fromkeys(tree(), b""))
    with pytest.raises(DataError, match="None of the 6 images of 'pets-test' can be used"):
        load(tmp_path, skip_bad=True)


@pytest.mark.parametrize(
    "members, expected",
    [
        ({}, "contains no files; expected CLASS/IMAGE"),
        ({"x.png": b""}, "images that are in no class folder"),
        (
            tree(classes=("cat", "cow")),
            "has the class folder 'cow' and lacks 'dog'; expected the 2 classes 'cat', 'dog'",
        ),
        (tree(classes=("cat",)), "lacks 'dog'"),
        ({**tree(), "../evil.png": b""}, "a path that leads out of it"),
        ({**tree(), "/evil.png": b""}, "a path that leads out of it"),
        ({**tree(), "C:/evil.png": b""}, "a path that leads out of it"),
        ({**tree(), "cat\\..\\..\\evil.png": b""}, "a path that leads out of it"),
    ],
    ids=["empty", "flat", "another class", "a class missing", "parent", "root", "drive", "backslash"],
)
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_an_unsuitable_archive_is_refused(
    tmp_path: Path, pets: str, suffix: str, members: dict[str, bytes], expected: str
) -> None:
    PACKERS[suffix](tmp_path / f"pets{suffix}", members)
    assert expected in refusal(tmp_path)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_damaged_archive_is_refused(tmp_path: Path, pets: str, suffix: str, damage: str) -> None:
    path = PACKERS[suffix](tmp_path / f"pets{suffix}", tree(20))
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"<html></html>" * 99, "cut": content[: len(content) // 2]}[damage])
    assert "pets" in refusal(tmp_path)


def test_damage_inside_a_zip_is_found_by_its_checksum(tmp_path: Path, pets: str) -> None:
    path = as_zip(tmp_path / "pets.zip", tree())
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert "cat/00.png' in '" in refusal(tmp_path)


def link_in_zip(path: Path) -> None:
    as_zip(path / "pets.zip", tree())
    info = zipfile.ZipInfo("cat/link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path / "pets.zip", "a") as archive:
        archive.writestr(info, "/etc/passwd")


def link_in_tar(path: Path) -> None:
    with tarfile.open(path / "pets.tar", "w") as archive:
        info = tarfile.TarInfo("cat/link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)


def link_in_folder(path: Path) -> None:
    as_folder(path / "pets", tree())
    (path / "pets" / "cat" / "link.png").symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [link_in_zip, link_in_tar, link_in_folder])
def test_links_are_refused(tmp_path: Path, pets: str, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    assert "link" in refusal(tmp_path)


def test_a_duplicate_member_is_refused(tmp_path: Path, pets: str) -> None:
    path = as_zip(tmp_path / "pets.zip", {"cat/00.png": b"x", "cat/01.png": b"x"})
    path.write_bytes(path.read_bytes().replace(b"cat/01.png", b"cat/00.png"))
    assert "'cat/00.png' twice" in refusal(tmp_path)


@pytest.mark.parametrize(
    "limits, expected",
    [
        (Limits(member_bytes=100), "bytes, more than the limit of 100. It was not read."),
        (Limits(total_bytes=100), "declares more than 5,000,000 files or 100 bytes. It was not read."),
        (Limits(members=5), "declares more than 5 files or "),
    ],
    ids=["one member", "all members", "number of members"],
)
def test_declared_sizes_are_limited(tmp_path: Path, limits: Limits, expected: str) -> None:
    path = as_zip(tmp_path / "pets.zip", tree())
    assert len(open_tree(path).members) == 6
    with pytest.raises(DataError) as caught:
        open_tree(path, limits)
    assert expected in str(caught.value)
    assert str(caught.value).endswith("It was not read.")


def test_numbered_files_are_in_their_original_order(tmp_path: Path) -> None:
    members = {f"{'dog' if k % 3 else 'cat'}/{k}.png": encode_image(picture(k)) for k in (9, 10, 2, 100)}
    found = ImageTree(CLASSES, numbered=True, group=2).read([as_zip(tmp_path / "pets.zip", members)])
    assert found.labels is not None
    assert list(found.labels) == [1, 0, 1, 1]  # 2, 9, 10, 100
    assert found.groups is not None
    assert list(found.groups) == [0, 0, 1, 1]
    with pytest.raises(DataError, match="not named after its position"):
        ImageTree(CLASSES, numbered=True).read([as_zip(tmp_path / "other.zip", {**tree(), "cat/x.png": b""})])


def test_joined_files_keep_their_rows_groups_and_bad_images(tmp_path: Path) -> None:
    part = ImageTree(CLASSES, numbered=True, group=2)
    names = [f"{CLASSES[k % 2]}/{k}.png" for k in range(6)]
    one = as_zip(tmp_path / "one.zip", {name: encode_image(picture(k)) for k, name in enumerate(names)})
    two = as_zip(
        tmp_path / "two.zip", {n: encode_image(picture(9 + k)) if k != 4 else b"" for k, n in enumerate(names)}
    )
    found = Joined(((part, 0, None), (part, 3, None))).read([one, two])
    assert len(found.images) == 9
    assert found.groups is not None
    assert list(found.groups) == [0, 0, 1, 1, 2, 2, 4, 5, 5]
    assert list(found.bad) == [7]
    assert np.array_equal(found.images[8], decode(encode_image(picture(9 + 5)), Fit())[0])


# Single images


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "LA"])
def test_other_modes_are_converted(mode: str) -> None:
    image = picture(3, mode=mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(255)
    pixels, found = decode(encode_image(image, "JPEG", quality=100) if mode == "CMYK" else encode_image(image), Fit())
    assert found == mode
    assert pixels.shape == (1 if mode in ("L", "LA") else 3, 32, 32)
    if mode in ("L", "LA"):
        assert np.array_equal(pixels[0], np.asarray(image.getchannel(0)))


def test_palette_images_are_converted() -> None:
    image = picture(3).quantize(16)
    pixels, mode = decode(encode_image(image), Fit())
    assert mode == "P"
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(image.convert("RGB")))


def test_resizing_is_antialiased_bilinear() -> None:
    image = picture(5, (64, 96))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None].double(),
        (32, 32),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0]
    pixels, _ = decode(encode_image(image), Fit())
    assert np.abs(pixels - expected.numpy()).max() <= 1.01  # Pillow rounds twice


def test_centre_square_and_centre_cut() -> None:
    image = picture(6, (40, 64))
    square = image.crop((12, 0, 52, 40))
    assert np.array_equal(decode(encode_image(image), Fit(how="crop"))[0], decode(encode_image(square), Fit())[0])
    cut, _ = decode(encode_image(image), Fit(how="cut"))
    assert np.array_equal(cut.transpose(1, 2, 0), np.asarray(image)[4:36, 16:48])
    with pytest.raises(BadImageError, match="at least 32x32"):
        decode(encode_image(picture(0, (31, 40))), Fit(how="cut"))


def test_arrays_are_resized_as_files_are() -> None:
    grey, colour = picture(7, (28, 28), "L"), picture(8, (96, 96))
    assert np.array_equal(resized(np.asarray(grey)[None])[0], decode(encode_image(grey), Fit())[0])
    planes = np.asarray(colour).transpose(2, 0, 1)[None]
    assert np.array_equal(resized(planes)[0], decode(encode_image(colour), Fit())[0])


# Idx and parquet


def idx_files(folder: Path, images: np.ndarray, labels: np.ndarray) -> list[Path]:
    folder.mkdir(exist_ok=True)
    (folder / "images.gz").write_bytes(gzip.compress(encode_idx(images)))
    (folder / "labels").write_bytes(encode_idx(labels))
    return [folder / "images.gz", folder / "labels"]


GREY = np.random.RandomState(0).randint(0, 256, (5, 28, 28)).astype(np.uint8)
FIVE = np.array([0, 1, 2, 1, 0], np.uint8)


def test_idx_pair_gzipped_or_not(tmp_path: Path) -> None:
    found = Idx(3).read(idx_files(tmp_path, GREY, FIVE))
    assert np.array_equal(found.images, resized(GREY))
    assert found.labels is not None
    assert list(found.labels) == list(FIVE)
    turned = Idx(3, first_label=1, transposed=True).read(idx_files(tmp_path, GREY.transpose(0, 2, 1), FIVE + 1))
    assert np.array_equal(turned.images, found.images)
    assert turned.labels is not None
    assert list(turned.labels) == list(FIVE)


@pytest.mark.parametrize(
    "images, labels, expected",
    [
        (encode_idx(GREY), encode_idx(FIVE[:4]), "5 images but '.*' 4 labels"),
        (encode_idx(GREY), encode_idx(FIVE + 1), "labels from 1 to 3, expected 0 to 2"),
        (encode_idx(GREY)[:-1], encode_idx(FIVE), "declares 3,920 values but contains 3,919"),
        (encode_idx(GREY) + b"x", encode_idx(FIVE), "contains more"),
        (encode_idx(FIVE), encode_idx(FIVE), "begins with 00000801, expected 00000803"),
        (b"", encode_idx(FIVE), "begins with nothing"),
        (gzip.compress(encode_idx(GREY))[:-30], encode_idx(FIVE), "damaged or incomplete"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, encode_idx(FIVE), "at most"),
    ],
    ids=["counts", "labels", "cut", "longer", "labels for images", "empty", "gzip cut", "absurd"],
)
def test_unsuitable_idx_files_are_refused(tmp_path: Path, images: bytes, labels: bytes, expected: str) -> None:
    (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(labels)
    with pytest.raises(DataError, match=expected):
        Idx(3).read([tmp_path / "images", tmp_path / "labels"])


def parquet_file(path: Path, columns: Mapping[str, Any], names: list[str] | None = None) -> Path:
    pa = pytest.importorskip("pyarrow", reason="pip install 'oodbench[parquet]'")
    import pyarrow.parquet as pq

    table = pa.table(dict(columns))
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)
    return path


def cells(count: int = 4) -> list[dict[str, Any]]:
    return [{"bytes": encode_image(picture(k)), "path": None} for k in range(count)]


def test_parquet_in_the_format_of_the_hub(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "pets.parquet", {"img": cells(), "label": [1, 0, 0, 1]}, ["cat", "dog"])
    found = Parquet(CLASSES).read([path])
    assert found.labels is not None
    assert list(found.labels) == [1, 0, 0, 1]
    assert np.array_equal(found.images[2], decode(encode_image(picture(2)), Fit())[0])


@pytest.mark.parametrize(
    "columns, names, expected",
    [
        ({"pixels": [1, 2], "label": [0, 1]}, None, "has the columns 'pixels', 'label'; expected one named 'image'"),
        ({"image": [1, 2], "label": [0, 1]}, None, "contains no bytes"),
        ({"image": cells(2)}, None, "expected one named 'label'"),
        ({"image": cells(2), "label": [0, 2]}, None, "labels from 0 to 2, expected 0 to 1"),
        ({"image": cells(2), "label": [0, None]}, None, "expected integers"),
        (
            {"image": cells(2), "label": [0, 1]},
            ["dog", "cat"],
            "numbers the classes 'dog', 'cat'; expected 'cat', 'dog'",
        ),
    ],
    ids=["no image column", "no bytes", "no labels", "out of range", "null", "other order"],
)
def test_unsuitable_parquet_is_refused(tmp_path: Path, columns: Any, names: list[str] | None, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        Parquet(CLASSES).read([parquet_file(tmp_path / "pets.parquet", columns, names)])


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pip install 'oodbench[parquet]'")
    (tmp_path / "pets.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        Parquet(CLASSES).read([tmp_path / "pets.parquet"])


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'oodbench\[parquet\]'\.$"):
        Parquet(CLASSES).read([tmp_path / "pets.parquet"])


# The cache


@pytest.fixture
def a_minute_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough for their hashes to be stored."""
    monkeypatch.setattr(cache_module, "time", SimpleNamespace(time=lambda: time.time() + 60))


@pytest.mark.usefixtures("a_minute_later")
def test_files_are_hashed_and_decoded_once(tmp_path: Path, pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_zip(tmp_path / "pets.zip", tree())
    library, first = load(tmp_path, tmp_path / "cache")
    checksum = library.split(parse_set(pets), "test").checksum

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(ImageTree, "read", never)
    monkeypatch.setattr(cache_module, "file_hash", never)
    library, again = load(tmp_path, tmp_path / "cache")
    assert isinstance(again.base, np.memmap) or isinstance(again, np.memmap)
    assert np.array_equal(first, again)
    assert library.split(parse_set(pets), "test").__dict__["checksum"] == checksum
    assert library.sources == {
        "pets (test)": {str(tmp_path / "pets.zip"): library.files.cache.hash(tmp_path / "pets.zip")}
    }
    monkeypatch.setattr(cache_module, "file_hash", file_hash)  # renaming changes a file's change time
    (tmp_path / "pets.zip").rename(tmp_path / "other.zip")
    (tmp_path / "other.zip").rename(tmp_path / "pets.zip")
    load(tmp_path, tmp_path / "cache")
    monkeypatch.undo()


def test_the_stored_checksum_is_that_of_the_content(tmp_path: Path, pets: str) -> None:
    as_zip(tmp_path / "pets.zip", tree())
    load(tmp_path, tmp_path / "cache")
    library, _ = load(tmp_path, tmp_path / "cache")
    images = library.split(parse_set(pets), "test")
    fresh = Library(tmp_path).split(parse_set(pets), "test")
    del images.__dict__["checksum"]
    assert images.checksum == fresh.checksum


@pytest.mark.usefixtures("a_minute_later")
def test_a_replaced_file_is_decoded_again(tmp_path: Path, pets: str) -> None:
    as_zip(tmp_path / "pets.zip", tree())
    _, before = load(tmp_path, tmp_path / "cache")
    as_zip(tmp_path / "pets.zip", dict(zip(tree(), reversed(tree().values()), strict=True)))
    _, after = load(tmp_path, tmp_path / "cache")
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("damage", ["cut", "removed", "text", "side"])
def test_a_damaged_cache_entry_is_decoded_again(tmp_path: Path, pets: str, damage: str) -> None:
    as_zip(tmp_path / "pets.zip", tree())
    _, before = load(tmp_path, tmp_path / "cache")
    before = before.copy()
    array = next((tmp_path / "cache").glob("*.images.npy"))
    side = next((tmp_path / "cache").glob("pets-*.json"))
    if damage == "side":
        side.write_text("{")
    elif damage == "removed":
        array.unlink()
    else:
        array.write_bytes(array.read_bytes()[:5000] if damage == "cut" else b"text")
    _, after = load(tmp_path, tmp_path / "cache")
    assert np.array_equal(before, after)


def test_torch_accepts_cached_pixels_and_never_writes_to_the_file(tmp_path: Path, pets: str) -> None:
    as_zip(tmp_path / "pets.zip", tree())
    load(tmp_path, tmp_path / "cache")
    _, images = load(tmp_path, tmp_path / "cache")
    torch.from_numpy(images).zero_()
    _, again = load(tmp_path, tmp_path / "cache")
    assert again.any()


def test_checksums_of_subsets_are_cached(tmp_path: Path, pets: str) -> None:
    as_zip(tmp_path / "pets.zip", tree())
    load(tmp_path, tmp_path / "cache")
    subsets = [Library(tmp_path, tmp_path / "cache").split(parse_set("pets[1]+inverted"), "test") for _ in range(2)]
    assert subsets[0].checksum == subsets[1].__dict__["checksum"]
    stored = json.loads((tmp_path / "cache" / "checksums.json").read_text())
    assert list(stored.values()) == [subsets[0].checksum]
    del subsets[0].__dict__["checksum"]
    assert subsets[0].checksum == subsets[1].checksum


def test_pruning_keeps_decoded_images_whose_source_exists(tmp_path: Path, pets: str) -> None:
    as_zip(tmp_path / "pets.zip", tree())
    cache = tmp_path / "results" / "cache" / "data"
    load(tmp_path, cache)
    before = sorted(cache.iterdir())
    prune(tmp_path / "results")
    assert sorted(cache.iterdir()) == before
    (tmp_path / "pets.zip").unlink()
    prune(tmp_path / "results")
    assert not list(cache.glob("pets-*"))


def test_a_difference_from_the_card_is_noted(tmp_path: Path, register: Register) -> None:
    class Known(Pets):
        sources = {"test": (Source((tree_file("pets"),), ImageTree(CLASSES), checksum="0" * 64),)}

    class Published(Pets):
        sources = {"test": (Source((File(("pets.zip",), sha256="0" * 64),), ImageTree(CLASSES)),)}

    for name, plugin in (("pets", Pets), ("known", Known), ("published", Published)):
        register(name, plugin)
    as_zip(tmp_path / "pets.zip", tree(2))
    assert load(tmp_path)[0].notes == [
        "pets (test) is not what its card describes: 4 images in place of 6; it compares with no others."
    ]
    assert "in place of 000000000000" in load(tmp_path, name="known")[0].notes[0]
    as_zip(tmp_path / "pets.zip", tree())
    assert load(tmp_path)[0].notes == []
    assert "'pets.zip' is not the published file" in load(tmp_path, name="published")[0].notes[0]


def test_verification_finds_damaged_pixels(tmp_path: Path) -> None:
    cache = DataCache(tmp_path)
    path = as_zip(tmp_path / "pets.zip", tree())
    cache.find("pets", {"pets.zip": "0"}, ImageTree(CLASSES), CLASSES, lambda: ImageTree(CLASSES).read([path]))
    [(stem, side)] = cache.entries()
    assert cache.damaged(stem, side) == []
    array = next(tmp_path.glob("*.images.npy"))
    array.write_bytes(array.read_bytes()[:-1] + b"?")
    assert cache.damaged(stem, side) == [array]
    cache.drop(stem)
    assert cache.entries() == []


# folder:PATH


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_from_files", dict(registry._from_files))


def both_splits(count: int = 3, classes: tuple[str, ...] = CLASSES) -> dict[str, bytes]:
    """TRAIN|TEST/CLASS/IMAGE.png; the splits share no image."""
    trees = {"train": tree(count, classes), "test": tree(count, classes, first=1000)}
    return {f"{split}/{name}": content for split, members in trees.items() for name, content in members.items()}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.usefixtures("clean_registry")
def test_own_images_with_classes(tmp_path: Path, suffix: str) -> None:
    path = PACKERS[suffix](tmp_path / f"my pets{suffix}", both_splits())
    spec = adopt(parse_set(f"folder:{path}[0-1]+inverted"))
    assert str(spec) == "folder:my-pets[0-1]+inverted"
    assert parse_set(str(spec)) == spec
    assert adopt(spec) == spec
    library = Library(tmp_path)
    assert len(library.split(spec, "train")) == 6
    assert library.num_classes(spec) == 2
    assert "folder:my-pets: read from the user's own images" in library.notes[0]


@pytest.mark.usefixtures("clean_registry")
def test_own_images_without_classes(tmp_path: Path) -> None:
    path = as_folder(
        tmp_path / "photos", {"a/x.jpg": encode_image(picture(0, (50, 70)), "JPEG"), "y.png": encode_image(picture(1))}
    )
    spec = adopt(parse_set(f"folder:{path}"))
    images = Library(tmp_path).split(spec, "test")
    assert len(images) == 2
    assert images.labels is None
    with pytest.raises(DataError, match="has no train split"):
        Library(tmp_path).split(spec, "train")


@pytest.mark.parametrize(
    "members, expected",
    [
        ({**both_splits(), "test/cow/1.png": b""}, "test' has the class folder 'cow'; expected the 2 classes"),
        ({k: v for k, v in both_splits().items() if not k.startswith("test/dog")}, "test' lacks 'dog'"),
        ({"train/x.png": b"", "test/x.png": b""}, "train' has images in no class folder only; expected CLASS/IMAGE"),
        (both_splits(classes=("cat",)), "has one class, 'cat'; an ID set needs two"),
    ],
    ids=["another class", "a class missing", "flat", "one class"],
)
@pytest.mark.usefixtures("clean_registry")
def test_own_images_with_wrong_folders(tmp_path: Path, members: dict[str, bytes], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        adopt(parse_set(f"folder:{as_folder(tmp_path / 'mine', members)}"))


@pytest.mark.usefixtures("clean_registry")
def test_two_folders_of_the_same_name(tmp_path: Path) -> None:
    for place in ("a", "b"):
        as_folder(tmp_path / place / "mine", {"x.png": encode_image(picture(0))})
    folders = [tmp_path / place / "mine" for place in ("a", "b")]
    for _ in range(2):  # a path keeps its name
        assert [adopt(parse_set(f"folder:{path}")).name for path in folders] == ["folder:mine", "folder:b/mine"]
    as_folder(tmp_path / "x" / "b" / "mine", {"x.png": encode_image(picture(0))})
    name = adopt(parse_set(f"folder:{tmp_path / 'x' / 'b' / 'mine'}")).name
    assert name == "folder:x/b/mine"
    paths = [registry.get("dataset", name).path for name in ("folder:mine", "folder:b/mine", name)]
    assert paths == [*folders, tmp_path / "x" / "b" / "mine"]
    assert list(adopted()) == [f"folder:{path}" for path in paths]  # in the order in which other processes must adopt


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OodbenchError, match=r"does not exist\. Write folder:PATH"):
        adopt(parse_set(f"folder:{tmp_path / 'nowhere'}"))


MATRIX = '[[id]]\nset = "digits"\nood = [{ set = "uniform" }]'


@pytest.mark.usefixtures("clean_registry")
def test_run_on_own_images(tmp_path: Path) -> None:
    """From the command line to the table; an unreadable image is left out and counted."""
    suite = write_suite(tmp_path, MATRIX, training="epochs = 1\nbatch_size = 16")
    mine = as_folder(tmp_path / "mine", {**both_splits(20), "test/cat/99.png": b"broken"})
    photos = as_zip(tmp_path / "photos.zip", {f"{k}.png": encode_image(picture(k, (40, 48))) for k in range(30)})
    options = ["run", "--suite", suite, "--results", tmp_path / "results", "--detectors", "msp"]
    options += ["--id", f"folder:{mine}", "--ood", f"folder:{photos},uniform", "--threads", "1", "--quiet"]
    refused = bench(*options)
    assert refused.exit_code == 2
    assert "test/cat/99.png in mine is no image" in refused.output
    done = bench(*options, "--skip-bad-images")
    assert done.exit_code == 0, done.output
    assert "folder:photos" in done.output
    run = json.loads(next((tmp_path / "results" / "runs").glob("*/run.json")).read_text())
    assert any("1 of 41 images could not be used" in note for note in run["notes"])
    assert set(run["data"]) == {"folder:mine (train)", "folder:mine (test)", "folder:photos (test)"}


def test_open_tree_lists_in_stored_order(tmp_path: Path) -> None:
    members = dict(reversed(tree().items()))
    assert [m.name for m in open_tree(as_zip(tmp_path / "a.zip", members)).members] == list(members)
    assert [m.name for m in open_tree(as_tar(tmp_path / "a.tar.gz", members)).members] == list(members)


@pytest.mark.usefixtures("clean_registry")
def test_a_part_of_the_id_set_under_another_name_is_refused_as_ood_set(tmp_path: Path, register: Register) -> None:
    class Part(Pets):
        family = "digits"

    register("part", Part)
    as_zip(tmp_path / "pets.zip", tree())
    options = ["--suite", write_suite(tmp_path, MATRIX), "--results", tmp_path / "results"]
    done = bench("run", *options, "--data-dir", tmp_path, "--id", "digits", "--ood", "part")
    assert done.exit_code == 2
    assert "'part' cannot be an OOD set of 'digits': both sample one distribution" in done.output


@pytest.mark.usefixtures("clean_registry")
def test_an_ood_set_with_images_of_the_outliers_is_refused(tmp_path: Path, register: Register) -> None:
    class Both(FileDataset):
        classes = CLASSES
        sizes = {"train": 6, "test": 6}
        sources = {split: (Source((tree_file(f"pets-{split}"),), ImageTree(CLASSES)),) for split in ("train", "test")}

    class Part(Both):
        family = "pets"

    for name, plugin in (("pets", Both), ("part", Part)):
        register(name, plugin)
    as_zip(tmp_path / "pets-train.zip", tree())
    as_zip(
        tmp_path / "pets-test.zip",
        {**tree(), "cat/02.png": encode_image(picture(99)), "dog/02.png": encode_image(picture(98))},
    )
    suite = write_suite(tmp_path, MATRIX.replace("ood = [", 'outliers = "pets"\nood = ['))
    options = ["run", "--suite", suite, "--results", tmp_path / "results", "--dry-run"]
    options += ["--data-dir", tmp_path, "--detectors", "msp", "--ood"]
    refused = bench(*options, "part")
    assert refused.exit_code == 2
    assert "4 test images of 'part' are among the outliers 'pets' that training may see" in refused.output
    refused = bench(*options, "pets")
    assert refused.exit_code == 2
    assert "4 test images of 'pets' are among the outliers 'pets' that training may see" in refused.output
    library = Library(tmp_path)
    assert library.shared_images(parse_set("pets"), parse_set("part")) == 4
