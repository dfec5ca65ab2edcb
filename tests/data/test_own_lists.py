"""A user's own lists: `list:FILE.txt` as OOD set and as ID set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from oodbench.benchmark.data import own_sets
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec
from tests.data.openood_tree import picture, write_list
from tests.support import bench, run_suite, write_suite


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Sixty images of two classes in two lists, and a list of ten that have none."""
    (tmp_path / "pets").mkdir()
    for k in range(70):
        picture(k, (40, 50), level=5 * (k % 2)).save(tmp_path / f"pets/{k}.png")
    write_list(tmp_path / "train_pets.txt", [f"pets/{k}.png {k % 2}" for k in range(40)])
    write_list(tmp_path / "test_pets.txt", [f"pets/{k}.png {k % 2}" for k in range(40, 60)])
    write_list(tmp_path / "others.txt", [f"pets/{k}.png -1" for k in range(60, 70)])
    yield tmp_path
    for name in [name for name in registry.entries("dataset") if name.startswith("list:")]:
        registry.disown("dataset", name)


def adopt(path: Path) -> SetSpec:
    return own_sets.adopt(SetSpec(f"list:{path}"))


def test_a_list_without_labels_is_an_ood_set(folder: Path) -> None:
    spec = adopt(folder / "others.txt")
    assert str(spec) == "list:others"
    images = Library(folder).part(spec, "test")
    assert (len(images), images.labels, images.classes) == (10, None, ())
    assert own_sets.adopt(spec) == spec
    assert f"list:{folder / 'others.txt'}" in own_sets.adopted()


def test_a_labelled_list_has_training_images_beside_it(folder: Path) -> None:
    spec = adopt(folder / "test_pets.txt")
    library = Library(folder)
    assert len(library.part(spec, "outliers")) == 40
    assert len(library.part(spec, "test")) == 20
    assert library.card(spec).classes == ("class 0", "class 1")
    (folder / "train_pets.txt").unlink()
    registry.disown("dataset", str(spec))
    again = adopt(folder / "test_pets.txt")
    with pytest.raises(DataError, match=r"has no training images: there is no list '.*train_pets.txt'"):
        Library(folder).part(again, "train")
    assert Library(folder).channels(again) == 3


def test_lists_are_used_in_a_run_and_verified(folder: Path) -> None:
    suite = write_suite(folder, '[[id]]\nset = "digits"\nood = [{ set = "greek" }]')
    ours, others = f"list:{folder / 'test_pets.txt'}", f"list:{folder / 'others.txt'}"
    run = run_suite(suite, id_sets=ours, ood_sets=others, resize="32", crop="32")
    (record,) = run.records
    assert (record.id_set, record.ood_set, record.status) == ("list:test_pets", "list:others", "ok")
    for name in ("list:test_pets", "list:others"):
        registry.disown("dataset", name)
    checked = bench("verify", run.path, "--data-dir", folder)
    assert checked.exit_code == 0, checked.output
    assert "not in --data-dir" not in checked.output


@pytest.mark.parametrize(
    "text, message",
    [
        ("pets/0.png 0\npets/1.png -1\n", r"has the label -1, no class, for 1 of 2 images"),
        ("pets/absent.png 0\n", r"None of the 1 images that '.*mine.txt' names is there"),
        ("pets/0.png\n", r"Line 1 of the list"),
        ("", "names no images"),
    ],
)
def test_a_wrong_list_is_one_sentence(folder: Path, text: str, message: str) -> None:
    (folder / "mine.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        adopt(folder / "mine.txt")


def test_a_name_that_is_no_list_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match=r"'list:.*absent.txt' names no list: '.*absent.txt' does not exist"):
        adopt(folder / "absent.txt")
    with pytest.raises(UserError, match=r"does not end in \.txt\. Write list:FILE\.txt"):
        adopt(folder / "pets")
    adopt(folder / "others.txt")
    write_list(folder / "more/others.txt", ["a.png -1"])
    picture(1, (50, 50)).save(folder / "more/a.png")
    assert adopt(folder / "others.txt").name == "list:others"
    assert adopt(folder / "more/others.txt").name == "list:more/others"


def test_other_processes_use_the_same_names(folder: Path) -> None:
    adopt(folder / "others.txt")
    places = own_sets.adopted()
    registry.disown("dataset", "list:others")
    own_sets.adopt_all([place for place in places if str(folder) in place])
    assert "list:others" in registry.entries("dataset")


def test_openoods_lists_are_found_below_its_folder(folder: Path) -> None:
    (folder / "images_largescale/extra").mkdir(parents=True)
    picture(1, (50, 50)).save(folder / "images_largescale/extra/x.png")
    write_list(folder / "benchmark_imglist/imagenet/test_extra.txt", ["extra/x.png -1"])
    spec = adopt(folder / "benchmark_imglist/imagenet/test_extra.txt")
    assert len(Library(folder).part(spec, "test")) == 1


def test_photographs_of_a_list_at_32x32_are_a_warning_and_are_rotated_if_asked_for(folder: Path) -> None:
    photograph = Image.new("RGB", (80, 80))
    photograph.paste((255, 255, 255), (0, 0, 80, 40))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    photograph.save(folder / "photo.jpg", exif=exif)
    (folder / "mine.txt").write_text("photo.jpg -1\n")
    spec = adopt(folder / "mine.txt")
    found = {}
    for turn in (False, True):
        library = Library(folder, folder / "cache", view=PictureView(exif=turn))
        found[turn] = library.split(spec, "test").images[:1]
        notes = "\n".join(library.notes)
        assert "Warning: 'list:mine' is shown to networks at 32x32, although its pictures are larger." in notes
        assert ("the EXIF rotation is applied: 1 of 1 images" if turn else "an EXIF rotation is not applied") in notes
    assert found[False][0, 0, :12, 4:28].min() > 200
    assert found[True][0, 0, 4:28, -12:].min() > 200
    assert found[True][0, 0, 4:28, :12].max() < 50
