"""The file-based data sets: their cards, and their readers on tiny synthetic files in each set's own format.

With OODBENCH_TEST_DATA=FOLDER, the tests at the end read the real files in FOLDER, under the names that the cards list.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.files.file_dataset import FileDataset
from oodbench.benchmark.data.files.inventory import to_fetch
from oodbench.benchmark.data.files.pixels import resized
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.lists import ListedDataset
from oodbench.benchmark.data.splits import carve_validation
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.datasets import gtsrb as gtsrb_module
from oodbench.datasets import svhn as svhn_module
from oodbench.datasets._svhn import NEIGHBOURS
from tests.support import encode_idx, encode_image


def cards() -> dict[str, FileDataset]:
    """Every file-based data set of oodbench, apart from those that are lists (`test_listed.py`)."""
    built_in = [e for e in registry.entries("dataset").values() if e.origin.startswith("oodbench.")]
    files = {e.name: e.load()() for e in built_in if issubclass(e.load(), FileDataset)}
    return {name: card for name, card in files.items() if not isinstance(card, ListedDataset)}


CARDS = cards()
NAMES = """
    cifar10 cifar100 svhn mnist fashion-mnist kmnist emnist-letters notmnist notmnist-small omniglot textures
    places365 stl10 gtsrb tinyimagenet lsun-resize lsun-crop tinyimagenet-resize tinyimagenet-crop isun
    fashion-mnist-halves kmnist-halves svhn-train-first4434 svhn-test-first10000 svhn-small textures-10of47
    tinyimagenet-resize-pillow tinyimagenet-resize-halves imagenette-sample textures-sample places-sample flowers-sample
