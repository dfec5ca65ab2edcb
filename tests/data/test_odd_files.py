"""Things among a user's images that are no readable files: each is left out and counted, the set is used."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.files.archives import open_tree
from oodbench.benchmark.data.files.listing import list_images
from oodbench.benchmark.data.files.own_images import decode_own, open_own
from oodbench.benchmark.data.files.pixels import BadImageError, Fit
from oodbench.benchmark.data.files.tree import Limits
from oodbench.benchmark.data.files.user_folder import adopt
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.plugins.specs import parse_set
from tests.data.trees import as_folder, as_tar
from tests.support import encode_image


def image(seed: int, form: str = "PNG") -> bytes:
    return encode_image(np.random.RandomState(seed).randint(0, 255, (32, 32, 3)).astype(np.uint8), form)


IMAGES = {"a/1.png": image(1), "a/2.png": image(2), "b/3.png": image(3)}


def use(path: Path) -> tuple[int, str]:
    """Number of images that `folder:PATH` gives, and the notes on them."""
    library = Library(path.parent)
    images = library.split(adopt(parse_set(f"folder:{path}")), "test")
    return len(images), "\n".join(library.notes)


def bind_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may have about 100 characters
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    path.symlink_to("pipe")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and sockets are files of Unix")
@pytest.mark.parametrize(
    "make, reasons",
    [
        (os.mkfifo, ["not a regular file (1: a/odd.png)"]),
        (bind_socket, ["not a regular file (1: a/odd.png)"]),
        (link_to_pipe, ["not a regular file (1: a/pipe)", "a link to what is not a regular file (1: a/odd.png)"]),
    ],
)
def test_a_pipe_or_socket_in_a_folder_is_skipped(
    tmp_path: Path, make: Callable[[Path], None], reasons: list[str]
) -> None:
    path = as_folder(tmp_path / "photos", IMAGES)
    make(path / "a/odd.png")
    count, notes = use(path)
    assert count == 3
    assert f"folder:photos: {len(reasons)} of {3 + len(reasons)} files skipped: " in notes
    assert all(reason in notes for reason in reasons)
    with pytest.raises(DataError, match="not a regular file"):
        open_tree(path)  # of a set with a card, every file counts


def zip_with(path: Path, name: str, content: str, mode: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in IMAGES.items():
            archive.writestr(member, data)
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content)
    return path


def tar_with(path: Path, name: str, kind: bytes, target: str = "") -> Path:
    as_tar(path, IMAGES)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return path


SYMLINK = stat.S_IFLNK | 0o777

IN_ARCHIVES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a link in a zip": (lambda p: zip_with(p / "photos.zip", "b/x.png", "../a/1.png", SYMLINK), "a link in an archive"),
    "a link in a tar": (
        lambda p: tar_with(p / "photos.tar", "b/x.png", tarfile.SYMTYPE, "../a/1.png"),
        "a link in an archive",
    ),
    "a hard link": (
        lambda p: tar_with(p / "photos.tar", "b/x.png", tarfile.LNKTYPE, "a/1.png"),
        "a link in an archive",
    ),
    "a pipe": (lambda p: tar_with(p / "photos.tar", "b/x.png", tarfile.FIFOTYPE), "not a regular file"),
    "a device": (lambda p: tar_with(p / "photos.tar", "b/x.png", tarfile.CHRTYPE), "not a regular file"),
}


@pytest.mark.parametrize("kind", IN_ARCHIVES)
def test_a_link_or_device_in_an_archive_is_skipped(tmp_path: Path, kind: str) -> None:
    make, reason = IN_ARCHIVES[kind]
    path = make(tmp_path)
    count, notes = use(path)
    assert count == 3
    assert f"folder:photos: 1 of 4 files skipped: {reason} (1: b/x.png)." in notes
    with pytest.raises(DataError, match="is a link"):
        open_tree(path)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret.png", "..\\..\\secret.png"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_links_that_lead_out_of_an_archive_are_refused(tmp_path: Path, suffix: str, target: str) -> None:
    if suffix == ".zip":
        path = zip_with(tmp_path / "photos.zip", "b/x.png", target, SYMLINK)
    else:
        path = tar_with(tmp_path / "photos.tar", "b/x.png", tarfile.SYMTYPE, target)
    with pytest.raises(UserError, match=r"x\.png' in '.*' is a link that leads out of it, to '.*'\. Pack the file"):
        use(path)


def test_an_encrypted_member_is_skipped(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "photos.zip", "b/x.png", "secret", 0o644)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag in the last entry of the directory
    path.write_bytes(content)
    assert use(path)[0] == 3
    assert list_images(open_own(path)).left_out == (("b/x.png", "encrypted"),)
    with pytest.raises(DataError, match="is encrypted"):
        open_tree(path)


def test_a_large_film_in_a_folder_does_not_refuse_the_photographs(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "photos", {**IMAGES, "film.mp4": bytes(5000)})
    assert len(open_tree(path, Limits(member_bytes=4000, total_bytes=8000), own=True).members) == 4


# Odd contents


def exif_of(content: bytes, exif: bytes) -> bytes:
    """A JPEG with EXIF data that may be anything."""
    with Image.open(io.BytesIO(content)) as picture:
        out = io.BytesIO()
        picture.save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # pytest sets warnings up for every test
@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40, b"nothing"],
)
def test_damaged_exif_data_do_not_matter(tmp_path: Path, exif: bytes) -> None:
    path = as_folder(tmp_path / "photos", {"1.jpg": exif_of(image(1), exif), "2.png": image(2)})
    count, notes = use(path)
    assert count == 2
    assert "skipped" not in notes
    assert "EXIF" not in notes


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_the_name_of_an_image_does_not_decide_its_format(tmp_path: Path, form: str) -> None:
    assert use(as_folder(tmp_path / "photos", {"1.jpg": image(1, form), "2.jpg": image(2, "JPEG")}))[0] == 2


def test_a_picture_of_one_pixel_is_used(tmp_path: Path) -> None:
    one = encode_image(np.full((1, 1, 3), 77, np.uint8), "PNG")
    assert use(as_folder(tmp_path / "photos", {"1.png": one, "2.png": image(2)}))[0] == 2
    assert (decode_own(one, Fit(how="crop"))[0] == 77).all()


def test_a_photograph_of_60_megapixels_is_read() -> None:
    """As large as those of today's cameras; one level of grey keeps its file small."""
    out = io.BytesIO()
    Image.new("L", (9504, 6336), 77).save(out, "PNG", compress_level=1)
    assert (decode_own(out.getvalue(), Fit(how="crop"))[0] == 77).all()


