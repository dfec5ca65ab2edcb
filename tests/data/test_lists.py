"""Lists of images and labels: their format, files that are absent, and OpenOOD's data folder at 32 x 32."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.file_dataset import Access
from oodbench.benchmark.data.files.file_source import File
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.lists import ClassFolders, ListedDataset, ListReader, ListSource, SynsetList, read_list
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.specs import parse_set
from tests.data.openood_tree import CIFAR, IMAGENET, openood_tree, picture, write_list
from tests.support import bench


class Cats(ListedDataset):
    """Two classes, listed."""

    classes = ("cat", "dog")
    splits = ("test",)
    membership = "The lists of a test"
    sources = {"test": (ListSource((File(("lists/cats.txt",)),), ListReader("../images", 2)),)}


Cats.name = "cats"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Ten images of 40 x 60 pixels and a list of them."""
    for k in range(10):
        path = tmp_path / f"images/{'cat' if k < 5 else 'dog'}/{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(k, (40, 60)).save(path)
    lines = [f"{'cat' if k < 5 else 'dog'}/{k}.png {int(k >= 5)}" for k in reversed(range(10))]
    write_list(tmp_path / "lists/cats.txt", lines)
    return tmp_path


def test_images_come_in_the_lists_order_with_its_labels(data_dir: Path) -> None:
    images = Cats().load("test", data_dir)
    assert images.labels is not None
    assert images.labels.tolist() == [1] * 5 + [0] * 5
    stored = Image.open(data_dir / "images/dog/9.png")
    assert stored.size == (60, 40)
    resized = stored.resize((48, 32), Image.Resampling.BILINEAR).crop(
        (8, 0, 40, 32)
    )  # torchvision's Resize, CenterCrop
    assert np.array_equal(images.images[0], np.asarray(resized).transpose(2, 0, 1))


def test_the_pixels_are_those_of_torchvisions_transforms(data_dir: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    transform = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32), transforms.PILToTensor()])
    for seed, size in enumerate([(40, 61), (97, 33), (32, 32), (31, 64), (28, 28), (20, 45)]):
        picture(seed, size).save(data_dir / "images/cat/odd.png")
        write_list(data_dir / "lists/cats.txt", ["cat/odd.png 0"])
        found = Cats().load("test", data_dir).images[0]
        assert np.array_equal(found, transform(Image.open(data_dir / "images/cat/odd.png")).numpy()), size


@pytest.mark.parametrize(
    "line, message",
    [
        ("cat/1.png", r"Line 2 of the list '.*cats.txt' is 'cat/1.png'; expected a path and a whole number"),
        ("cat/1.png cat", r"Line 2 of the list .* expected a path and a whole number"),
        ("cat/1.png { 'group_label': 0 }", r"Line 2 of the list .* expected a path and a whole number"),
        ("/etc/passwd 0", r"Line 2 of the list .* has a path that leads out of its folder: '/etc/passwd'"),
        ("../a.png 0", r"Line 2 of the list .* leads out"),
        ("a/../../a.png 0", r"Line 2 of the list .* leads out"),
        ("C:/a.png 0", r"Line 2 of the list .* leads out"),
        ("cat/1.png 2", r"has labels from 0 to 2, expected 0 to 1"),
        ("cat/1.png -1", r"has labels from -1 to 0, expected 0 to 1"),
        ("cat/1.png 99999999999999999999", r"Line 2 of the list .* expected a path and a whole number"),
    ],
)
def test_a_wrong_line_is_one_sentence(tmp_path: Path, line: str, message: str) -> None:
    write_list(tmp_path / "cats.txt", ["cat/0.png 0", line])
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "cats.txt", 2)


def test_formats_that_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone two/1.png 3\r\n\r\nb.png\t 0\n  c.png -1  ".encode())
    found = read_list(tmp_path / "a.txt")
    assert (found.names, found.labels.tolist()) == (("one two/1.png", "b.png", "c.png"), [3, 0, -1])
    write_list(tmp_path / "b.txt", ["one two/1.png 3", "b.png 0", "c.png -1"])
    assert read_list(tmp_path / "b.txt").digest == found.digest
    write_list(tmp_path / "b.txt", ["b.png 0", "one two/1.png 3", "c.png -1"])
    assert read_list(tmp_path / "b.txt").digest != found.digest
    (tmp_path / "c.txt").write_text("\n\n")
    with pytest.raises(DataError, match="names no images"):
        read_list(tmp_path / "c.txt")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_list(tmp_path / "absent.txt")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_list(tmp_path / "d.txt")


