"""Class names that are no folder names, and other copies' ways of writing them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.data.files.class_names import folder_names, label_of_folder
from oodbench.benchmark.data.files.image_tree import ImageTree
from oodbench.benchmark.data.files.parquet import Parquet
from oodbench.benchmark.data.imagenet_classes import named_class
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from tests.data.trees import as_folder, as_zip
from tests.support import encode_image

AWKWARD = ("T-shirt/top", "a\\b", "c:d", ".net", "cat ", "caf\u00e9", "A", "a", "C", "C++", "..", "x" * 300, "犬", "猫")


def shade(label: int) -> bytes:
    """A 32 x 32 image of one grey level, by which the tests recognise it."""
    return encode_image(np.full((32, 32, 3), label, np.uint8))


def shaded(folders: Sequence[str]) -> dict[str, bytes]:
    return {f"{folder}/1.png": shade(label) for label, folder in enumerate(folders)}


def labels_by_shade(classes: Sequence[str], path: Path) -> dict[int, int]:
    found = ImageTree(tuple(classes)).read([path])
    assert found.labels is not None
    return {int(image[0, 0, 0]): int(label) for image, label in zip(found.images, found.labels, strict=True)}


def test_every_class_has_a_folder_name_that_every_file_system_accepts() -> None:
    names = folder_names(AWKWARD)
    assert len({name.casefold() for name in names}) == len(AWKWARD)
    for name in names:
        assert name.isascii()
        assert not set('/\\:*?"<>|') & set(name)
        assert name == name.strip(" .")
        assert len(name) <= 100
    assert names[AWKWARD.index("C")] == "C"
    assert names[AWKWARD.index("T-shirt/top")].startswith("T-shirt_top-")


@pytest.mark.parametrize("pack", [as_folder, as_zip])
def test_folders_of_these_names_are_the_classes(tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]) -> None:
    path = pack(tmp_path / "x.zip", shaded(folder_names(AWKWARD)))
    assert labels_by_shade(AWKWARD, path) == {label: label for label in range(len(AWKWARD))}


@pytest.mark.parametrize("folder", ["T-shirt/top", "T-shirt_top", "T-shirt:top", "T - shirt - top", "T-shirt top "])
def test_a_class_with_a_slash_may_have_the_folder_that_people_make_of_it(tmp_path: Path, folder: str) -> None:
    classes = ("Trouser", "T-shirt/top", "Shirt")
    path = as_folder(tmp_path / "clothes", shaded(("Trouser", folder, "Shirt")))
    assert labels_by_shade(classes, path) == {0: 0, 1: 1, 2: 2}


def test_fashion_mnist_as_a_folder_and_as_on_the_hub(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="pip install 'oodbench[parquet]'")
    import pyarrow.parquet as pq

    classes = registry.get("dataset", "fashion-mnist").classes
    grey = [encode_image(np.full((28, 28), 20 * label, np.uint8)) for label in range(10)]
    as_folder(
        tmp_path / "fashion-mnist-test",
        {f"{folder}/1.png": grey[label] for label, folder in enumerate(folder_names(classes))},
    )
    table = pa.table({"image": [{"bytes": image, "path": None} for image in grey], "label": list(range(10))})
    names = ["T - shirt / top", *classes[1:]]  # as in zalando-datasets/fashion_mnist
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    pq.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "fashion-mnist-train.parquet"
    )
    for split in ("train", "test"):
        images = Library(tmp_path).split(parse_set("fashion-mnist"), split)
        assert images.labels is not None
        assert np.array_equal(images.images[:, 0, 0, 0], 20 * images.labels)
        assert sorted(images.labels) == list(range(10))


@pytest.mark.parametrize(
    "names",
    [
        ["Trouser", "T - shirt / top"],
        ["T - shirt / top", "trouser"],
        ["T - shirt / top"],
        ["T - shirt / top", 1],
        ["Shirt", "Trouser"],
    ],
    ids=["another order", "another case", "fewer", "a number", "another class"],
)
def test_other_classes_on_the_hub_are_refused(tmp_path: Path, names: list[object]) -> None:
    reader = Parquet(("T-shirt/top", "Trouser"))
    metadata = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": names}}}}).encode()}
    with pytest.raises(DataError, match="numbers the classes"):
        reader._same_names(tmp_path / "x.parquet", metadata, "label")


def test_names_are_told_apart_where_only_punctuation_or_case_differs() -> None:
    classes = ("C", "C++", "c", "a b", "a-b")
    assert label_of_folder(["C", "C++", "c", "a b", "a-b", "a_b", "ab", "C#"], classes) == {
        "C": 0,
        "C++": 1,
        "c": 2,
        "a b": 3,
        "a-b": 4,
    }


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_are_the_same_however_they_are_encoded(tmp_path: Path, form: str) -> None:
    classes = tuple(unicodedata.normalize("NFD", name) for name in ("caf\u00e9", "cafe"))
    folders = [unicodedata.normalize(form, name) for name in classes]  # type: ignore[arg-type]
    assert labels_by_shade(classes, as_folder(tmp_path / "bars", shaded(folders))) == {0: 0, 1: 1}


def test_two_folders_of_one_class_are_refused(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", shaded(("cat", "dog", "cat ")))
    with pytest.raises(DataError, match="the class folders 'cat' and 'cat ', which both stand for the class 'cat'"):
        ImageTree(("cat", "dog")).read([path])


def test_the_message_says_how_a_folder_can_be_named(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "clothes", shaded(("Trouser",)))
    name = folder_names(("T-shirt/top",))[0]
    with pytest.raises(DataError, match=f"lacks 'T-shirt/top'; .* The folder of 'T-shirt/top' can be named '{name}'"):
        ImageTree(("T-shirt/top", "Trouser")).read([path])


def test_an_identifier_is_shown_with_its_name() -> None:
    assert named_class("n01440764") == "n01440764 (tench)"
    for other in ("n01440764_tench", "n99999999", "tench", "3"):
        assert named_class(other) == other
