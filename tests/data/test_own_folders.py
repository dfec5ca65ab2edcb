"""Folders of images as people have them: what is used, and what is skipped, counted and named."""

from __future__ import annotations

import os
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.files.listing import LISTING_VERSION, Listing, list_images
from oodbench.benchmark.data.files.own_images import OwnImages, open_own
from oodbench.benchmark.data.files.pixels import Fit, decode
from oodbench.benchmark.data.files.tree import Folder, Limits
from oodbench.benchmark.data.files.user_folder import adopt
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import DataError, OodbenchError, UserError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from tests.data.trees import as_folder, as_tar, as_zip
from tests.support import bench, encode_image

PACKERS: dict[str, Callable[[Path, Mapping[str, bytes]], Path]] = {
    "": as_folder,
    ".zip": as_zip,
    ".tar": as_tar,
    ".tar.gz": as_tar,
    ".tar.bz2": as_tar,
    ".tar.xz": as_tar,
}


def pixels(seed: int, channels: int = 3, kind: type = np.uint8) -> np.ndarray:
    values = np.random.RandomState(seed).randint(0, np.iinfo(kind).max, (32, 32, channels))
    return values.astype(kind).squeeze()


def png(seed: int) -> bytes:
    return encode_image(pixels(seed))


def tree(*names: str) -> dict[str, bytes]:
    """A different image under every name."""
    return {name: png(seed) for seed, name in enumerate(names)}


LABELLED = tuple(f"{split}/{c}/{k}.png" for split in ("train", "test") for c in ("cat", "dog") for k in range(2))


def listed(path: Path) -> Listing:
    return list_images(open_own(path))


def used(path: Path, split: str = "test") -> list[str]:
    members = open_own(path).members
    return [members[entry.position].name for entry in listed(path).splits[split]]


def skipped(path: Path) -> dict[str, str]:
    return dict(listed(path).left_out)


def opened(path: Path, split: str = "test", cache: Path | None = None, skip_bad: bool = False) -> tuple[ImageSet, str]:
    """The images of `folder:PATH`, and the notes on them in one text."""
    library = Library(path.parent, cache, skip_bad)
    return library.split(adopted(path), split), "\n".join(library.notes)


def adopted(path: Path) -> SetSpec:
    return adopt(parse_set(f"folder:{path}"))


def first_pixels(images: ImageSet) -> list[int]:
    return [int(image[0, 0, 0]) for image in images.images]


# Files that are no images


