"""Folders of arrays are read as they lie, and written so that they are read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.data.outputs import GivenOutputs, joined, read_outputs, read_scores, write_outputs
from oodbench.benchmark.errors import UserError
from tests.data.outputs.folders import arrays, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = np.array([f"{k}.png" for k in range(7)])
    head = {"weight": np.ones((3, 5)), "bias": np.zeros(3)}
    return write_folder(
        tmp_path / "given",
        id_train=arrays(9, 1),
        id_test=arrays(7, 2, names=names),
        svhn=arrays(4, 3),
        dtd=arrays(5, 4),
        head=head,
    )


def settings(folder: Path, text: str) -> Path:
    (folder / "outputs.toml").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_of_npz(folder: Path) -> None:
    given = read_outputs(folder)
    assert list(given.id) == ["train", "test"]
    assert list(given.ood) == ["dtd", "svhn"]
    assert given.title == "given"
    assert given.classes == ("0", "1", "2")
    test = given.id["test"]
    assert test.count == 7
    assert test.names is not None
    assert test.names[6] == "6.png"
    assert isinstance(test.logits, np.memmap)
    np.testing.assert_array_equal(test.logits, arrays(7, 2)["logits"])
    np.testing.assert_array_equal(given.ood["svhn"].features, arrays(4, 3)["features"])
    np.testing.assert_array_equal(test.labels, np.arange(7) % 3)
    assert given.head is not None
    assert given.head.weight.shape == (3, 5)
    assert given.ood["svhn"].labels is None


def test_settings_order_name_and_group_sets(folder: Path) -> None:
    text = """
    title = "My run"
    id_set = "cifar10"
    classes = ["cat", "dog", "ox"]
    notes = ["Said."]
    [ood.svhn]
    title = "SVHN"
    group = "far"
    """
    given = read_outputs(settings(folder, text))
    assert list(given.ood) == ["SVHN", "dtd"]
    assert given.groups == {"SVHN": "far"}
    assert (given.title, given.id_set, given.classes) == ("My run", "cifar10", ("cat", "dog", "ox"))
    assert given.notes == ("Said.",)


def same(given: GivenOutputs, again: GivenOutputs) -> None:
    for a, b in [
        *zip(given.id.items(), again.id.items(), strict=True),
        *zip(given.ood.items(), again.ood.items(), strict=True),
    ]:
        assert a[0] == b[0]
        for field in ("logits", "features", "labels"):
            np.testing.assert_array_equal(getattr(a[1], field), getattr(b[1], field))
        assert (a[1].names, a[1].count) == (b[1].names, b[1].count)
        assert {m: sorted(s) for m, s in a[1].scores.items()} == {m: sorted(s) for m, s in b[1].scores.items()}
        for method, by_seed in a[1].scores.items():
            for seed, scores in by_seed.items():
                np.testing.assert_array_equal(scores, b[1].scores[method][seed])
    for name in ("title", "id_set", "groups", "classes", "network", "preprocessing", "notes"):
        assert getattr(given, name) == getattr(again, name)


def test_what_is_written_is_read_again(folder: Path, tmp_path: Path) -> None:
    scored = {"score_mine": np.arange(4.0), "score_other@7": np.ones(4)}
    write_folder(folder, svhn=arrays(4, 3) | scored)
    text = """
    notes = ["a \\" quote", "b"]
    network = "ResNet"
    preprocessing = "resize 224"
    higher = "id"
    [ood.svhn]
    title = "Street / numbers"
    group = "near"
    """
    given = read_outputs(settings(folder, text))
    assert given.ood["Street / numbers"].scores["mine"][0].tolist() == [0, -1, -2, -3]
    write_outputs(tmp_path / "again", given)
    again = read_outputs(tmp_path / "again")
    same(given, again)
    assert again.head is not None
    np.testing.assert_array_equal(again.head.weight, np.ones((3, 5)))


def test_two_npy_files_are_the_scores_of_one_method(tmp_path: Path) -> None:
    (tmp_path / "mine" / "ood").mkdir(parents=True)
    np.save(tmp_path / "mine" / "id_test.npy", np.array([0.25, 0.5]))
    np.save(tmp_path / "mine" / "ood" / "svhn.npy", np.array([1, 2, 3]))
    given = read_scores(tmp_path / "mine")
    assert given.id["test"].scores["mine"][0].tolist() == [0.25, 0.5]
    assert given.ood["svhn"].scores["mine"][0].tolist() == [1, 2, 3]
    turned = read_scores(tmp_path / "mine", higher="id")
    assert turned.ood["svhn"].scores["mine"][0].tolist() == [-1, -2, -3]


def scores(folder: Path, **sets: dict[str, Any]) -> GivenOutputs:
    return read_scores(write_folder(folder, **sets))


def test_scores_are_joined_by_name_or_by_order(folder: Path, tmp_path: Path) -> None:
    outputs = read_outputs(folder)
    order = np.random.default_rng(0).permutation(7)
    names = np.array([f"{k}.png" for k in order])
    given = scores(tmp_path / "s", id_test={"score_a": order * 2.0, "names": names}, dtd={"score_a": np.arange(5.0)})
    both = joined(outputs, given)
    assert both.id["test"].scores["a"][0].tolist() == (np.arange(7) * 2.0).tolist()
    assert both.ood["dtd"].scores["a"][0].tolist() == [0, 1, 2, 3, 4]
    assert not both.ood["svhn"].scores
    assert both.notes == ()
    assert both.id["test"].logits is outputs.id["test"].logits


@pytest.mark.parametrize(
    "sets, sentence",
    [
        ({"id_test": {"score": np.zeros(7)}, "dtd": {"score": np.zeros(4)}}, "4 images of 'dtd', and .* 5 images"),
        ({"id_test": {"score": np.zeros(7)}, "svh": {"score": np.zeros(4)}}, "'svh'.* Did you mean 'svhn'"),
        (
            {
                "id_test": {"score": np.zeros(6), "names": np.array([f"{k}.png" for k in range(6)])},
                "dtd": {"score": np.zeros(5)},
            },
            "of which '6.png' has no score",
        ),
        (
            {
                "id_test": {"score": np.zeros(8), "names": np.array([f"{k}.png" for k in range(8)])},
                "dtd": {"score": np.zeros(5)},
            },
            "do not include '7.png'",
        ),
    ],
)
def test_scores_of_other_images_are_refused(folder: Path, tmp_path: Path, sets: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        joined(read_outputs(folder), scores(tmp_path / "s", **sets))


def test_rows_that_only_one_side_names_are_matched_by_order_with_a_note(folder: Path, tmp_path: Path) -> None:
    outputs = read_outputs(settings(folder, 'notes = ["Mine."]'))
    given = scores(tmp_path / "s", id_test={"score_a": np.arange(7.0)}, dtd={"score_a": np.arange(5.0)})
    sentence = f"'{folder}' names its images and '{tmp_path / 's'}' does not: the scores were matched to the arrays by"
    both = joined(outputs, given)
    assert both.id["test"].scores["a"][0].tolist() == list(range(7))
    assert [note[: len(sentence)] for note in both.notes] == ["Mine.", sentence]
    names = np.array([f"{k}.png" for k in range(5)])
    given = scores(tmp_path / "t", id_test={"score_a": np.arange(7.0)}, dtd={"score_a": np.arange(5.0), "names": names})
    assert len(joined(outputs, given).notes) == 3
    assert joined(outputs, given).ood["dtd"].names == tuple(names)


def test_scores_that_contradict_the_outputs_are_refused(folder: Path, tmp_path: Path) -> None:
    write_folder(folder, svhn=arrays(4, 3) | {"score_a": np.zeros(4)}, id_test=arrays(7, 2) | {"score_a": np.zeros(7)})
    outputs = read_outputs(settings(folder, '[ood.svhn]\ngroup = "far"'))
    sets = {"id_test": {"score_b": np.zeros(7)}, "svhn": {"score_b": np.zeros(4)}}
    assert joined(outputs, scores(tmp_path / "good", **sets)).ood["svhn"].scores.keys() == {"a", "b"}
    with pytest.raises(UserError, match=r"has scores of id_val, which '.*' does not have"):
        joined(outputs, scores(tmp_path / "val", id_val={"score_b": np.zeros(3)}, **sets))
    near = settings(write_folder(tmp_path / "near", **sets), '[ood.svhn]\ngroup = "near"')
    with pytest.raises(UserError, match=r"puts 'svhn' in the group far, '.*near' in near"):
        joined(outputs, read_scores(near))
    twice = {name: {"score_a": content["score_b"]} for name, content in sets.items()}
    with pytest.raises(UserError, match=r"have scores of 'a'. Rename one of them"):
        joined(outputs, scores(tmp_path / "twice", **twice))
