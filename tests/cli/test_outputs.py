"""`bench outputs`: a folder that is begun can be used as it is, and a check names all that is wrong with one."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.cli.outputs import FILES
from oodbench.benchmark.data.outputs import read_outputs, read_scores
from tests.support import bench


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result = bench("outputs", "init", tmp_path / "mine")
    assert result.exit_code == 0
    return tmp_path / "mine"


def test_the_examples_are_the_same_scores(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    long, wide = (read_scores(folder / f"example_{name}.csv") for name in ("long", "wide"))
    assert (long.id_set, wide.id_set) == ("cifar10", "ID")
    assert long.groups == wide.groups == {"svhn": "far", "cifar100": "near"}
    for one, other in ((long.id["test"], wide.id["test"]), *((long.ood[name], wide.ood[name]) for name in long.ood)):
        assert one.names == other.names
        assert {m: s[0].tolist() for m, s in one.scores.items()} == {m: s[0].tolist() for m, s in other.scores.items()}
    assert long.id["test"].scores["msp"][0].max() == -0.52
    assert long.id["test"].scores["mine"][0].min() == 0.12


def test_the_example_saves_what_is_read(folder: Path) -> None:
    runpy.run_path(str(folder / "save_outputs.py"))
    given = read_outputs(folder)
    assert list(given.id) == ["train", "test"]
    assert list(given.ood) == ["far_set", "near_set"]
    result = bench("outputs", "check", folder)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert (
        "id_test   ID:         300 images, logits float32 x 10, features float32 x 64, labels, names, accuracy"
        in lines[3]
    )
    assert lines[-2:] == ["head:          10 x 64, given", "Nothing is wrong."]


def uncommented(text: str) -> str:
    """The settings of outputs.toml in force, without its prose."""
    lines = [line.removeprefix("# ").removeprefix("#") for line in text.splitlines()]
    return "\n".join(line for line in lines if line.startswith("[") or " = " in line.partition("#")[0])


def test_the_commented_settings_are_right_once_they_are_in_force(folder: Path) -> None:
    text = uncommented((folder / "outputs.toml").read_text(encoding="utf-8"))
    (folder / "outputs.toml").write_text(text, encoding="utf-8")
    (folder / "ood").mkdir()
    for place in (folder / "id_test", folder / "ood" / "ssb_hard", folder / "ood" / "inaturalist"):
        np.savez(place, logits=np.zeros((3, 2)), score=np.arange(3), score_msp=np.arange(3))
    given = read_outputs(folder)
    assert given.title == "ResNet-50 on ImageNet-1k"
    assert given.groups == {"SSB-hard": "near", "iNaturalist": "far"}
    assert given.classes == ("tench", "goldfish")
    assert given.id["test"].scores["My method"][0].tolist() == [0, 1, 2]
    assert given.id["test"].scores["msp"][0].tolist() == [0, -1, -2]
    assert given.notes
    assert given.network
    assert given.preprocessing


def test_a_folder_with_files_is_not_changed(folder: Path, tmp_path: Path) -> None:
    (folder / "outputs.toml").write_text("mine")
    result = bench("outputs", "init", folder)
    assert result.exit_code == 2
    assert f"'{folder}' is not empty, and was not changed" in result.output
    assert (folder / "outputs.toml").read_text() == "mine"
    result = bench("outputs", "init", folder / "outputs.toml")
    assert result.exit_code == 2
    assert "cannot be used" in result.output
    (tmp_path / "empty").mkdir()
    assert bench("outputs", "init", tmp_path / "empty").exit_code == 0


def test_nothing_is_left_of_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "outputs.toml":
            raise OSError(28, "No space left on device")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    result = bench("outputs", "init", tmp_path / "mine")
    assert result.exit_code == 2
    assert "No space left on device" in result.output
    assert not (tmp_path / "mine").exists()


def save(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)


def test_all_problems_of_shapes_are_named(tmp_path: Path) -> None:
    save(tmp_path / "id_test.npz", logits=np.zeros((5, 3)), labels=np.zeros(4, int))
    save(tmp_path / "ood" / "svhn.npz", logits=np.zeros(5))
    save(tmp_path / "ood" / "dtd.npz", logits=np.zeros((5, 3)))
    save(tmp_path / "head.npz", bias=np.zeros(3))
    result = bench("outputs", "check", tmp_path)
    assert result.exit_code == 2
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 3
    assert all(any(name in error for error in errors) for name in ("id_test.npz", "ood/svhn.npz", "head.npz"))


def test_all_problems_of_values_are_named(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    bad = draw.normal(size=(5, 3))
    bad[2, 1] = np.nan
    train = draw.normal(size=(6, 3))
    save(tmp_path / "id_train.npz", logits=train, labels=np.array([0, 1, 0, 1, 0, 1]))
    save(tmp_path / "id_test.npz", logits=train)
    save(tmp_path / "ood" / "svhn.npz", logits=bad)
    save(tmp_path / "ood" / "dtd.npz", features=bad)
    result = bench("outputs", "check", tmp_path)
    assert result.exit_code == 2
    assert [line.partition("': ")[2][:31] for line in result.output.splitlines() if line.startswith("Error: ")] == [
        "the features of 'dtd' contain n",
        "the logits of 'svhn' contain na",
        "id_train has no image of class ",
        "every image of 'id_test' is als",
    ]
    assert "id_train  ID:         6 images, logits float64 x 3, labels" in result.output


def test_questions_are_notes(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("set,mine\nid,3\nid,4\nsvhn,1\nsvhn,2\n")
    result = bench("outputs", "check", tmp_path / "s.csv")
    assert result.exit_code == 0
    assert "Note: The scores of 'mine' are higher for ID than for OOD images" in result.output
    assert result.output.splitlines()[-1] == "Nothing must be corrected."
    assert "Nothing is wrong." in bench("outputs", "check", tmp_path / "s.csv", "--higher", "id").output


def test_a_head_that_does_not_belong_is_a_problem(folder: Path) -> None:
    runpy.run_path(str(folder / "save_outputs.py"))
    head = dict(np.load(folder / "head.npz"))
    save(folder / "head.npz", weight=head["weight"], bias=head["bias"] + 1)
    result = bench("outputs", "check", folder)
    assert result.exit_code == 2
    assert "is the bias missing?" in result.output
    (folder / "head.npz").unlink()
    assert "head:          10 x 64, recovered from features and logits" in bench("outputs", "check", folder).output