STRAYS = {
    "notes.txt": "not an image",
    "a/classes.txt": "not an image",
    "LICENSE": "not an image",
    "labels.csv": "not an image",
    "a/old.zip": "not an image",
    "IMG_1.HEIC": "in a format that is not read",
    "a/raw.NEF": "in a format that is not read",
    "@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg": "thumbnails",
    "Thumbs.db": "thumbnails",
    "a/thumbs.DB": "thumbnails",
    ".thumbnails/1.png": "hidden",
    "#recycle/1.png": "in a recycle bin",
    "$RECYCLE.BIN/S-1-5/1.png": "in a recycle bin",
    ".Trash-1000/files/1.png": "in a recycle bin",
    ".Trashes/1.png": "in a recycle bin",
    ".DS_Store": "hidden",
    "a/.ipynb_checkpoints/1.png": "hidden",
    "a/._1.png": "file information of macOS",
    "__MACOSX/a/._1.png": "file information of macOS",
    "desktop.ini": "of the operating system",
    "System Volume Information/1.png": "of the operating system",
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_what_is_no_image_is_skipped_counted_and_named(tmp_path: Path, suffix: str) -> None:
    images = tree("a/1.png", "a/2.PNG", "b/c/3.png")
    strays = {name: png(99) for name in STRAYS}
    path = PACKERS[suffix](tmp_path / f"photos{suffix}", {**strays, **images})
    assert used(path) == sorted(images)
    assert skipped(path) == STRAYS
    found, notes = opened(path)
    clean, clean_notes = opened(PACKERS[suffix](tmp_path / f"clean{suffix}", images))
    assert found.checksum == clean.checksum
    assert f"folder:photos: {len(STRAYS)} of {len(STRAYS) + 3} files skipped: " in notes
    assert "not an image (5: LICENSE, a/classes.txt, a/old.zip, ...)" in notes
    assert "hidden (3: .DS_Store, .thumbnails/1.png, a/.ipynb_checkpoints/1.png)" in notes
    assert "skipped" not in clean_notes


def test_a_stray_file_changes_neither_order_nor_identity(tmp_path: Path) -> None:
    """Files of the system may come and go; a new image makes it another set."""
    path = as_folder(tmp_path / "photos", tree("b.png", "a.png"))
    library = Library(tmp_path)
    cache = library.files.cache
    before, files = opened(path)[0].checksum, cache.hash(path)
    as_folder(path, {".DS_Store": b"x", "@eaDir/a.png": png(9), "Thumbs.db": b"x"})
    assert opened(path)[0].checksum == before
    assert cache.hash(path) == files
    as_folder(path, {"notes.txt": b"x"})
    assert opened(path)[0].checksum == before
    as_folder(path, {"c.png": png(9)})
    assert opened(path)[0].checksum != before


@pytest.mark.parametrize(
    "members, expected",
    [
        ({}, "contains no files; expected images, such as IMAGE.png, or train/CLASS/IMAGE.png and"),
        (
            {"notes.txt": b"x", "#recycle/a.png": b"x"},
            r"among 2 files: in a recycle bin \(1: #recycle/a.png\), not an image \(1: notes.txt\)\.",
        ),
    ],
    ids=["empty", "strays only"],
)
def test_a_folder_without_images_is_refused_with_the_reasons(
    tmp_path: Path, members: dict[str, bytes], expected: str
) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match=expected):
        adopted(as_folder(tmp_path / "photos", members))


def test_many_reasons_are_cut_short(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "photos", {**tree("1.png"), **{f"{k}.txt": b"" for k in range(500)}})
    _, notes = opened(path)
    assert "500 of 501 files skipped: not an image (500: 0.txt, 1.txt, 10.txt, ...)." in notes


# Images that are not as they should be


def animated(form: str) -> bytes:
    return encode_image(Image.fromarray(pixels(1)), form, save_all=True, append_images=[Image.fromarray(pixels(2))])


def ppm16() -> bytes:
    return b"P6 32 32 65535\n" + bytes(32 * 32 * 6)


UNUSABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "transparent.png": (lambda: encode_image(pixels(1, 4)), "has transparent pixels"),
    "deep.png": (lambda: encode_image(pixels(1, 1, np.uint16)), "has more than 8 bits a channel"),
    "deep.tif": (lambda: encode_image(pixels(1, 1, np.uint16), "TIFF"), "has more than 8 bits a channel"),
    "deep.ppm": (ppm16, "has more than 8 bits a channel"),
    "moving.gif": (lambda: animated("GIF"), "has several frames"),
    "moving.webp": (lambda: animated("WEBP"), "has several frames"),
    "pages.tiff": (lambda: animated("TIFF"), "has several frames"),
    "phone.jpg": (lambda: b"\0\0\0\x18ftypheic" + bytes(40), "is HEIC, which is not read"),
    "film.jpg": (lambda: b"\0\0\0\x18ftypmp42" + bytes(40), "is a film, which is not read"),
    "drawing.png": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is SVG, which is not read"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_image_that_cannot_be_used_is_skipped_and_counted(tmp_path: Path, name: str) -> None:
    make, reason = UNUSABLE[name]
    path = as_folder(tmp_path / "photos", {**tree("a.png", "z.png"), name: make()})
    expected = [int(pixels(seed)[0, 0, 0]) for seed in (0, 1)]
    for _ in range(2):  # decoded, then from the cache
        images, notes = opened(path, cache=tmp_path / "cache")
        assert first_pixels(images) == expected
        assert f"folder:photos (test): 1 of 3 images skipped: {reason} (1: {name})." in notes


