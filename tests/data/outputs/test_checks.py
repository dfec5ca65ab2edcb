"""Values of arrays: refused where they cannot be right, asked about where they may be wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.data.outputs import accuracy, check_outputs, read_outputs, read_scores
from oodbench.benchmark.data.outputs.formats.spool import BLOCK
from oodbench.benchmark.errors import UserError
from tests.data.outputs.folders import write_folder


def good(count: int, seed: int, scale: float = 6.0, **more: Any) -> dict[str, Any]:
    """Outputs of a network that is right and, with a high scale, certain; 4 classes, 6 features."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    logits = draw.normal(size=(count, 4)) + scale * np.eye(4)[labels]
    return {"logits": logits, "features": draw.normal(size=(count, 6)).astype(np.float32), "labels": labels} | more


def sets(**changed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A folder without problems; sets in `changed` replace its own."""
    found = {"id_train": good(40, 1), "id_test": good(30, 2), "svhn": good(20, 3, scale=0), "dtd": good(25, 4, scale=0)}
    return found | changed


def notes(folder: Path, **changed: dict[str, Any]) -> tuple[str, ...]:
    return check_outputs(read_outputs(write_folder(folder / "given", **sets(**changed))))


def test_good_outputs_raise_no_questions(tmp_path: Path, logged: list[str]) -> None:
    assert notes(tmp_path) == ()
    assert not logged


def set_to(array: Any, row: int, value: float) -> Any:
    changed = array.copy()
    changed[row, 1] = value
    return changed


@pytest.mark.parametrize("what", ["logits", "features"])
@pytest.mark.parametrize("name", ["id_train", "id_test", "dtd"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, what: str, name: str, value: float) -> None:
    changed = sets()[name]
    images = np.array([f"img{k}" for k in range(len(changed["labels"]))])
    changed |= {what: set_to(set_to(changed[what], 19, value), 22, np.nan), "names": images}
    sentence = f"the {what} of '{name}' contain {value} in row 19, image 'img19' .and in 1 more rows.; expected finite"
    with pytest.raises(UserError, match=sentence):
        notes(tmp_path, **{name: changed})


def test_a_value_in_a_later_block(tmp_path: Path) -> None:
    rows = BLOCK // (4 * 8) + 7
    changed = good(rows, 5)
    changed["logits"][rows - 2, 0] = np.nan
    with pytest.raises(UserError, match=f"contain nan in row {rows - 2};"):
        notes(tmp_path, id_test=changed)


def test_overflow_of_float16(tmp_path: Path) -> None:
    changed = good(30, 2)
    with np.errstate(over="ignore"):
        changed["features"] = set_to(changed["features"], 3, 70_000).astype(np.float16)
    with pytest.raises(UserError, match=r"features of 'id_test' overflowed float16, .* inf in row 3\. .*float32"):
        notes(tmp_path, id_test=changed)


def test_a_class_without_training_images(tmp_path: Path) -> None:
    changed = {name: array[np.arange(40) % 4 != 2] for name, array in good(40, 1).items()}
    with pytest.raises(UserError, match=r"id_train has no image of class 2 .'2'., of 4 classes"):
        notes(tmp_path, id_train=changed)
    del changed["labels"]
    assert notes(tmp_path, id_train=changed) == ()


def test_a_test_set_may_lack_a_class(tmp_path: Path) -> None:
    assert notes(tmp_path, id_test={name: array[np.arange(30) % 4 != 2] for name, array in good(30, 2).items()}) == ()


def test_an_ood_set_with_the_labels_that_the_network_predicts(tmp_path: Path) -> None:
    unlabelled = {name: array for name, array in good(30, 2, scale=0).items() if name != "labels"}
    with pytest.raises(UserError, match=r"labels of \d+.\d% of the OOD set 'dtd', but id_test has no labels"):
        notes(tmp_path, id_test=unlabelled, dtd=good(25, 4))
    with pytest.raises(UserError, match=r"OOD set 'dtd', but of only 2\d.\d% of id_test\. Were the files exchanged"):
        notes(tmp_path, id_test=good(50, 6, scale=0), dtd=good(25, 4))


@pytest.mark.parametrize("labels", [np.arange(25) % 4 + 1, np.full(25, -1), np.array(["x"] * 25), np.arange(25) / 2])
def test_other_labels_of_ood_sets_have_no_meaning(tmp_path: Path, labels: Any) -> None:
    assert notes(tmp_path, dtd=good(25, 4, scale=0, labels=labels)) == ()


def test_a_shifted_set_that_the_network_classifies_less_well_is_no_exchange(tmp_path: Path) -> None:
    assert notes(tmp_path, dtd=good(25, 4, scale=2)) == ()


@pytest.mark.parametrize(
    "changed, note",
    [
        (
            {"id_test": good(30, 2, labels=(np.arange(30) + 1) % 4)},
            r"accuracy on ID test images is 0\.0%, no better than",
        ),
        (
            {"id_test": good(30, 2, scale=0), "svhn": good(20, 3), "dtd": good(25, 4)},
            "more confident on the images of every",
        ),
    ],
)
def test_questions(tmp_path: Path, changed: Any, note: str, logged: list[str]) -> None:
    for name in ("svhn", "dtd"):
        changed[name] = {k: v for k, v in (changed.get(name) or sets()[name]).items() if k != "labels"}
    found = notes(tmp_path, **changed)
    assert any(re.search(note, text) for text in found), found
    assert logged == list(found)


def test_accuracy_of_images_of_one_class_raises_no_question(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(30, 4)) + np.array([4, 0, 0, 0])
    assert notes(tmp_path, id_test=good(30, 2, logits=logits, labels=np.zeros(30, int))) == ()


def softmax(content: dict[str, Any]) -> dict[str, Any]:
    values = np.exp(content["logits"])
    return content | {"logits": values / values.sum(axis=1, keepdims=True)}


def test_probabilities_in_place_of_logits(tmp_path: Path) -> None:
    every = {name: softmax(content) for name, content in sets().items()}
    (note,) = notes(tmp_path / "a", **every)
    assert note.startswith("The logits given are probabilities")
    assert notes(tmp_path / "b", **every | {"dtd": sets()["dtd"]}) == ()


def part(content: dict[str, Any], rows: Any, other: dict[str, Any]) -> dict[str, Any]:
    """`other`, in which some rows are those of `content`."""
    changed = {name: array.copy() for name, array in other.items()}
    for name in ("logits", "features"):
        changed[name][rows] = content[name][rows]
    return changed


def test_images_in_two_sets_are_counted(tmp_path: Path) -> None:
    rows = [1, 5, 7]
    test, train, dtd = sets()["id_test"], sets()["id_train"], sets()["dtd"]
    assert notes(tmp_path / "a", dtd=part(test, rows, dtd)) == (
        "3 of 25 images of dtd are also in id_test (the same logits).",
    )
    assert notes(tmp_path / "b", id_test=part(train, rows, test)) == (
        "3 of 30 images of id_test are also in id_train (the same logits).",
    )
    assert notes(tmp_path / "c", dtd=part(train, rows, dtd)) == (
        "3 of 25 images of dtd are also in id_train (the same logits).",
    )
    assert notes(tmp_path / "d", dtd=part(sets()["svhn"], rows, dtd)) == (
        "3 of 20 images of svhn are also in dtd (the same logits).",
    )
    whole = {name: np.concatenate([sets()["svhn"][name], dtd[name]]) for name in dtd}
    assert notes(tmp_path / "e", dtd=whole) == ("20 of 20 images of svhn are also in dtd (the same logits).",)


def test_sets_that_are_the_same(tmp_path: Path) -> None:
    test = {k: v for k, v in sets()["id_test"].items() if k != "labels"}
    with pytest.raises(UserError, match=r"every image of 'dtd' is also in 'id_test' .the same logits"):
        notes(tmp_path / "a", dtd={k: v[::-1][:20] for k, v in test.items()})
    alone = {name: {"features": content["features"]} for name, content in sets().items()}
    with pytest.raises(UserError, match=r"every image of 'id_test' is also in 'id_train' .the same features"):
        notes(tmp_path / "b", **alone | {"id_test": {"features": alone["id_train"]["features"][4:9]}})


def test_rows_of_different_arrays_are_not_compared(tmp_path: Path) -> None:
    same = np.random.default_rng(0).normal(size=(20, 4))
    changed = {name: {"features": content["features"][:, :4]} for name, content in sets().items()}
    changed["svhn"] = {"features": same}
    changed["dtd"] = {"logits": same}
    assert notes(tmp_path, **changed) == ()


def test_scores_with_the_sign_turned(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("set,a,b\nid,1,1\nid,2,2\nsvhn,0.5,5\nsvhn,1.5,3\ndtd,0,5\n")
    (note,) = check_outputs(read_scores(tmp_path / "s.csv"))
    assert re.search("scores of 'a' are higher for ID than for OOD .*'# higher = id'", note)
    (note,) = check_outputs(read_scores(tmp_path / "s.csv", "id"))
    assert "scores of 'b'" in note


def test_scores_that_were_saved_twice(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("set,a\nid,1\nid,2\nsvhn,3\nsvhn,4\ndtd,3\ndtd,4\n")
    with pytest.raises(UserError, match="scores of 'a' on 'dtd' are exactly those on 'svhn'"):
        check_outputs(read_scores(tmp_path / "s.csv"))
    (tmp_path / "s.csv").write_text("set,a\nid,1\nid,2\nsvhn,4\nsvhn,4\ndtd,4\ndtd,4\n")
    assert check_outputs(read_scores(tmp_path / "s.csv")) == ()


def test_accuracy(tmp_path: Path) -> None:
    given = read_outputs(write_folder(tmp_path / "given", **sets()))
    content = sets()["id_test"]
    assert accuracy(given.id["test"]) == (content["logits"].argmax(axis=1) == content["labels"]).mean()
    assert accuracy(given.ood["dtd"]) is None
