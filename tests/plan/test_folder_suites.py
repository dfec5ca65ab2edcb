"""Suite files that name folders of images, which may lie beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite_file import read_suite, text_elsewhere
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.verify.repeat import EXACT, prepare_repetition
from oodbench.benchmark.verify.run import verify
from tests.data.trees import as_folder
from tests.support import encode_image, prepare_suite, run_suite, write_suite

MATRIX = """
[[id]]
set = "folder:photos/pets"
outliers = "folder:photos/noise"
tuning = "folder:photos/noise"
ood = [{ set = "folder:photos/owls", group = "near" }, { set = "folder:./cars", group = "far" }]
"""


def pictures(folder: Path, *names: str) -> None:
    random = np.random.RandomState(len(str(names)))
    images = {name: encode_image(random.randint(0, 255, (32, 32, 3)).astype(np.uint8)) for name in names}
    as_folder(folder, images)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite file beside its images."""
    folder = tmp_path / "mine"
    pictures(folder / "photos/pets", *(f"{name}/{k}.png" for name in ("cat", "dog") for k in range(20)))
    for name in ("photos/owls", "photos/noise", "cars"):
        pictures(folder / name, *(f"{name.replace('/', '_')}{k}.png" for k in range(10)))
    path = write_suite(folder, MATRIX, title="Pets")
    path.write_text(path.read_text().replace("schema = 1", 'schema = 1\nnotes = ["A note on the pets."]', 1))
    return path


def test_paths_are_relative_to_the_suite_file(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "other/cars", "1.png")
    monkeypatch.chdir(tmp_path / "other")
    (entry,) = read_suite(str(suite)).entries
    assert str(entry.set) == "classes:pets"
    assert [(str(ood.set), ood.group) for ood in entry.ood] == [("folder:owls", "near"), ("folder:cars", "far")]
    assert (str(entry.outliers), str(entry.tuning)) == ("outliers:noise", "outliers:noise")
    plan = prepare_suite(suite, "msp,odin", protocol="val_ood").plan
    assert {pair.ood.set: (pair.ood.images, pair.group) for pair in plan.pairs} == {
        "folder:owls": (10, "near"),
        "folder:cars": (10, "far"),
    }


def test_absolute_paths_are_as_they_are(suite: Path, tmp_path: Path) -> None:
    far = suite.parent / "cars"
    moved = write_suite(tmp_path, f'[[id]]\nset = "digits"\nood = [{{ set = "folder:{far}" }}]\n', name="moved")
    assert str(read_suite(str(moved)).entries[0].ood[0].set) == "folder:cars"


def test_a_folder_that_is_missing_is_named_with_its_suite(suite: Path) -> None:
    shutil.rmtree(suite.parent / "cars")
    with pytest.raises(UserError, match=r"Suite '.*tiny\.toml': '.*/mine/cars' of 'folder:\./cars' does not exist"):
        read_suite(str(suite))


@pytest.mark.slow
def test_a_run_is_verified_and_repeated_from_elsewhere(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_suite(suite, backbone="small_cnn[hidden=4,width=2]", epochs=1)
    suite.write_text(suite.read_text() + "# a later edit\n")  # so that the text in run.json is used
    monkeypatch.chdir(tmp_path)
    for name in ("classes:pets", "folder:owls", "folder:cars"):
        registry.disown("dataset", name)  # as in another process
    verdict = verify(run.path, suite.parent / "results", tmp_path)
    assert (verdict.problems, verdict.unchecked) == ([], {})
    repetition = prepare_repetition(run.path, results=tmp_path / "results")
    for prepared in repetition.commands():
        prepared.start()
    assert {cell.verdict for cell in repetition.compare().cells} == {EXACT}


def test_folders_on_the_command_line_are_recorded_with_their_paths(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(suite.parent)
    run = run_suite(suite, ood_sets="folder:cars", far="folder:photos/owls", backbone="small_cnn[width=2]", epochs=1)
    (command,) = json.loads((run.path / "run.json").read_text())["commands"]
    assert command["ood_sets"] == [f"folder:{suite.parent / 'cars'}"]
    assert command["far"] == [f"folder:{suite.parent / 'photos/owls'}"]


def test_a_text_elsewhere_names_its_former_folder_once(tmp_path: Path) -> None:
    text = 'schema = 1\nx = "folder:a"\n'
    moved = text_elsewhere(text, tmp_path / 'with "quotes" é')
    assert moved.endswith(text)
    assert text_elsewhere(moved, tmp_path) == moved
    assert text_elsewhere("schema = 1\n", tmp_path) == "schema = 1\n"


def test_the_key_folders_must_be_absolute(suite: Path) -> None:
    suite.write_text('folders = "photos"\n' + suite.read_text())
    with pytest.raises(UserError, match="folders is 'photos'; it must be an absolute path, or left out"):
        read_suite(str(suite))


SMALL: dict[str, Any] = {"backbone": "small_cnn[hidden=4,width=2]", "epochs": 1}


@pytest.mark.parametrize("size", [{}, {"resize": "24x24"}])
def test_id_and_ood_folders_with_the_same_files_are_one_sentence(suite: Path, size: dict[str, Any]) -> None:
    """As when the folders of the command are swapped, or one is a copy of the other."""
    copy = shutil.copytree(suite.parent / "photos/pets", suite.parent / "copy")
    with pytest.raises(UserError) as error:
        prepare_suite(suite, near=f"folder:{copy}", **SMALL, **size)
    assert str(error.value) == (
        "32 of 40 test images of 'folder:copy' are training images of 'classes:pets'. Choose another --ood for "
        "'classes:pets'."
    )
    shutil.rmtree(copy)
    for k, name in enumerate(("cat/9.png", "dog/8.png", "dog/9.png")):  # test images under other names
        copy.mkdir(exist_ok=True)
        shutil.copy(suite.parent / "photos/pets" / name, copy / f"holiday{k}.png")
    with pytest.raises(UserError, match="3 of 3 test images of 'folder:copy' are test images of 'classes:pets'"):
        prepare_suite(suite, near=f"folder:{copy}", **SMALL, **size)


@pytest.mark.parametrize("size", [{}, {"resize": "24x24"}])
def test_one_truncated_photograph_is_named_or_skipped(suite: Path, size: dict[str, Any]) -> None:
    path = suite.parent / "photos/owls/photos_owls3.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(
        UserError, match=r"'folder:owls' \(test\) has 1 image that is damaged: photos_owls3\.png in owls"
    ):
        prepare_suite(suite, near="folder:" + str(path.parent), **SMALL, **size)
    run = run_suite(suite, near="folder:" + str(path.parent), skip_bad_images=True, **SMALL, **size)
    assert [record.n_ood for record in run.records] == [9]
    said = "folder:owls (test): 1 of 10 images could not be used and were left out: photos_owls3.png in owls"
    assert any(note.startswith(said) for note in run.info["notes"])


def test_notes_of_a_suite_are_not_about_other_id_sets(suite: Path) -> None:
    run = run_suite(suite, id_sets="digits[0-3]", ood_sets="greek", limit_train=100, **SMALL)
    assert "A note on the pets." not in run.info["notes"]
    assert run.info["suite"]["title"] == "other ID sets, under the protocol of the suite 'tiny'"
    run = run_suite(suite, ood_sets="folder:" + str(suite.parent / "cars"), **SMALL)
    assert run.info["notes"][0] == "A note on the pets."
    assert run.info["suite"]["title"] == "Pets"