DAMAGED: dict[str, tuple[bytes, str]] = {
    "cut.png": (png(5)[:-40], "cannot be decoded"),
    "empty.jpg": (b"", "is empty"),
    "page.jpg": (b"<html>not found</html>", "is no image in a known format"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_images_are_refused_unless_they_may_be_skipped(tmp_path: Path, name: str) -> None:
    content, reason = DAMAGED[name]
    path = as_folder(tmp_path / "photos", {**tree("a.png"), name: content})
    with pytest.raises(DataError, match=rf"\(test\) has 1 image that is damaged: {name} in photos {reason}"):
        opened(path, cache=tmp_path / "cache")
    images, notes = opened(path, cache=tmp_path / "cache", skip_bad=True)
    assert len(images) == 1
    assert f"1 of 2 images could not be used and were left out: {name} in photos {reason}" in notes


def test_the_first_five_damaged_images_are_named_and_all_are_counted(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "photos", {**tree("a.png"), **{f"{k}.png": b"" for k in range(8)}})
    with pytest.raises(DataError) as caught:
        opened(path)
    message = str(caught.value)
    assert message.startswith("'folder:photos' (test) has 8 images that are damaged: 0.png in photos is empty; ")
    assert "4.png in photos is empty; and 3 more. Replace or remove them, or leave damaged images out with" in message
    assert "5.png" not in message


def test_a_set_of_which_nothing_remains_is_refused_with_the_reasons(tmp_path: Path) -> None:
    clear = encode_image(pixels(1, 4))
    path = as_folder(tmp_path / "photos", {"a.png": clear, "b.png": clear, "c.gif": animated("GIF"), "d.png": b""})
    with pytest.raises(DataError) as caught:
        opened(path, skip_bad=True)
    assert str(caught.value) == (
        "None of the 4 images of 'folder:photos-test' can be used. The first: d.png in photos is empty. Not used: has "
        "transparent pixels (2: a.png, b.png), has several frames (1: c.gif)."
    )


# Images that are used


READ = {".tif": "TIFF", ".TIFF": "TIFF", ".gif": "GIF", ".JPG": "JPEG", ".jfif": "JPEG", ".pgm": "PPM", ".WebP": "WEBP"}


@pytest.mark.parametrize("suffix", READ)
def test_formats_and_upper_case_suffixes_are_read(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(pixels(1)).convert("L" if suffix in (".pgm", ".gif") else "RGB")
    content = encode_image(image, READ[suffix])
    images, notes = opened(as_folder(tmp_path / "photos", {f"a{suffix}": content}))
    with Image.open(next((tmp_path / "photos").iterdir())) as stored:
        expected = np.asarray(stored.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(np.broadcast_to(images.images[0], expected.shape), expected)
    assert "skipped" not in notes


def test_the_first_picture_of_a_phone_s_jpeg_is_used(tmp_path: Path) -> None:
    both = [Image.fromarray(pixels(seed)) for seed in (1, 2)]
    content = encode_image(both[0], "MPO", save_all=True, append_images=both[1:])
    images, notes = opened(as_folder(tmp_path / "photos", {"a.jpg": content, "b.jpg": content, "c.png": png(3)}))
    alone, _ = decode(encode_image(both[0], "JPEG"), Fit())
    assert np.array_equal(images.images[0], alone)
    assert "(test): of several pictures in one JPEG (MPO, as phones store them) the first is used: 2 of 3" in notes


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_exif_rotation_is_noted_and_not_applied(tmp_path: Path, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    turned, plain = (encode_image(pixels(1), form, **options, **more) for more in ({"exif": exif}, {}))
    suffix = form.lower()
    path = as_folder(tmp_path / "photos", {f"a.{suffix}": turned, f"b.{suffix}": plain})
    for _ in range(2):  # decoded, then from the cache
        images, notes = opened(path, cache=tmp_path / "cache")
        assert np.array_equal(images.images[0], images.images[1])
        assert "an EXIF rotation is not applied, as in torchvision, timm and OpenOOD: 1 of 2 images." in notes


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_no_error(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(20)
    path = as_folder(tmp_path / "photos", {"a.jpg": encode_image(pixels(1), "JPEG", exif=exif)})
    assert len(opened(path)[0]) == 1


def test_one_image_is_a_set(tmp_path: Path) -> None:
    path = as_folder(tmp_path, tree("cat.PNG")) / "cat.PNG"
    images, _ = opened(path)
    assert np.array_equal(images.images[0].transpose(1, 2, 0), pixels(0))
    assert adopted(path).name == "folder:cat.PNG"


@pytest.mark.parametrize("name", ["notes.txt", "photos.rar", "photos.7z"])
def test_a_file_that_is_neither_archive_nor_image_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"text")
    with pytest.raises(UserError, match=r"is not a folder, zip, tar or image\. Unpack it, or pack it as a zip\."):
        adopted(tmp_path / name)


def test_a_zip_needs_no_suffix(tmp_path: Path) -> None:
    assert used(as_zip(tmp_path / "photos.cbz", tree("a.png"))) == ["a.png"]


# Names in archives


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.bz2"])
@pytest.mark.parametrize("written", ["./{}", ".//{}", "pets/{}", "./data/pets/{}", "test/{}"])
def test_an_archive_may_hold_one_top_folder_or_names_with_a_dot(tmp_path: Path, suffix: str, written: str) -> None:
    plain = as_folder(tmp_path / "plain", tree(*LABELLED))
    members = {written.format(name): content for name, content in tree(*LABELLED).items()}
    path = PACKERS[suffix](tmp_path / f"pets{suffix}", {**members, "__MACOSX/x": b"", "readme.txt": b""})
    for split in ("train", "test"):
        images, expected = opened(path, split)[0], opened(plain, split)[0]
        assert images.checksum == expected.checksum
        assert images.classes == ("cat", "dog")


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_backslashes_in_an_archive_separate_folders(tmp_path: Path, suffix: str) -> None:
    members = {name.replace("/", "\\"): content for name, content in tree(*LABELLED).items()}
    path = PACKERS[suffix](tmp_path / f"pets{suffix}", {"train\\": b"", **members} if suffix == ".zip" else members)
    assert listed(path).classes == ("cat", "dog")
    assert used(path) == [name for name in LABELLED if name.startswith("test")]
    assert not skipped(path)


def test_one_name_written_in_two_ways_is_refused(tmp_path: Path) -> None:
    path = as_zip(tmp_path / "pets.zip", {"a/1.png": png(1), "a\\1.png": png(2)})
    with pytest.raises(DataError, match=r"contains 'a/1\.png' twice"):
        listed(path)


def test_an_unpacked_folder_may_hold_one_folder_too(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", {"preview.png": png(77), **tree(*(f"v2/{name}" for name in LABELLED))})
    assert listed(path).classes == ("cat", "dog")
    assert skipped(path) == {"preview.png": "not in train or test"}


# Links


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return as_folder(tmp_path / "photos", tree("a/1.png", "a/2.png", "pool/3.png"))


def test_links_within_the_folder_are_followed_and_count_once(photos: Path) -> None:
    (photos / "a/3.png").symlink_to("../pool/3.png")
    (photos / "b").symlink_to("a")
    assert used(photos) == ["a/1.png", "a/2.png", "pool/3.png"]
    again = dict.fromkeys(("a/3.png", "b/1.png", "b/2.png", "b/3.png"), "a link to an image that is used already")
    assert skipped(photos) == again


def test_linked_images_are_used_where_only_the_link_is_in_a_split(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", tree("pool/1.png", "pool/2.png", "dogs/3.png", "dogs/4.png"))
    for split, numbers in (("train", (1, 3)), ("test", (2, 4))):
        (path / split / "cat").mkdir(parents=True)
        (path / split / "cat" / f"{numbers[0]}.png").symlink_to(path / f"pool/{numbers[0]}.png")
        (path / split / "dog").mkdir()
        (path / split / "dog" / f"{numbers[1]}.png").symlink_to(f"../../dogs/{numbers[1]}.png")
    assert used(path) == ["test/cat/2.png", "test/dog/4.png"]
    assert first_pixels(opened(path)[0]) == [int(pixels(seed)[0, 0, 0]) for seed in (1, 3)]


def test_a_link_to_a_folder_with_a_class_is_followed(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", tree(*LABELLED, "more/cow-train/1.png", "more/cow-test/1.png"))
    for split in ("train", "test"):
        (path / split / "cow").symlink_to(f"../more/cow-{split}")
    assert listed(path).classes == ("cat", "cow", "dog")
    assert "test/cow/1.png" in used(path)


@pytest.mark.parametrize("target", ["../secret.png", "../elsewhere"])
def test_links_that_lead_out_are_refused(photos: Path, target: str) -> None:
    as_folder(photos.parent, {"secret.png": png(1), "elsewhere/1.png": png(2)})
    (photos / "a/x.png").symlink_to(f"../{target}")
    with pytest.raises(UserError, match=r"x\.png' is a link that leads out of the folder, to '.*'\. Replace it by"):
        adopted(photos)


@pytest.mark.parametrize(
    "link, target, reason",
    [
        ("a/self", ".", "a link to a folder that it is in"),
        ("a/up", "..", "a link to a folder that it is in"),
        ("a/round", "round", "a link to nothing"),
        ("gone.png", "nowhere.png", "a link to nothing"),
    ],
)
def test_loops_and_broken_links_are_skipped(photos: Path, link: str, target: str, reason: str) -> None:
    (photos / link).symlink_to(target)
    assert used(photos) == ["a/1.png", "a/2.png", "pool/3.png"]
    assert skipped(photos) == {link: reason}


def test_folders_that_link_to_each_other_end(photos: Path) -> None:
    (photos / "a/pool").symlink_to("../pool")
    (photos / "pool/a").symlink_to("../a")
    assert used(photos) == ["a/1.png", "a/2.png", "pool/3.png"]


def test_links_cannot_make_endless_files_of_few(tmp_path: Path) -> None:
    """Each folder links twice to the next: 2^24 files from one."""
    names = [f"f{k:02d}" for k in range(25)]
    as_folder(tmp_path / "photos", {f"{name}/x.txt": b"" for name in names})
    for one, other in pairwise(names):
        for link in "ab":
            (tmp_path / "photos" / one / link).symlink_to(f"../{other}")
    with pytest.raises(DataError, match="declares more than 1,000 files"):
        Folder(tmp_path / "photos", Limits(members=1000))


def test_an_image_exchanged_behind_a_linked_folder_is_noticed(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", tree("pool/.keep", *LABELLED))
    as_folder(path, {".real/1.png": png(50)})  # hidden, so that it is reached by the link alone
    (path / "test/cat/linked").symlink_to(path / ".real")
    cache = Library(tmp_path).files.cache
    before, files = opened(path)[0].checksum, cache.hash(path)
    (path / ".real/1.png").write_bytes(png(51))
    assert cache.hash(path) != files
    assert opened(path)[0].checksum != before


@pytest.fixture
def locked(photos: Path) -> Iterator[Path]:
    (photos / "a").chmod(0)
    yield photos
    (photos / "a").chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(locked: Path) -> None:
    with pytest.raises(UserError, match=r"a' cannot be read .*\. Check its permissions\."):
        adopted(locked)


# Splits


@pytest.mark.parametrize(
    "names, expected",
    [
        (
            ("train/cat/1.png", "train/dog/1.png"),
            "'folder:pets' has no test split, which an ID set needs: '{}' contains 'train', but neither test nor val; "
            "name 'train' itself to have a fifth of it as test split. Both need the same class folders: "
            "train/CLASS/IMAGE.",
        ),
        (
            ("test/cat/1.png", "test/dog/1.png"),
            "'classes:pets' has no train split, which an ID set needs: '{}' contains 'test', but no train. Add "
            "train/CLASS/IMAGE, give trained weights, or name that folder itself, which is then divided.",
        ),
        (
            ("val/cat/1.png", "val/dog/1.png"),
            "'classes:pets' has no train split, which an ID set needs: '{}' contains 'val', but no train.",
        ),
        (
            ("cat/1.png", "dog/1.png"),
            "'{}' has fewer than 3 images of 'cat', 'dog'; each class needs one to train, one to validate and one to "
            "test. Add some, or remove the class.",
        ),
        (
            ("1.png", "cat/1.png", "cat/2.png"),
            "'folder:pets' has no train split, which an ID set needs: '{}' contains neither train nor test. Both need "
            "the same class folders: train/CLASS/IMAGE.",
        ),
    ],
)
def test_what_an_id_set_lacks_is_said(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    path = as_folder(tmp_path / "pets", tree(*names))
    done = bench("run", "--id", f"folder:{path}", "--ood", "uniform", "--results", tmp_path / "results", "--dry-run")
    assert done.exit_code == 2
    assert expected.format(path) in done.output
    assert len(opened(path)[0]) == len(names)  # as an OOD set, all images count


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_validation_folder_stands_for_a_missing_test(tmp_path: Path, name: str) -> None:
    path = as_folder(tmp_path / "pets", tree(*(n.replace("test/", f"{name}/") for n in LABELLED)))
    images, notes = opened(path)
    assert len(images) == 4
    assert f"folder:pets: there is no test, so that the images in {name} are the test split." in notes
    assert not skipped(path)


def test_a_validation_folder_beside_test_is_counted_as_unused(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", tree(*LABELLED, "val/cat/1.png", "extra.png"))
    _, notes = opened(path)
    assert "2 of 10 files skipped: not in train or test (2: extra.png, val/cat/1.png)." in notes
    assert "no test" not in notes


@pytest.mark.parametrize("names", [("Train", "TEST"), ("training", "testing")])
def test_the_usual_names_of_splits_are_known(tmp_path: Path, names: tuple[str, str]) -> None:
    renamed = [n.replace("train/", f"{names[0]}/").replace("test/", f"{names[1]}/") for n in LABELLED]
    assert set(listed(as_folder(tmp_path / "pets", tree(*renamed))).splits) == {"train", "test"}


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", tree(*LABELLED, "training/cat/1.png"))
    with pytest.raises(UserError, match="contains 'train', 'training', and only one folder can be the train split"):
        adopted(path)


def test_images_without_a_class_are_skipped_and_counted(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", tree(*LABELLED, "train/stray.png", "test/stray.png"))
    assert skipped(path) == dict.fromkeys(("test/stray.png", "train/stray.png"), "in no class folder")
    images, notes = opened(path, "train")
    assert images.labels is not None
    assert list(images.labels) == [0, 0, 1, 1]
    assert "2 of 10 files skipped: in no class folder (2: test/stray.png, train/stray.png)." in notes


# Classes


def labelled(*classes: str, test: tuple[str, ...] = ()) -> dict[str, bytes]:
    both = {"train": classes, "test": test or classes}
    return tree(*(f"{split}/{name}/1.png" for split, names in both.items() for name in names))


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "digits", labelled(*map(str, range(12))))
    assert listed(path).classes == tuple(map(str, range(12)))
    images, notes = opened(path, "test")
    assert images.labels is not None
    names = [used(path)[row] for row in range(12)]
    assert [f"test/{label}/1.png" for label in images.labels] == names
    assert "classes are in the order of their numbers, as in timm; torchvision's ImageFolder has 10 before 2" in notes


@pytest.mark.parametrize(
    "classes",
    [("00", "01", "10", "02"), ("n01440764", "n01443537", "n02102040"), ("b", "B", "a"), ("1", "2a", "10")],
    ids=["zeros", "WNIDs", "case", "not all numbers"],
)
def test_other_classes_are_sorted_as_torchvision_sorts_them(tmp_path: Path, classes: tuple[str, ...]) -> None:
    path = as_folder(tmp_path / "pets", labelled(*classes))
    assert listed(path).classes == tuple(sorted(classes))
    assert not listed(path).remarks


@pytest.mark.parametrize("name", ["a\\b", "c:d", "caf\u00e9", "cat ", "T-shirt_top", "犬", 'say "x"', "*?"])
def test_class_folders_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = as_folder(tmp_path / "pets", labelled("zebra", name))
    assert set(listed(path).classes) == {"zebra", name}
    images, _ = opened(path, "train")
    assert len(images) == 2


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_encoded_differently_in_train_and_test(tmp_path: Path, forms: tuple[Any, Any]) -> None:
    names = [unicodedata.normalize(form, "caf\u00e9") for form in forms]
    path = as_folder(tmp_path / "bars", labelled("zebra", names[0], test=("zebra", names[1])))
    assert listed(path).classes == ("caf\u00e9", "zebra")
    images, _ = opened(path)
    assert images.labels is not None
    assert sorted(images.labels) == [0, 1]


def test_folders_that_differ_in_case_are_different_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test' has the class folder 'cat' and lacks 'Cat'"):
        adopted(as_folder(tmp_path / "pets", labelled("Cat", "dog", test=("cat", "dog"))))
    assert listed(as_folder(tmp_path / "more", labelled("Cat", "cat"))).classes == ("Cat", "cat")


def test_a_class_without_a_usable_training_image_is_refused(tmp_path: Path) -> None:
    members = labelled("cat", "dog", "cow")
    path = as_folder(tmp_path / "pets", {**members, "train/cow/1.png": encode_image(pixels(1, 4))})
    with pytest.raises(
        DataError, match=r"\(train\) has no usable image of 'cow'\. .* transparent pixels \(1: train/cow"
    ):
        opened(path, "train")
    assert len(opened(path)[0]) == 3


# Reading, and the commands


def test_the_reader_s_key_says_what_decides_the_pixels() -> None:
    assert repr(OwnImages("test", Fit(how="crop"))) == (
        f"OwnImages(split='test', fit={Fit(how='crop')!r}, version={LISTING_VERSION})"
    )


def test_data_list_shows_what_is_used_and_skipped(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", {**tree(*LABELLED), "notes.txt": b"", "a.heic": b""})
    done = bench("data", "list", f"folder:{path}", "--results", tmp_path / "results")
    assert done.exit_code == 0, done.output
    assert "folder:pets: 4 train and 4 test images of 2 classes." in done.output
    assert (
        "folder:pets: 2 of 10 files skipped: in a format that is not read (1: a.heic), not an image (1: notes.txt)."
        in done.output
    )
    shown = bench("show", f"folder:{path}", "--results", tmp_path / "results")
    assert shown.exit_code == 0, shown.output
    assert "folder:pets: 2 of 10 files skipped: in a format that is not read" in " ".join(shown.output.split())
    assert bench("data", "list", "folder:", "--results", tmp_path / "results").exit_code == 2


def test_hostile_names_are_still_refused(tmp_path: Path) -> None:
    for k, name in enumerate(("../a.png", "a\\..\\..\\b.png", "\\\\server\\a.png", "C:\\a.png", "/a.png")):
        path = tmp_path / f"{k}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, png(1))
        with pytest.raises(OodbenchError, match="a path that leads out of it"):
            listed(path)