def test_files_that_are_not_there_are_counted_and_five_are_named(data_dir: Path) -> None:
    for k in range(7):
        next((data_dir / "images").glob(f"*/{k}.png")).unlink()
    with pytest.raises(DataError) as raised:
        Cats().load("test", data_dir)
    named = "'dog/6.png', 'dog/5.png', 'cat/4.png', 'cat/3.png', 'cat/2.png' and 2 more."
    assert f"names 7 of 10 files that are not there: {named}" in str(raised.value)
    opened = Cats().open("test", Access(data_dir, DataCache(data_dir / "cache"), skip_bad=True))
    assert len(opened.images) == 3
    assert any("7 of 10 images could not be used and were left out" in note for note in opened.notes)


def test_a_list_without_any_of_its_images_is_absent(data_dir: Path) -> None:
    assert Cats().missing(data_dir) is None
    shutil.rmtree(data_dir / "images")
    reason = Cats().missing(data_dir)
    assert reason is not None
    assert "is there, but none of its 10 images, such as" in reason
    (data_dir / "lists/cats.txt").unlink()
    reason = Cats().missing(data_dir)
    assert reason is not None
    assert "Put one of these there: lists/cats.txt" in reason


def test_a_changed_image_is_decoded_again(data_dir: Path) -> None:
    access = Access(data_dir, DataCache(data_dir / "cache"))
    first = Cats().open("test", access)
    assert np.array_equal(Cats().open("test", access).images.images, first.images.images)
    picture(99, (40, 60)).save(data_dir / "images/dog/9.png")
    again = Cats().open("test", Access(data_dir, DataCache(data_dir / "cache")))
    assert not np.array_equal(again.images.images[0], first.images.images[0])
    assert np.array_equal(again.images.images[1:], first.images.images[1:])
    assert again.files == first.files  # the list is the same
    assert list(first.files) == [str(data_dir / "lists/cats.txt")]
    assert any("The lists of a test say which images are members" in note for note in first.notes)


def test_openoods_data_folder_is_read(tmp_path: Path) -> None:
    library = Library(openood_tree(tmp_path, CIFAR, 10))
    ours = parse_set("cifar10-openood")
    assert library.missing(ours) is None
    parts = {part: library.part(ours, part) for part in ("train", "validation", "test")}
    assert {part: len(images) for part, images in parts.items()} == {"train": 40, "validation": 20, "test": 20}
    assert parts["train"].image_shape == (3, 32, 32)
    assert library.channels(ours) == 3
    assert library.part(parse_set("mnist-openood"), "test").image_shape == (1, 32, 32)
    assert len(library.part(parse_set("tinyimagenet-openood10"), "outliers")) == 6
    assert "cifar10-openood (train) is not what its card describes: its list 'train_cifar10.txt' is not" in "".join(
        library.notes
    )
    assert sum("OpenOOD v1.5's lists say which images are members" in note for note in library.notes) == 1


def test_validation_lists_are_optional(tmp_path: Path) -> None:
    data = openood_tree(tmp_path, CIFAR, 10)
    for name in ("val_cifar10", "val_tin"):
        (data / f"benchmark_imglist/cifar10/{name}.txt").unlink()
    library = Library(data)
    ours, tin = parse_set("cifar10-openood"), parse_set("tinyimagenet-openood10")
    assert (library.missing(ours), library.missing(tin), library.channels(ours)) == (None, None, 3)
    assert len(library.part(ours, "train")) + len(library.part(ours, "validation")) == 40
    assert len(library.part(ours, "validation")) > 0
    with pytest.raises(DataError, match=r"The train split of 'tinyimagenet-openood10' is not in"):
        library.part(tin, "outliers")


class Synsets(ListedDataset):
    """Two classes by WordNet ids, in folders or by a line for each image."""

    classes = ("class 0", "class 1")
    splits = ("test",)
    sources = {
        "test": (
            ListSource((File(("imagenet/val",)),), ClassFolders(classes=2)),
            ListSource((File(("imagenet/val_synsets.txt",)),), SynsetList("val", 2)),
            ListSource((File(("a.txt",)), File(("b.txt",))), ListReader("flat", 2)),
        )
    }


Synsets.name = "synsets"
IDS = ("n00000009", "n00000001", "n00000009")


