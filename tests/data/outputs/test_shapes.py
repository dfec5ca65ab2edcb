"""Shapes, types, labels, names and settings that cannot be right are one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.data.outputs import check_outputs, read_outputs, read_scores
from oodbench.benchmark.errors import UserError
from tests.data.outputs.folders import arrays, write_folder


def refused(folder: Path, sentence: str, settings: str = "", **sets: dict[str, Any]) -> None:
    write_folder(folder, **{"id_test": arrays(7, 2), "svhn": arrays(4, 3)} | sets)
    (folder / "outputs.toml").write_text(settings, encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as caught:
        read_outputs(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"features": np.zeros((6, 5))}, r"'features' in .*id_test.npz' has 6 rows, but 'logits' .* has 7; both must"),
        ({"labels": np.arange(8)}, r"'labels' in .* has 8 rows, but 'logits'"),
        ({"score": np.zeros(8)}, r"'score' in .* has 8 rows"),
        ({"names": np.array(["a"])}, r"'names' in .* has 1 rows"),
        ({"logits": np.zeros(7)}, r"has the shape \(7,\); expected two dimensions.* a column for each class"),
        ({"logits": np.zeros((7, 1))}, "has 1 column; logits need one for each class"),
        ({"features": np.zeros((7, 5, 1, 1))}, r"shape \(7, 5, 1, 1\);.* flatten it with x.reshape\(len\(x\), -1\)"),
        ({"features": np.zeros((7, 0))}, r"shape \(7, 0\): no columns"),
        ({"logits": np.float64(3)}, "'logits' in .* is a single value; expected one row for each image"),
        ({"logits": np.zeros((7, 3), complex)}, "contains complex128; expected numbers"),
        ({"logits": np.zeros((7, 3), bool)}, "contains bool; expected floating-point numbers"),
        ({"logits": np.array([["a"] * 3] * 7)}, "contains <U1; expected floating-point numbers"),
        ({"labels": np.eye(3)[np.arange(7) % 3]}, r"shape \(7, 3\), as one-hot labels have.*labels.argmax\(axis=1\)"),
        ({"labels": np.zeros((7, 3, 3))}, r"shape \(7, 3, 3\); expected one class number"),
        ({"labels": np.arange(7) % 3 * 1.0}, r"contains float64; labels are class numbers.*labels.astype\(np.int64\)"),
        ({"labels": np.array(["cat"] * 7)}, "contains texts, such as 'cat'; expected class numbers, or .*'classes'"),
        (
            {"labels": np.array([0, 1, 2, 3, 0, 1, 2])},
            "label of 'id_test' in row 3 is 3; expected 0 to 2, as .* 3 classes",
        ),
        ({"labels": np.array([1, 2, 3, 1, 2, 3, 1])}, "in row 2 is 3; .* Do they count from 1.*labels - 1"),
        ({"labels": np.array([0, -1, 2, 0, 0, 1, 2])}, "in row 1 is -1; expected 0 to 2"),
        ({"labels": np.array([0] * 6 + [1 << 63], np.uint64)}, "contains the label 9223372036854775808"),
        ({"names": np.array(list("abcdeaf"))}, "the name 'a' in rows 0 and 5; every image needs its own"),
        ({"names": np.arange(7)}, "contains int64 in the shape .*; expected a name for each image"),
        ({"names": np.array([b"\xff"] * 7)}, "contains a text that is not UTF-8"),
        ({"score": np.array([0, 1, np.nan, 3, 4, 5, 6])}, "score in row 2 is nan; expected finite"),
        ({"score": np.zeros((7, 2))}, r"shape \(7, 2\); expected one score for each image"),
        ({"score_a": np.zeros(7), "score_a@0": np.zeros(7)}, "scores of 'a' are given twice"),
        ({"logit": np.zeros((7, 3))}, "'logit' in .* is not known here; expected logits, .* Did you mean 'logits'"),
        ({"arr_0": np.zeros((7, 3))}, r"shape \(7, 3\) and no name. Name logits and features"),
    ],
)
def test_arrays_of_a_set(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    refused(tmp_path, sentence, id_test=arrays(7, 2) | change)


def test_an_empty_set(tmp_path: Path) -> None:
    refused(tmp_path, "no rows: the set 'svhn' is empty. Leave it out, or save its images", svhn=arrays(0))


@pytest.mark.parametrize(
    "sets, sentence",
    [
        (
            {"svhn": {"logits": np.zeros((4, 4))}},
            "logits of 'svhn' have 4 columns, those of 'id_test' 3; all sets must",
        ),
        ({"svhn": {"features": np.zeros((4, 6))}}, "features of 'svhn' have 6 columns, those of 'id_test' 5"),
        ({"id_train": {"features": np.zeros((4, 6))}}, "features of 'id_test' have 5 columns, those of 'id_train' 6"),
        ({"head": {"bias": np.zeros(3)}}, "is there without 'weight'"),
        ({"head": {"weight": np.zeros(3)}}, r"shape \(3,\); expected \(K, D\)"),
        ({"head": {"weight": np.zeros((5, 3)), "bias": np.zeros(3)}}, "Save the weight transposed: weight.T"),
        ({"head": {"weight": np.zeros((3, 5)), "bias": np.zeros(4)}}, r"bias' .* has the shape \(4,\), and .*weight"),
        ({"head": {"weight": np.zeros((4, 5))}}, "head has 4 classes, the logits have 3 columns"),
        ({"head": {"weight": np.zeros((3, 6))}}, "head takes 6 features, the features have 5 columns"),
        ({"head": {"wieght": np.zeros((3, 5))}}, "'wieght' in .*expected weight, bias. Did you mean 'weight'"),
    ],
)
def test_sets_and_head_of_different_networks(tmp_path: Path, sets: dict[str, Any], sentence: str) -> None:
    refused(tmp_path, sentence, **sets)


def test_the_same_array_in_two_files(tmp_path: Path) -> None:
    np.save(tmp_path / "id_test_logits.npy", np.zeros((7, 3)))
    refused(tmp_path, "are the same array twice. Remove one of them")


def test_labels_as_texts_and_as_a_column(tmp_path: Path) -> None:
    labels = np.array(["dog", "cat", "ox", "cat"])
    write_folder(
        tmp_path, id_test=arrays(4, labels=labels), id_val=arrays(3, labels=np.array([[1], [0], [2]])), svhn=arrays(3)
    )
    (tmp_path / "outputs.toml").write_text('classes = ["cat", "dog", "ox"]')
    given = read_outputs(tmp_path)
    assert given.id["test"].labels is not None
    assert given.id["test"].labels.tolist() == [1, 0, 2, 0]
    assert given.id["val"].labels is not None
    assert given.id["val"].labels.tolist() == [1, 0, 2]
    (tmp_path / "outputs.toml").write_text('classes = ["cat", "dog", "fox"]')
    with pytest.raises(
        UserError, match=r"row 2 is 'ox', which 'classes' in outputs.toml does not name. Did you mean 'fox'"
    ):
        read_outputs(tmp_path)


def test_classes_that_only_labels_or_ood_logits_number(tmp_path: Path) -> None:
    features = {k: v for k, v in arrays(7).items() if k != "logits"}
    write_folder(tmp_path, id_test=features, svhn={"features": arrays(3)["features"]})
    assert read_outputs(tmp_path).classes == ("0", "1", "2")
    write_folder(tmp_path, svhn={"logits": np.zeros((3, 9))})
    assert len(read_outputs(tmp_path).classes) == 9
    labels = np.array([0, 1, 1 << 40])
    write_folder(
        tmp_path, id_test={"features": np.zeros((3, 2)), "labels": labels}, svhn={"features": np.zeros((3, 2))}
    )
    with pytest.raises(UserError, match="has the label 1,099,511,627,776; labels are class numbers"):
        read_outputs(tmp_path)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ("titel = 'x'", "unknown key 'titel'. Did you mean 'title'"),
        ("title = 3", "title must be a text in quotes, got 3"),
        ("notes = 'x'", "notes must be a list of texts in quotes"),
        ("classes = ['a', 'b', 'a']", "classes names 'a' twice"),
        ("classes = ['a', 'b']", "logits have 3 columns, but 'classes' in outputs.toml names 2"),
        ("higher = 'up'", "higher is 'up'; it must be ood or id"),
        ("[scores.energy]\nhigher = 'up'", r"higher of \[scores.energy\] is 'up'"),
        ("[scores]\nenergy = 'id'", r"scores.energy must be a table, \[scores.energy\], got 'id'"),
        ("ood = 3", r"ood must be tables such as \[ood.NAME\], got 3"),
        ("[ood.svhn]\ngroup = 'middle'", r"group of \[ood.svhn\] is 'middle'; it must be near or far"),
        ("[ood.svhn]\ngruop = 'near'", r"unknown key 'gruop' in \[ood.svhn\]. Did you mean 'group'"),
        ("[ood.svnh]", r"has \[ood.svnh\], but no file 'ood/svnh' with arrays. Did you mean 'svhn'"),
        ("[ood.svhn]\ntitle = 'dtd'", "calls both 'svhn' and 'dtd' 'dtd'. Give one another title"),
        ("title = ", "is not valid TOML"),
        ("x = " + "[" * 100 + "]" * 100, "is not valid TOML"),
    ],
)
def test_settings(tmp_path: Path, settings: str, sentence: str) -> None:
    refused(tmp_path, sentence, settings, dtd=arrays(3))


def test_folders_that_lack_sets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; expected a folder with id_test.npz"):
        read_outputs(tmp_path / "absent")
    with pytest.raises(UserError, match="has no id_test"):
        read_outputs(write_folder(tmp_path / "a", svhn=arrays(3)))
    with pytest.raises(UserError, match="has no OOD set: no arrays in its folder 'ood'"):
        read_outputs(write_folder(tmp_path / "b", id_test=arrays(3)))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        read_outputs(tmp_path / "file")
    with pytest.raises(UserError, match="has no scores of id_test"):
        read_scores(write_folder(tmp_path / "c", id_test=arrays(3), svhn={"score": np.zeros(3)}))
    with pytest.raises(UserError, match="on the ID test images, but on no OOD set"):
        read_scores(write_folder(tmp_path / "d", id_test={"score": np.zeros(3)}, svhn=arrays(3)))


def test_files_of_no_set_are_named(tmp_path: Path, logged: list[str]) -> None:
    write_folder(tmp_path, id_test=arrays(60), svhn=arrays(50, 4))
    np.save(tmp_path / "id_tset_logits.npy", np.zeros((3, 3)))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "._id_train.npz").write_text("not an archive")
    check_outputs(read_outputs(tmp_path))
    named = [message for message in logged if "is not used" in message]
    assert len(named) == 1
    assert "id_tset_logits.npy' is not used: no set is called 'id_tset'. Did you mean 'id_test'" in named[0]


def test_names_that_need_other_files(tmp_path: Path) -> None:
    """OOD sets whose names end like an array's, and a set in another folder's name."""
    write_folder(tmp_path, id_test=arrays(4), my_logits=arrays(3))
    np.save(tmp_path / "ood" / "x_labels_logits.npy", np.zeros((5, 3)))
    given = read_outputs(tmp_path)
    assert {name: found.count for name, found in given.ood.items()} == {"my_logits": 3, "x_labels": 5}
