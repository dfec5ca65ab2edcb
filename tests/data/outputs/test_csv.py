"""Scores in CSV files, long and wide: rows in any order reach their place, and what is wrong is one sentence."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.data.outputs import GivenOutputs, read_scores
from oodbench.benchmark.data.outputs.formats.csv_rows import BLOCK, MAX_LINE
from oodbench.benchmark.errors import UserError

LONG = """\
image,set,group,split,method,score,seed
a,cifar10,,id,mine,0.1,0
b,cifar10,,id,mine,0.2,0
x,svhn,far,ood,mine,0.8,0
y,svhn,far,ood,mine,0.9,0
b,cifar10,,id,mine,0.25,1
a,cifar10,,id,mine,0.15,1
y,svhn,far,ood,mine,0.95,1
x,svhn,far,ood,mine,0.85,1
b,cifar10,,id,theirs,2,0
a,cifar10,,id,theirs,1,0
y,svhn,far,ood,theirs,4,0
x,svhn,far,ood,theirs,3,0
"""

WIDE = """\
image,set,msp,energy
a,id,0.1,-5
b,id,0.2,-4
x,svhn,0.8,-1.5
y,dtd,0.9,-1e-1
"""


def read(folder: Path, text: str | bytes, higher: str | None = None) -> GivenOutputs:
    path = folder / "scores.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_scores(path, higher)


def values(given: GivenOutputs, method: str, seed: int = 0) -> dict[str, list[float]]:
    sets = {"id": given.id["test"], **given.ood}
    return {name: s.scores[method][seed].tolist() for name, s in sets.items() if method in s.scores}


def test_a_long_file(tmp_path: Path) -> None:
    given = read(tmp_path, LONG)
    assert given.id_set == "cifar10"
    assert given.groups == {"svhn": "far"}
    assert given.title == "scores"
    assert given.id["test"].names == ("a", "b")
    assert values(given, "mine") == {"id": [0.1, 0.2], "svhn": [0.8, 0.9]}
    assert values(given, "mine", 1) == {"id": [0.15, 0.25], "svhn": [0.85, 0.95]}
    assert values(given, "theirs") == {"id": [1, 2], "svhn": [3, 4]}


def test_a_wide_file(tmp_path: Path) -> None:
    given = read(tmp_path, WIDE)
    assert given.id_set == "ID"
    assert list(given.ood) == ["svhn", "dtd"]
    assert values(given, "msp") == {"id": [0.1, 0.2], "svhn": [0.8], "dtd": [0.9]}
    assert values(given, "energy") == {"id": [-5, -4], "svhn": [-1.5], "dtd": [-0.1]}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n").replace("\n\n", "\n", 1),
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace("svhn", '"svhn"').replace("set,", " set ,"),
        lambda text: text.rstrip("\n"),
    ],
)
def test_files_as_programs_write_them(tmp_path: Path, change: object) -> None:
    assert callable(change)
    assert values(read(tmp_path, change(LONG)), "theirs") == {"id": [1, 2], "svhn": [3, 4]}


def test_a_wide_file_with_all_columns(tmp_path: Path) -> None:
    text = "seed,msp,set,split,group,image\n" + "".join(
        f"{seed},{value + seed},{name},{split},{group},{image}\n"
        for seed in (0, 3)
        for name, split, group, image, value in (("c10", "id", "", "a", 0.5), ("svhn", "ood", "near", "x", 0.75))
    )
    given = read(tmp_path, text)
    assert (given.id_set, given.groups) == ("c10", {"svhn": "near"})
    assert values(given, "msp", 0) == {"id": [0.5], "svhn": [0.75]}
    assert values(given, "msp", 3) == {"id": [3.5], "svhn": [3.75]}


def test_rows_in_any_order_and_over_many_blocks(tmp_path: Path) -> None:
    count = BLOCK + 100
    draw = np.random.default_rng(0)
    scores = {(m, s): draw.normal(size=count) for m in "pq" for s in ("id", "svhn")}
    rows = [f"{k},{s},{m},{scores[m, s][k]!r}" for m in "pq" for s in ("id", "svhn") for k in range(count)]
    rows = [row.replace("np.float64(", "").replace(")", "") for row in rows]
    random.Random(0).shuffle(rows)
    given = read(tmp_path, "\n".join(["image,set,method,score", *rows]))
    for name, arrays in (("id", given.id["test"]), ("svhn", given.ood["svhn"])):
        assert arrays.names is not None
        order = np.array([int(image) for image in arrays.names])
        for method in "pq":
            np.testing.assert_array_equal(arrays.scores[method][0], scores[method, name][order])


def test_without_names_the_order_counts(tmp_path: Path) -> None:
    given = read(tmp_path, "set,score\nid,1\nid,2\nsvhn,5\nsvhn,3\n")
    assert given.id["test"].names is None
    assert values(given, "scores") == {"id": [1, 2], "svhn": [5, 3]}


def test_a_method_may_lack_a_set(tmp_path: Path) -> None:
    given = read(tmp_path, WIDE.replace("-1e-1", " "))
    assert values(given, "energy") == {"id": [-5, -4], "svhn": [-1.5]}
    assert values(given, "msp")["dtd"] == [0.9]


@pytest.mark.parametrize(
    "header, parameter, sign",
    [
        ("", None, 1),
        ("# higher = id\n", None, -1),
        ("# made by hand\n# energy: higher = id\n", None, -1),
        ("# msp: higher = id\n", None, 1),
        ("# higher = id\n# energy: higher = ood\n", None, 1),
        ("# higher = id\n", "ood", 1),
        ("", "id", -1),
    ],
)
def test_what_higher_means(tmp_path: Path, header: str, parameter: str | None, sign: int) -> None:
    assert values(read(tmp_path, header + WIDE, parameter), "energy")["svhn"] == [sign * -1.5]


def test_settings_beside_the_file(tmp_path: Path) -> None:
    text = 'higher = "id"\nid_set = "CIFAR"\ntitle = "T"\n[ood.dtd]\ntitle = "Textures"\ngroup = "near"\n[ood.absent]\n'
    (tmp_path / "outputs.toml").write_text(text)
    given = read(tmp_path, "# energy: higher = ood\n" + WIDE)
    assert list(given.ood) == ["Textures", "svhn"]
    assert (given.groups, given.id_set, given.title) == ({"Textures": "near"}, "CIFAR", "T")
    assert values(given, "msp")["svhn"] == [-0.8]
    assert values(given, "energy")["svhn"] == [-1.5]


def without(text: str, line: str) -> str:
    assert line in text
    return text.replace(line + "\n", "")


@pytest.mark.parametrize(
    "text, sentence",
    [
        (LONG.replace("0.95", "0,95"), "line 8: 8 cells, but the header has 7.*decimal commas"),
        (LONG.replace("0.95", '"0,95"'), "line 8: score is '0,95', with a decimal comma; write a decimal point"),
        (LONG.replace(",", ";").replace("0.95", "0,95"), "line 8: score is '0,95', with a decimal comma"),
        (LONG.replace("0.95", "nan"), "line 8: score is 'nan'; expected a finite number"),
        ("\n".join([*LONG.splitlines()[:7], "", "y,svhn,far,ood,mine,-inf,1"]), "line 9: score is '-inf'"),
        ("# a\n# b\n" + LONG.replace("0.95", "high"), "line 10: score is 'high'; expected a finite number"),
        (LONG.replace("0.95", ""), "line 8: score is ''"),
        (WIDE.replace("-4", "x"), "line 3: the score of 'energy' is 'x'"),
        (WIDE.replace("-4", "inf"), "line 3: the score of 'energy' is 'inf'"),
        (WIDE.replace("-4", ""), "no score of 'energy' for the image 'b' of 'id'; expected one of every method"),
        (WIDE.replace("0.9,-1e-1", ","), "no scores of any method on 'dtd'; fill its cells, or remove its rows"),
        (WIDE.replace("-5\n", "\n").replace("-4", ""), "'energy' on 'svhn', but none on the ID test images"),
        (WIDE.replace("-1.5\n", "\n").replace("-1e-1", ""), "'energy' on the ID test images, but on no OOD set"),
        (without(LONG, "y,svhn,far,ood,mine,0.95,1"), r"no score of 'mine' \(seed 1\) for the image 'y' of 'svhn'"),
        (without(LONG, "a,cifar10,,id,theirs,1,0"), "no score of 'theirs' for the image 'a' of 'cifar10'"),
        (LONG.replace("y,svhn,far,ood,theirs", "x,svhn,far,ood,theirs"), "2 scores of 'theirs' for the image 'x'"),
        (LONG.replace("b,cifar10,,id,mine,0.2,0", "b,svhn,,id,mine,0.2,0"), "line 4: the set 'svhn' is ood, but id in"),
        (LONG.replace("0.95,1", "0.95,one"), "line 8: seed is 'one'; expected a whole number"),
        (LONG.replace("y,svhn,far", "y,svhn,near"), "line 5: the group of 'svhn' is near, but far in a row before"),
        (LONG.replace("far", "remote"), "line 4: group is 'remote'; it must be near, far or empty"),
        (LONG.replace(",id,", ",test,"), "line 2: split is 'test'; it must be id or ood"),
        (LONG.replace("svhn", ""), "line 4: the set is empty"),
        (LONG.replace("theirs", ""), "line 10: the method is empty"),
        (LONG.replace("\nb,", "\n,"), "line 3: the image is empty"),
        (
            LONG.replace(",ood,", ",id,").replace(",far", ","),
            r"has 2 ID sets \(cifar10, svhn\); expected rows of one ID",
        ),
        (LONG.replace(",id,", ",ood,"), "has no ID set; .*'split' .id or ood. says which"),
        (WIDE.replace(",id,", ",ID test,"), "has no ID set; .*'id' in the column 'set' marks it"),
        ("set,msp\nid,1\n", "has no OOD set"),
        (LONG.replace("group", "groups"), "unknown column 'groups'.* Did you mean 'group'"),
        (LONG.replace("seed", "energy"), "unknown column 'energy'"),
        (LONG.replace("score", "value"), "has a column 'method' but none of scores"),
        (LONG.replace(",set,", ",dataset,"), "no column 'set'; its columns are image, dataset"),
        ("image,set\na,id\n", "has no scores; expected a column 'score', or one for each method"),
        (WIDE.replace("energy", "msp"), "has two columns 'msp'"),
        (WIDE.replace("energy", ""), "column 4 of 4 has no name"),
        ("# higher = up\n" + WIDE, "says 'higher = up'; it must be ood or id"),
        ("", "is empty or begins with a blank line"),
        ("\n" + WIDE, "is empty or begins with a blank line"),
        (WIDE.splitlines()[0], "has no ID set"),
        (WIDE.replace("0.9,", "0.9,1,"), "line 5: 5 cells, but the header has 4: image, set, msp, energy"),
        (WIDE.replace("b,id,0.2,-4", "b,id,0.2"), "line 3: 3 cells"),
        (
            "set,score\nid,1\nid,2\nsvhn,5\n".replace("score", "a,b")
            .replace("id,2", "id,2,")
            .replace(",1", ",1,1")
            .replace(",5", ",5,5"),
            "1 scores of 'b' on 'id', but 2 of 'a'",
        ),
        (LONG.encode("utf-16"), "not text in UTF-8"),
        (WIDE.encode() + b"c\xff,id,1,1\n", "not text in UTF-8"),
        (b"\0" * 100, "its header is not text"),
        (b"x" * (2 * MAX_LINE), "has a line of over"),
        (WIDE + "c" * 200_000 + ",id,1,1\n", "cannot be read as CSV"),
        ("set,score\n" + "".join(f"s{k},1\n" for k in range(1002)), "more than 1,000 sets"),
    ],
)
def test_one_sentence_says_what_is_wrong(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, text)


def test_random_bytes_are_one_sentence(tmp_path: Path) -> None:
    draw = random.Random(0)
    refusals = []
    for _ in range(150):
        content = bytearray(draw.choice([LONG, WIDE]).encode())
        for _ in range(draw.choice([1, 3, 30])):
            content[draw.randrange(len(content))] = draw.choice([draw.randrange(256), *b',\n"#'])
        try:
            read(tmp_path, draw.choice([bytes(content), bytes(content[: draw.randrange(len(content))])]))
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert not [text for text in refusals if "scores.csv" not in text]


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; expected a CSV file, or a folder"):
        read_scores(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="higher is 'up'; it must be ood or id"):
        read(tmp_path, WIDE, "up")
