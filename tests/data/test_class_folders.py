"""Class folders without train and test as an ID set: how they are divided, and what serves as what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.data.files.class_folders import DIVIDED, list_classes
from oodbench.benchmark.data.files.own_images import open_own
from oodbench.benchmark.data.files.user_folder import Role, adopt, adopt_all, adopted, with_absolute_path
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import parse_set
from tests.data.trees import as_folder, as_tar, as_zip
from tests.support import bench, encode_image

SMALL = ("--backbone", "small_cnn[hidden=4,width=2]", "--epochs", "1", "--detectors", "msp", "--quiet")


def images(*names: str, seed: int = 0) -> dict[str, bytes]:
    """A different image under every name."""
    random = np.random.RandomState(seed)
    return {name: encode_image(random.randint(0, 255, (32, 32, 3)).astype(np.uint8)) for name in names}


def pets(count: int = 10, under: str = "", seed: int = 0) -> dict[str, bytes]:
    return images(*(f"{under}{name}/{k:02d}.png" for name in ("cat", "dog") for k in range(count)), seed=seed)


def name_of(path: Path, role: Role = "", classes: str = "") -> str:
    return adopt(parse_set(f"folder:{path}{classes}"), role).name


def names(path: Path, split: str) -> list[str]:
    tree = open_own(path)
    listing = list_classes(tree)
    assert listing is not None
    return [tree.members[entry.position].name for entry in listing.splits[split]]


@pytest.mark.parametrize("pack, suffix", [(as_folder, ""), (as_zip, ".zip"), (as_tar, ".tar.gz")])
@pytest.mark.parametrize("under", ["", "photos/", "a/b/"])
def test_the_last_fifth_of_each_class_by_name_is_the_test_split(
    tmp_path: Path, pack: Callable[[Path, Mapping[str, bytes]], Path], suffix: str, under: str
) -> None:
    path = pack(tmp_path / f"pets{suffix}", pets(under=under))
    assert names(path, "test") == [f"{under}{name}/{k:02d}.png" for name in ("cat", "dog") for k in (8, 9)]
    assert len(names(path, "train")) == 16
    library, spec = Library(tmp_path), adopt(parse_set(f"folder:{path}"), "id")
    assert spec.name == "classes:pets"
    train, test = library.split(spec, "train"), library.split(spec, "test")
    assert (train.classes, len(train), len(test)) == (("cat", "dog"), 16, 4)
    assert test.labels is not None
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert f"classes:pets: {DIVIDED}." in library.notes


def test_another_stray_or_image_elsewhere_moves_no_image_of_a_class(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", pets())
    before = {split: names(path, split) for split in ("train", "test")}
    as_folder(path, {**images("loose.png", "cow/1.png", "cow/2.png", "cow/3.png"), "notes.txt": b""})
    for split, found in before.items():
        assert [name for name in names(path, split) if not name.startswith("cow")] == found
    listing = list_classes(open_own(path))
    assert listing is not None
    assert dict(listing.left_out) == {"loose.png": "in no class folder", "notes.txt": "not an image"}
    assert listing.files == 25


def test_as_an_ood_set_all_images_count(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", pets())
    assert name_of(path) == "folder:pets"
    assert len(Library(tmp_path).split(parse_set("folder:pets"), "test")) == 20
    assert name_of(path, "id") == "classes:pets"
    assert name_of(path) == "folder:pets"


@pytest.mark.slow
def test_classes_can_be_id_against_the_other_classes(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", {**pets(), **images(*(f"owl/{k}.png" for k in range(10)), seed=1)})
    results = tmp_path / "results"
    done = bench("run", "--id", f"folder:{path}[0-1]", "--ood", f"folder:{path}[2]", *SMALL, "--results", results)
    assert done.exit_code == 0, done.output
    assert "classes:pets[2]" in done.output
    refused = bench("run", "--id", f"folder:{path}", "--ood", f"folder:{path}", *SMALL, "--results", results)
    assert refused.exit_code == 2
    assert "'folder:pets' cannot be an OOD set of 'classes:pets': both sample one distribution" in refused.output


def test_outliers_are_all_images_as_a_training_split(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", pets())
    assert name_of(path, "outliers") == "outliers:pets"
    library = Library(tmp_path)
    assert len(library.part(parse_set("outliers:pets"), "outliers")) == 20
    assert library.same_distribution(parse_set("outliers:pets"), adopt(parse_set(f"folder:{path}")))


def test_what_is_divided_keeps_its_name_in_every_role(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", {**pets(under="train/"), **pets(under="test/", seed=1)})
    assert {name_of(path, role) for role in ("", "id", "outliers")} == {"folder:pets"}
    assert name_of(path, classes="[0]") == "folder:pets"


@pytest.mark.parametrize("folder", ["val", "valid", "validation", "Test", "testing"])
def test_class_folders_in_val_alone_are_a_labelled_test_split(tmp_path: Path, folder: str) -> None:
    path = as_folder(tmp_path / "pets", pets(under=f"{folder}/"))
    spec = adopt(parse_set(f"folder:{path}"), "id")
    card = registry.get("dataset", spec.name)
    assert (spec.name, card.splits, card.classes) == ("classes:pets", ("test",), ("cat", "dog"))
    labels = Library(tmp_path).split(spec, "test").labels
    assert labels is not None
    assert labels.tolist() == [0] * 10 + [1] * 10


def test_a_class_with_too_few_images_is_named(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", {**pets(), **images("owl/1.png", "owl/2.png")})
    with pytest.raises(UserError, match="has fewer than 3 images of 'owl'; each class needs one to train"):
        name_of(path, "id")
    assert name_of(path) == "folder:pets"


def test_classes_written_out_need_class_folders(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", images("1.png", "2.png", "3.png"))
    with pytest.raises(UserError, match=r"pets' has no class folders; expected at least two of them, such as CLASS"):
        adopt(parse_set(f"classes:{path}"))


def test_class_folders_keep_wordnet_ids(tmp_path: Path) -> None:
    """Crane and maillot are the names of two classes of ImageNet each."""
    wnids = ("n02012849", "n03126707", "n03710637", "n03710721")
    path = as_folder(tmp_path / "birds", images(*(f"{wnid}/{k}.png" for wnid in wnids for k in range(5))))
    assert registry.get("dataset", name_of(path, "id")).classes == wnids


def test_another_process_registers_the_same_names(tmp_path: Path) -> None:
    path = as_folder(tmp_path / "pets", pets())
    roles: tuple[Role, ...] = ("", "id", "outliers")
    found = {name_of(path, role) for role in roles}
    passed_on = [text for text in adopted() if text.endswith(str(path))]
    for name in found:
        registry.disown("dataset", name)
    adopt_all(passed_on)
    assert found <= registry.entries("dataset").keys()


def test_a_path_means_the_same_in_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_folder(tmp_path / "pets", pets())
    monkeypatch.chdir(tmp_path)
    assert with_absolute_path("folder:pets[0]+inverted") == f"folder:{tmp_path / 'pets'}[0]+inverted"
    assert with_absolute_path("digits[0-6]") == "digits[0-6]"
    (tmp_path / "a,b").mkdir()
    monkeypatch.chdir(as_folder(tmp_path / "a,b", {"pets/1.png": b""}))
    assert with_absolute_path("folder:pets") == "folder:pets"


@pytest.mark.parametrize("text", ["folder:my[0", "folder:me@home", "folder:a=b", "folder:x]"])
def test_characters_that_no_set_may_have_are_named(text: str) -> None:
    with pytest.raises(UserError, match=r"A path after the colon cannot hold any of the characters \[ \] @ \+ , =\."):
        parse_set(text)
