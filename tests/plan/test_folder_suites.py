"""Suite files that name folders of images, which may lie beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite_file import read_suite, text_elsewhere
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
    return write_suite(folder, MATRIX)


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


def test_a_run_is_verified_and_repeated_from_elsewhere(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_suite(suite, backbone="small_cnn[hidden=4,width=2]", epochs=1)
    suite.write_text(suite.read_text() + "# a later edit\n")  # so that the text in run.json is used
    monkeypatch.chdir(tmp_path)
    assert verify(run.path, suite.parent / "results", tmp_path).problems == []
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