def test_class_folders_are_labelled_in_alphabetical_order(tmp_path: Path) -> None:
    for k, wordnet_id in enumerate(IDS):
        path = tmp_path / f"imagenet/val/{wordnet_id}/ILSVRC2012_val_{k + 1:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(k, (40, 50)).save(path)
    (tmp_path / "imagenet/val/.DS_Store").touch()
    (tmp_path / "imagenet/val/n00000001/readme.txt").touch()
    opened = Synsets().open("test", Access(tmp_path, DataCache(tmp_path / "cache")))
    assert opened.images.labels is not None
    assert opened.images.labels.tolist() == [0, 1, 1]
    (tmp_path / "imagenet/val/n00000010").mkdir()
    with pytest.raises(DataError, match="has 3 class folders, expected 2"):
        Synsets().load("test", tmp_path)


def test_flat_validation_images_are_labelled_by_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "imagenet/flat").mkdir(parents=True)
    folder = tmp_path / "imagenet/val"
    folder.mkdir()
    for k in range(3):
        picture(k, (40, 50)).save(folder / f"ILSVRC2012_val_{k + 1:08d}.JPEG")
    write_list(tmp_path / "imagenet/val_synsets.txt", IDS)
    reader = SynsetList("val", 2)
    paths = [tmp_path / "imagenet/val_synsets.txt"]
    assert reader.content(paths).labels.tolist() == [1, 0, 1]
    assert reader.has_images(paths)
    assert len(reader.read(paths).images) == 3
    write_list(paths[0], [*IDS, "tench"])
    with pytest.raises(DataError, match="has the line 'tench'; expected a WordNet id"):
        reader.content(paths)
    write_list(paths[0], [*IDS, "n00000010"])
    with pytest.raises(DataError, match="has 3 different WordNet ids, expected 2"):
        reader.content(paths)


def test_two_lists_are_read_one_after_the_other(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / "flat").mkdir(exist_ok=True)
        picture(k, (32, 32)).save(tmp_path / f"flat/{k}.png")
    write_list(tmp_path / "a.txt", ["2.png 1"])
    assert Synsets().missing(tmp_path) is not None
    write_list(tmp_path / "b.txt", ["0.png 0", "1.png 1"])
    opened = Synsets().open("test", Access(tmp_path, DataCache(tmp_path / "cache")))
    assert opened.images.labels is not None
    assert opened.images.labels.tolist() == [1, 0, 1]
    assert np.array_equal(opened.images.images[0], np.asarray(picture(2, (32, 32))).transpose(2, 0, 1))
    assert [Path(path).name for path in opened.files] == ["a.txt", "b.txt"]


def test_imagenet_without_training_images_is_read(tmp_path: Path) -> None:
    library = Library(openood_tree(tmp_path, IMAGENET, 1000))
    ours = parse_set("imagenet1k")
    assert library.missing(ours) is None
    assert len(library.part(ours, "test")) == 30
    assert len(library.part(ours, "validation")) == 20
    assert library.channels(ours) == 3
    with pytest.raises(DataError, match=r"The train split of 'imagenet1k' is not in"):
        library.part(ours, "train")
    for name, count in {"ninco": 5, "textures-43of47": 6, "imagenet-r": 10, "imagenet-val": 50}.items():
        assert len(library.part(parse_set(name), "test")) == count
    assert len(library.part(parse_set("openimage-o"), "outliers")) == 5
    beyond = tmp_path / "benchmark_imglist/imagenet/test_imagenet.txt"
    beyond.write_text(beyond.read_text().replace(" 0\n", " 1000\n", 1))
    with pytest.raises(DataError, match="has labels from 33 to 1000, expected 0 to 999"):
        Library(tmp_path).part(ours, "test")


def test_a_card_of_listed_pictures_reads_none_of_them(tmp_path: Path) -> None:
    data = openood_tree(tmp_path, IMAGENET, 1000)
    for path in (data / "images_largescale/imagenet_1k/val").iterdir():
        path.write_bytes(b"no image")
    shown = bench("show", "imagenet1k", "--data-dir", data, "--results", tmp_path / "results")
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    assert f"30 images, named in {data}/benchmark_imglist/imagenet/test_imagenet.txt" in text.replace("- ", "-")
    assert "n01440764 (tench), n01443537 (goldfish), " in text
    assert "..., n15075141 (toilet tissue) (1,000 in all)" in text
    assert "The train split of 'imagenet1k' is not in" in text