def test_more_pixels_than_the_limit_are_refused_by_the_header() -> None:
    with pytest.raises(BadImageError, match="declares 10000x8901 pixels, more than 89,000,000"):
        decode_own(b"P5 10000 8901 255\n", Fit(how="crop"))


# Rotation and size


TURNED = 6
"""EXIF orientation of a picture that is to be turned by 90 degrees clockwise."""


def turned(size: tuple[int, int] = (64, 64)) -> bytes:
    """A JPEG whose upper half is white, and whose EXIF data turn that half to the right."""
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), (0, 0, size[0], size[1] // 2))
    exif = Image.Exif()
    exif[0x0112] = TURNED
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif)
    return out.getvalue()


def use_with(path: Path, cache: Path | None = None, **view: object) -> tuple[np.ndarray, str, str]:
    """The pixels of `folder:PATH` in a run with some view, the set's checksum, and the notes on it."""
    library = Library(path.parent, cache, view=PictureView(**view))  # type: ignore[arg-type]
    images = library.split(adopt(parse_set(f"folder:{path}")), "test")
    return images.images[np.arange(len(images))], images.checksum, "\n".join(library.notes)


@pytest.mark.parametrize("size", [{}, {"preprocessing": Preprocessing(48, (48, 48))}])
def test_exif_applies_the_rotation_and_says_so(tmp_path: Path, size: dict[str, Preprocessing]) -> None:
    path = as_folder(tmp_path / "photos", {"1.jpg": turned(), "2.jpg": image(2, "JPEG")})
    cache = tmp_path / "cache"  # the same for both: keys must tell them apart
    as_stored, before, notes = use_with(path, cache, **size)
    upright, after, said = use_with(path, cache, **size, exif=True)
    top, right = np.s_[0, 0, :10, 10:-10], np.s_[0, 0, 10:-10, -10:]
    assert as_stored[top].min() > 200
    assert as_stored[0, 0, -10:, 10:-10].max() < 50
    assert upright[right].min() > 200
    assert upright[0, 0, 10:-10, :10].max() < 50
    assert (as_stored[1] == upright[1]).all()
    assert before != after
    assert "folder:photos (test): an EXIF rotation is not applied, as in torchvision, timm and OpenOOD: 1 of 2" in notes
    assert "folder:photos (test): the EXIF rotation is applied: 1 of 2 images." in said
    assert "not applied" not in said


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("size", [{}, {"preprocessing": Preprocessing(48, (48, 48))}])
def test_damaged_exif_data_are_no_rotation(tmp_path: Path, size: dict[str, Preprocessing]) -> None:
    content = exif_of(image(1), b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40)
    path = as_folder(tmp_path / "photos", {"1.jpg": content})
    assert (use_with(path, None, **size)[0] == use_with(path, None, **size, exif=True)[0]).all()


@pytest.mark.parametrize(
    "sides, warned", [([224, 300, 64], True), ([300, 32, 32], False), ([32, 32], False), ([63, 50], False)]
)
def test_photographs_that_are_shown_at_32x32_are_a_warning(tmp_path: Path, sides: list[int], warned: bool) -> None:
    """A network of 224 pixels once ran on them without a word."""
    pictures = {f"{k}.png": encode_image(np.full((side, side + k, 3), k, np.uint8)) for k, side in enumerate(sides)}
    path = as_folder(tmp_path / "photos", pictures)
    text = "Warning: 'folder:photos' is shown to networks at 32x32, although its pictures are larger. Give a size with"
    for _ in range(2):  # decoded, and from the cache
        notes = use_with(path, tmp_path / "cache")[2]
        assert (text in notes) == warned
        assert "larger than 32x32" not in notes
    assert text not in use_with(path, preprocessing=Preprocessing(64, (64, 64)))[2]
