"""An [[id]] of a suite that replaces another where its images are available, and shifted sets that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite_file import read_suite
from tests.data.openood_tree import CIFAR, openood_tree
from tests.support import prepare_suite, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits"
notes = ["Of digits."]
ood = [{ set = "greek", group = "near" }]

[[id]]
set = "cifar10-openood"
replaces = "digits"
notes = ["Of the lists."]
tuning = "tinyimagenet-openood10"
shifted = ["cifar10c-openood"]
ood = [{ set = "cifar100-openood10", group = "near" }, { set = "textures-openood", group = "far" }]
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openood_tree(tmp_path_factory.mktemp("data"), CIFAR, 10)


def ids_of(suite: Path, data_dir: Path, **options: str) -> set[str]:
    return {pair.id.set for pair in prepare_suite(suite, data_dir=data_dir, **options).plan.pairs}


def test_all_takes_the_replacing_set_where_it_is_there(tmp_path: Path, tree: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    assert ids_of(suite, tree) == {"cifar10-openood"}
    assert ids_of(suite, tree, id_sets="digits") == {"digits"}
    assert ids_of(suite, tmp_path) == {"digits"}
    with pytest.raises(UserError, match=r"train split of 'cifar10-openood' is not in"):
        ids_of(suite, tmp_path, id_sets="cifar10-openood")


def test_without_it_nothing_is_said_of_it(tmp_path: Path) -> None:
    run = run_suite(write_suite(tmp_path, MATRIX), data_dir=tmp_path)
    assert run.info["notes"][0] == "Of digits."
    assert not run.info["skipped"]
    assert "lists" not in (run.path / "table.md").read_text()


def test_a_run_says_that_the_membership_is_that_of_lists(tmp_path: Path, tree: Path) -> None:
    run = run_suite(write_suite(tmp_path, MATRIX), data_dir=tree, metrics="extended")
    assert {record.status for record in run.records} == {"ok"}
    assert run.info["notes"][0] == "Of the lists."
    assert "OpenOOD v1.5's lists say which images are members" in (run.path / "table.md").read_text()
    assert "larger" not in " ".join(run.info["notes"])  # 32 x 32 is the board's own size
    lists = {Path(path).name for files in run.info["data"].values() for path in files}
    assert {"train_cifar10.txt", "val_cifar10.txt", "test_cifar10.txt", "test_cifar10c.txt"} <= lists
    assert all("fs_auroc" in record.extended for record in run.records)


def test_the_validation_list_tunes(tmp_path: Path, tree: Path) -> None:
    run = run_suite(write_suite(tmp_path, MATRIX), "temperature_scaling,knn", data_dir=tree, protocol="val_ood")
    assert {record.status for record in run.records} == {"ok"}
    (tree / "benchmark_imglist/cifar10/val_tin.txt").rename(tree / "benchmark_imglist/cifar10/val_tin.bak")
    try:
        with pytest.raises(UserError, match=r"cannot tune 'cifar10-openood' on 'tinyimagenet-openood10': The train"):
            prepare_suite(tmp_path / "tiny.toml", "knn", data_dir=tree, protocol="val_ood")
    finally:
        (tree / "benchmark_imglist/cifar10/val_tin.bak").rename(tree / "benchmark_imglist/cifar10/val_tin.txt")


def test_a_shifted_set_that_is_missing_is_left_out_and_named(tmp_path: Path) -> None:
    data = openood_tree(tmp_path / "data", CIFAR, 10)
    (data / "benchmark_imglist/cifar10/test_cifar10c.txt").unlink()
    run = run_suite(write_suite(tmp_path, MATRIX), data_dir=data, metrics="extended")
    assert [skipped["what"] for skipped in run.info["skipped"]] == ["cifar10c-openood"]
    assert not any("fs_auroc" in record.extended for record in run.records)
    assert "cifar10c-openood" in (run.path / "table.md").read_text()


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            'replaces = "digits"',
            'replaces = "mnist"',
            r"'cifar10-openood' replaces 'mnist', which is no other \[\[id\]\]",
        ),
        ('replaces = "digits"', 'replaces = "cifar10-openood"', "which is no other"),
        ('["Of digits."]', '"Of digits."', "id.notes must be a list"),
        ('["Of digits."]', "[1]", "id.notes must be a list of sentences in quotes"),
        (
            '["cifar10c-openood"]',
            '["cifar100c-openood"]',
            "is not a form of 'cifar10-openood'; write it as .*same classes",
        ),
        ('["cifar10c-openood"]', '["mnist-openood"]', "is not a form of 'cifar10-openood'"),
    ],
)
def test_a_wrong_key_is_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_suite(tmp_path, MATRIX.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_suite(str(path))


@pytest.mark.parametrize("name, board", [("openood-cifar10", "10"), ("openood-cifar100", "100")])
def test_the_boards_name_their_lists(name: str, board: str) -> None:
    plain, listed = read_suite(name).entries
    assert listed.replaces == plain.set
    assert str(listed.set) == f"cifar{board}-openood"
    assert [ood.group for ood in listed.ood] == [ood.group for ood in plain.ood]
    assert "Not the released membership" in plain.notes[0]