""".split()  # noqa: SIM905


def test_all_sets_exist() -> None:
    assert sorted(CARDS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_card_is_complete(name: str) -> None:
    card = CARDS[name]
    assert card.title
    assert card.paper
    assert card.licence
    assert len(card.origin) > 40
    assert len(card.caveats) > 20
    assert set(card.sources) == set(card.sizes) == set(card.splits)
    assert all(card.sources[split] for split in card.splits)
    assert card.family in ("", *CARDS, "lsun", "notmnist", "imagenet1k")


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_set_says_which_file_to_put_where(name: str, tmp_path: Path) -> None:
    for split in CARDS[name].splits:
        with pytest.raises(DataError) as caught:
            Library(tmp_path).split(parse_set(name), split)
        message = str(caught.value)
        assert CARDS[name].sources[split][0].files[0].names[0] in message
        assert str(tmp_path) in message
        assert "\n" not in message


def test_no_two_sets_accept_the_same_file() -> None:
    """Compares the names that cards accept. Subsets share files with each other on purpose."""
    owners: dict[str, set[str]] = {}
    for name, card in CARDS.items():
        for split in card.splits:
            for source in card.sources[split]:
                for file in source.files:
                    for accepted in file.names:
                        owners.setdefault(accepted, set()).add(name)
    shared = {accepted: names for accepted, names in owners.items() if len(names) > 1}
    divided = ("svhn-t", "tiny-imagenet-resize-test")
    assert all(accepted.startswith(divided) or "t10k-" in accepted for accepted in shared), shared


def test_urls_and_checksums_are_those_of_torchvision() -> None:
    from torchvision import datasets as tv

    def published(name: str, split: str) -> list[tuple[str, str]]:
        return [(url, file.md5) for file in CARDS[name].sources[split][0].files for url in file.urls]

    for name, cls in (("mnist", tv.MNIST), ("fashion-mnist", tv.FashionMNIST), ("kmnist", tv.KMNIST)):
        expected = {(mirror + file, md5) for file, md5 in cls.resources for mirror in cls.mirrors}
        assert {*published(name, "train"), *published(name, "test")} == expected
    for split in ("train", "test"):
        url, _, md5 = tv.SVHN.split_list[split]
        assert published("svhn", split) == [(url, md5)]
        assert published("stl10", split) == [(tv.STL10.url, tv.STL10.tgz_md5)]
        assert published("emnist-letters", split) == [(tv.EMNIST.url, tv.EMNIST.md5)]
    for split, stem in (("train", "images_background"), ("test", "images_evaluation")):
        url = f"{tv.Omniglot.download_url_prefix}/{stem}.zip"
        assert published("omniglot", split) == [(url, tv.Omniglot.zips_md5[stem])]
    assert published("textures", "test") == [(tv.DTD._URL, tv.DTD._MD5)]
    file, md5 = tv.Places365._IMAGES_META["val", True]
    assert published("places365", "test") == [(tv.Places365._BASE_URL + file, md5)]
    assert list(CARDS["cifar10"].classes) == sorted(CARDS["cifar10"].classes)
    assert list(CARDS["kmnist"].classes) == tv.KMNIST.classes
    assert list(CARDS["fashion-mnist"].classes) == tv.FashionMNIST.classes


def test_gtsrb_urls_are_those_of_torchvision() -> None:
    import inspect

    from torchvision.datasets import GTSRB

    source = inspect.getsource(GTSRB.download)
    for split in ("train", "test"):
        for file in CARDS["gtsrb"].sources[split][0].files:
            assert gtsrb_module.URL in source
            assert file.names[0] in source
            assert file.md5 in source


def test_files_to_fetch(tmp_path: Path) -> None:
    assert [file.names[0] for file in to_fetch(CARDS["cifar10"], tmp_path)] == ["cifar-10-binary.tar.gz"]
    assert len(to_fetch(CARDS["mnist"], tmp_path)) == 4
    assert len(to_fetch(CARDS["gtsrb"], tmp_path)) == 3
    with pytest.raises(DataError, match="bench show notmnist"):
        to_fetch(CARDS["notmnist"], tmp_path)


# Tiny synthetic files in each set's format


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def zipped(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def tarred(path: Path, members: Mapping[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def split(folder: Path, name: str, part: str) -> tuple[np.ndarray, list[int] | None]:
    images = Library(folder).split(parse_set(name), part)
    assert images.images.dtype == np.uint8
    assert images.images.shape[1:] == (CARDS[name].channels, 32, 32)
    return images.images, None if images.labels is None else [int(label) for label in images.labels]


def test_cifar10_binary(tmp_path: Path) -> None:
    records = random(6 * 4, 3073)
    records[:, 0] = np.arange(24) % 10
    members = {f"cifar-10-batches-bin/data_batch_{k}.bin": records[4 * k - 4 : 4 * k].tobytes() for k in range(1, 6)}
    members["cifar-10-batches-bin/test_batch.bin"] = records[20:].tobytes()
    tarred(tmp_path / "cifar-10-binary.tar.gz", dict(reversed(members.items())))
    images, labels = split(tmp_path, "cifar10", "train")
    assert np.array_equal(images.reshape(20, -1), records[:20, 1:])
    assert labels == [k % 10 for k in range(20)]
    assert split(tmp_path, "cifar10", "test")[1] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "members, expected",
    [
        ({}, "lacks 'cifar-10-batches-bin/test_batch.bin'"),
        ({"cifar-10-batches-bin/test_batch.bin": bytes(3072)}, "3,072 bytes, expected a multiple of 3,073"),
        ({"cifar-10-batches-bin/test_batch.bin": b"\x0a" + bytes(3072)}, "labels from 10 to 10, expected 0 to 9"),
    ],
    ids=["no member", "cut", "label"],
)
def test_unsuitable_cifar10_archive(tmp_path: Path, members: dict[str, bytes], expected: str) -> None:
    tarred(tmp_path / "cifar-10-binary.tar.gz", members)
    with pytest.raises(DataError, match=expected):
        split(tmp_path, "cifar10", "test")


def test_cifar100_binary_takes_the_fine_label(tmp_path: Path) -> None:
    records = random(5, 3074)
    records[:, 0], records[:, 1] = 7, [99, 0, 5, 50, 98]
    tarred(tmp_path / "cifar-100-binary.tar.gz", {"cifar-100-binary/test.bin": records.tobytes()})
    images, labels = split(tmp_path, "cifar100", "test")
    assert labels == [99, 0, 5, 50, 98]
    assert np.array_equal(images.reshape(5, -1), records[:, 2:])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["png", "webp"])
def test_cifar_tree(tmp_path: Path, name: str, form: str) -> None:
    classes = CARDS[name].classes
    pixels = random(len(classes), 32, 32, 3)
    stored = {f"{c}/x.{form}": io.BytesIO() for c in classes}
    for image, out in zip(pixels, stored.values(), strict=True):
        Image.fromarray(image).save(out, form.upper(), **({"lossless": True} if form == "webp" else {}))
    zipped(tmp_path / f"{name}-test.zip", {path: out.getvalue() for path, out in stored.items()})
    images, labels = split(tmp_path, name, "test")
    assert labels == list(range(len(classes)))
    assert np.array_equal(images.transpose(0, 2, 3, 1), pixels)


def test_svhn_mat(tmp_path: Path) -> None:
    from scipy.io import savemat

    pixels, labels = random(32, 32, 3, 7), np.array([1, 9, 10, 2, 3, 10, 5], np.uint8)[:, None]
    savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": labels}, do_compression=True)
    images, found = split(tmp_path, "svhn", "test")
    assert found == [1, 9, 0, 2, 3, 0, 5]
    assert np.array_equal(images[3].transpose(1, 2, 0), pixels[..., 3])


def test_unsuitable_svhn_mat(tmp_path: Path) -> None:
    from scipy.io import savemat

    for content, expected in (
        ({"X": random(32, 32, 3, 7)}, "no y with 7 labels"),
        ({"X": random(28, 28, 3, 7), "y": random(7, 1)}, "no X of uint8"),
        ({"X": random(32, 32, 3, 2), "y": np.array([[1], [11]])}, "labels from 1 to 11"),
    ):
        savemat(tmp_path / "train_32x32.mat", content)
        with pytest.raises(DataError, match=expected):
            split(tmp_path, "svhn", "train")
    (tmp_path / "train_32x32.mat").write_bytes(b"no mat file")
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        split(tmp_path, "svhn", "train")


def numbered(path: Path, count: int, seed: int) -> np.ndarray:
    """Write DIGIT/INDEX.png, cycling through the digits, and return the pixels."""
    pixels = random(count, 32, 32, 3, seed=seed)
    planes: np.ndarray = pixels.transpose(0, 3, 1, 2)
    zipped(path, {f"{k % 10}/{k:05d}.png": encode_image(image) for k, image in enumerate(pixels)})
    return planes


@pytest.mark.slow
def test_subsets_of_svhn(tmp_path: Path) -> None:
    train = numbered(tmp_path / "svhn-train-first4434.zip", 120, 1)
    test = numbered(tmp_path / "svhn-test-first10000.zip", 8030, 2)
    assert np.array_equal(split(tmp_path, "svhn-train-first4434", "train")[0], train)
    assert np.array_equal(split(tmp_path, "svhn-test-first10000", "test")[0], test)
    library = Library(tmp_path)
    small = library.split(parse_set("svhn-small"), "train")
    assert np.array_equal(small.images, np.concatenate([train, test[:8000]]))
    assert np.array_equal(library.split(parse_set("svhn-small"), "test").images, test[8000:])
    assert any("svhn-small trains on" in note for note in library.notes)
    assert small.groups is not None
    sizes = np.bincount(small.groups)
    assert sizes.max() == NEIGHBOURS
    assert np.count_nonzero(np.diff(small.groups)) == len(sizes) - 1
    keep, held_out = carve_validation(small, "svhn-small")
    assert np.array_equal(held_out.images, test[8000 - len(held_out) : 8000])
    assert len(keep) + len(held_out) == len(small)
    assert svhn_module.CUT == 8000


def test_subsets_sample_the_same_distribution() -> None:
    library = Library(Path("/nowhere"))
    for one, other in (
        ("svhn", "svhn-small"),
        ("svhn-train-first4434", "svhn-test-first10000"),
        ("textures", "textures-10of47"),
        ("tinyimagenet-resize", "tinyimagenet-resize-pillow"),
        ("lsun-crop", "lsun-resize"),
        ("notmnist", "notmnist-small"),
    ):
        assert library.same_distribution(parse_set(one), parse_set(other))
    assert not library.same_distribution(parse_set("cifar10"), parse_set("cifar100"))


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_halves_of_a_test_split(tmp_path: Path, name: str) -> None:
    grey, labels = random(5003, 28, 28), random(5003) % 10
    (tmp_path / f"{name}-t10k-images-idx3-ubyte").write_bytes(encode_idx(grey))
    (tmp_path / f"{name}-t10k-labels-idx1-ubyte").write_bytes(encode_idx(labels))
    images, found = split(tmp_path, f"{name}-halves", "test")
    assert np.array_equal(images, resized(grey[5000:]))
    assert found == [int(label) for label in labels[5000:]]
    assert np.array_equal(split(tmp_path, f"{name}-halves", "train")[0], resized(grey[:5000]))
    assert Library(tmp_path).same_distribution(parse_set(name), parse_set(f"{name}-halves"))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "notmnist"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "gzipped"])
def test_idx_pairs(tmp_path: Path, name: str, plain: bool) -> None:
    grey, labels = random(12, 28, 28), np.arange(12, dtype=np.uint8) % 10
    for stem, raw in (("train", "train"), ("test", "t10k")):
        for what, array in (("images-idx3", grey), ("labels-idx1", labels)):
            path = tmp_path / f"{name}-{raw}-{what}-ubyte{'' if plain else '.gz'}"
            path.write_bytes(encode_idx(array) if plain else gzip.compress(encode_idx(array)))
        images, found = split(tmp_path, name, stem)
        assert found == [int(label) for label in labels]
        assert np.array_equal(images, resized(grey))


def test_idx_pairs_where_torchvision_stores_them(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte").write_bytes(encode_idx(random(3, 28, 28)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(encode_idx(random(3) % 10))
    assert len(split(tmp_path, "mnist", "test")[0]) == 3


def test_emnist_zip_and_pair(tmp_path: Path) -> None:
    grey, labels = random(5, 28, 28), np.array([1, 26, 3, 4, 5], np.uint8)
    stored = {"images-idx3": encode_idx(grey.transpose(0, 2, 1).copy()), "labels-idx1": encode_idx(labels)}
    members = {f"gzip/emnist-letters-test-{what}-ubyte.gz": gzip.compress(data) for what, data in stored.items()}
    zipped(tmp_path / "one" / "emnist-gzip.zip", members)
    (tmp_path / "two").mkdir()
    for what, data in stored.items():
        (tmp_path / "two" / f"emnist-letters-test-{what}-ubyte").write_bytes(data)
    for folder in ("one", "two"):
        images, found = split(tmp_path / folder, "emnist-letters", "test")
        assert found == [0, 25, 2, 3, 4]
        assert np.array_equal(images, resized(grey))
    with pytest.raises(DataError, match=r"lacks 'gzip/emnist-letters-train-images-idx3-ubyte\.gz'"):
        split(tmp_path / "one", "emnist-letters", "train")


def test_notmnist_small_leaves_out_its_two_unreadable_files(tmp_path: Path) -> None:
    members = {f"notMNIST_small/{c}/x.png": encode_image(random(28, 28, seed=k)) for k, c in enumerate("ABCDEFGHIJ")}
    members["notMNIST_small/A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png"] = b""
    members["notMNIST_small/F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png"] = b""
    tarred(tmp_path / "notMNIST_small.tar.gz", members)
    assert split(tmp_path, "notmnist-small", "test")[1] == list(range(10))


def test_omniglot_zip(tmp_path: Path) -> None:
    drawing = np.where(random(105, 105) > 128, 255, 0).astype(np.uint8)
    name = "images_evaluation/Angelic/character01/0965_01.png"
    out = io.BytesIO()
    Image.fromarray(drawing).convert("1").save(out, "PNG")
    zipped(tmp_path / "omniglot-py" / "images_evaluation.zip", {name: out.getvalue()})
    images, labels = split(tmp_path, "omniglot", "test")
    assert labels is None
    assert np.array_equal(images, resized(drawing[None]))


def test_textures_archive(tmp_path: Path) -> None:
    members = {
        f"dtd/images/{c}/{c}_0001.jpg": encode_image(random(60, 90, 3), "JPEG") for c in CARDS["textures"].classes
    }
    members.update({"dtd/labels/train1.txt": b"", "dtd/images/waffled/.directory": b"[Dolphin]"})
    tarred(tmp_path / "dtd-r1.0.1.tar.gz", members)
    assert split(tmp_path, "textures", "test")[1] == list(range(47))


def test_places365_archive(tmp_path: Path) -> None:
    members = {f"val_256/Places365_val_{k:08d}.jpg": encode_image(random(256, 256, 3, seed=k), "JPEG") for k in (1, 2)}
    tarred(tmp_path / "val_256.tar", members, "w")
    images, labels = split(tmp_path, "places365", "test")
    assert labels is None
    assert len(images) == 2


def test_stl10_archive(tmp_path: Path) -> None:
    pixels = random(4, 3, 96, 96)
    tarred(
        tmp_path / "stl10_binary.tar.gz",
        {
            "stl10_binary/test_X.bin": pixels.transpose(0, 1, 3, 2).tobytes(),
            "stl10_binary/test_y.bin": bytes([1, 10, 3, 4]),
            "stl10_binary/unlabeled_X.bin": bytes(1000),
        },
    )
    images, labels = split(tmp_path, "stl10", "test")
    assert labels == [0, 9, 2, 3]
    assert np.array_equal(images, resized(pixels))


def test_gtsrb_archives(tmp_path: Path) -> None:
    frames = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (42, 0, 0)]
    members = {
        f"GTSRB/Training/{c:05d}/{t:05d}_{f:05d}.ppm": encode_image(random(29, 30, 3, seed=c + t + f), "PPM")
        for c, t, f in frames
    }
    zipped(tmp_path / "GTSRB-Training_fixed.zip", {**members, "GTSRB/Training/00000/GT-00000.csv": b"Filename;"})
    train = Library(tmp_path).split(parse_set("gtsrb"), "train")
    assert train.labels is not None
    assert list(train.labels) == [0, 0, 0, 42]
    assert train.groups is not None
    assert list(train.groups) == [0, 0, 1, 2]

    pictures = {
        f"GTSRB/Final_Test/Images/{k:05d}.ppm": encode_image(random(20, 20, 3, seed=k), "PPM") for k in range(3)
    }
    zipped(
        tmp_path / "GTSRB_Final_Test_Images.zip", {**pictures, "GTSRB/Final_Test/Images/GT-final_test.test.csv": b""}
    )
    rows = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\r\n"
    rows += "".join(f"{k:05d}.ppm;20;20;1;1;19;19;{label}\r\n" for k, label in enumerate([16, 1, 38]))
    zipped(tmp_path / "GTSRB_Final_Test_GT.zip", {"GT-final_test.csv": rows.encode()})
    assert split(tmp_path, "gtsrb", "test")[1] == [16, 1, 38]
    zipped(tmp_path / "GTSRB_Final_Test_GT.zip", {"GT-final_test.csv": rows.replace("00002", "00009").encode()})
    with pytest.raises(DataError, match="does not fit"):
        split(tmp_path, "gtsrb", "test")


def test_tinyimagenet_zip(tmp_path: Path) -> None:
    wnids = [f"n{k:08d}" for k in range(200)]
    jpeg = encode_image(random(64, 64, 3), "JPEG")
    grey = encode_image(random(64, 64), "JPEG")
    root = "tiny-imagenet-200"
    members = {f"{root}/train/{w}/images/{w}_0.JPEG": grey if w == wnids[3] else jpeg for w in wnids}
    members.update({f"{root}/train/{w}/{w}_boxes.txt": b"" for w in wnids})
    members.update({f"{root}/val/images/val_{k}.JPEG": jpeg for k in range(200)})
    listing = "".join(f"val_{k}.JPEG\t{wnids[199 - k]}\t0\t0\t1\t1\n" for k in range(200))
    members[f"{root}/val/val_annotations.txt"] = listing.encode()
    zipped(tmp_path / "tiny-imagenet-200.zip", members)
    assert split(tmp_path, "tinyimagenet", "train")[1] == list(range(200))
    in_order = sorted(range(200), key=lambda k: f"val_{k}.JPEG")
    assert split(tmp_path, "tinyimagenet", "test")[1] == [199 - k for k in in_order]


ODIN = {
    "lsun-resize": ("LSUN_resize.tar.gz", "LSUN_resize/LSUN_resize/{}.jpg"),
    "lsun-crop": ("LSUN.tar.gz", "LSUN/test/{}.png"),
    "tinyimagenet-resize": ("Imagenet_resize.tar.gz", "Imagenet_resize/Imagenet_resize/{}.jpg"),
    "tinyimagenet-crop": ("Imagenet.tar.gz", "Imagenet/test/{}.png"),
    "isun": ("iSUN.tar.gz", "iSUN/iSUN_patches/{}.jpeg"),
}


@pytest.mark.parametrize("name", ODIN)
@pytest.mark.parametrize("side", [32, 36])
def test_odin_archives(tmp_path: Path, name: str, side: int) -> None:
    archive, member = ODIN[name]
    pixels = random(2, side, side, 3)
    form = "PNG" if member.endswith("png") else "JPEG"
    tarred(tmp_path / archive, {member.format(k): encode_image(image, form) for k, image in enumerate(pixels)})
    images, labels = split(tmp_path, name, "test")
    assert labels is None
    cut = (side - 32) // 2
    if form == "PNG":
        assert np.array_equal(images.transpose(0, 2, 3, 1), pixels[:, cut : cut + 32, cut : cut + 32])


@pytest.mark.parametrize(
    "name, file, members",
    [
        ("textures-10of47", "textures-resize-10of47", [f"{c}/x.png" for c in CARDS["textures-10of47"].classes]),
        ("tinyimagenet-resize-pillow", "tiny-imagenet-resize-test", ["unlabelled/0001.png", "unlabelled/0000.png"]),
    ],
)
def test_subsets_under_their_own_names(tmp_path: Path, name: str, file: str, members: list[str]) -> None:
    zipped(tmp_path / f"{file}.zip", {m: encode_image(random(32, 32, 3, seed=k)) for k, m in enumerate(members)})
    library = Library(tmp_path)
    assert len(library.split(parse_set(name), "test")) == len(members)
    assert name in library.notes[0]


# The real files, if available

REAL = os.environ.get("OODBENCH_TEST_DATA", "")
EVERY_SPLIT = [(name, part) for name, card in CARDS.items() for part in card.splits]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    if not REAL:
        pytest.skip("OODBENCH_TEST_DATA is not set to a folder of real files")
    return Library(Path(REAL), tmp_path_factory.mktemp("cache"))


def skip_if_absent(library: Library, name: str, part: str) -> None:
    if not CARDS[name].available_files(part, library.data_dir):
        pytest.skip(f"the {part} split of {name} is not in OODBENCH_TEST_DATA")


@pytest.mark.slow
@pytest.mark.parametrize("name, part", EVERY_SPLIT, ids=lambda value: str(value))
def test_real_files_match_their_card(library: Library, name: str, part: str) -> None:
    skip_if_absent(library, name, part)
    images = library.split(parse_set(name), part)
    card = CARDS[name]
    assert images.images.shape == (card.sizes[part], card.channels, 32, 32)
    assert (images.labels is None) == (not card.classes)
    assert not [note for note in library.notes if "not what its card describes" in note]
    if images.labels is not None:
        counts = np.bincount(images.labels, minlength=len(card.classes))
        assert counts.min() > 0
        balanced = {"cifar10", "cifar100", "fashion-mnist", "kmnist", "notmnist", "emnist-letters", "textures", "stl10"}
        assert name not in balanced or counts.min() == counts.max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "mnist", "svhn-small"])
def test_real_train_and_test_share_no_image(library: Library, name: str) -> None:
    for part in ("train", "test"):
        skip_if_absent(library, name, part)
    train, test = ({i.tobytes() for i in library.split(parse_set(name), part).images} for part in ("train", "test"))
    assert not train & test


CHECKS: dict[str, Callable[[np.ndarray], bool]] = {
    "mnist": lambda means: bool(means.mean() < 50),
    "cifar10": lambda means: bool(110 < means.mean() < 130),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_real_pixels_have_the_known_brightness(library: Library, name: str) -> None:
    skip_if_absent(library, name, "train")
    assert CHECKS[name](library.split(parse_set(name), "train").images.mean(axis=(1, 2, 3)))
