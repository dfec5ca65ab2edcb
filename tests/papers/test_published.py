"""Published numbers: the files that ship, the reader, and the comparison with a synthetic run."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.papers.against_published import against_csv, against_markdown, against_text
from oodbench.benchmark.papers.match import Line, compare
from oodbench.benchmark.papers.published import COLUMNS, Reference, first_of, read_reference, references
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.record import Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from tests.support import bench, csv_rows

TABLE1 = ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")
SIZES = {"cifar10": 10000, "svhn": 26032, "svhn-test-first10000": 10000, "gaussian": 10000, "lsun-resize": 10000}
FAMILIES = {"svhn-test-first10000": "svhn", "tinyimagenet-crop": "tinyimagenet", "tinyimagenet-resize": "tinyimagenet"}


def record(id_set: str, ood_set: str, detector: str, recipe: str, seed: int = 0, **more: Any) -> Record:
    """A cell by the paper's protocol, with AUROC 0.5, 0.52 by seed."""
    values = dict.fromkeys(METRICS, 0.25) | {"auroc": 0.5 + 0.02 * seed}
    facts: dict[str, Any] = {
        "group": "far", "outlier_source": ood_set.startswith("svhn"), "backbone": "vgg13", "settings": {},
        "seen": ood_set.startswith("svhn") and recipe == "confidence", "recipe_settings": {"beta": 0.1},
        "label": detector, "n_id": SIZES[id_set], "n_ood": SIZES.get(ood_set, 10000), "id_accuracy": 0.8,
        "metrics": values, "training": {"images": {"cifar10": 50000, "svhn": 73257}[id_set], "epochs": 100},
    }  # fmt: skip
    return Record(id_set=id_set, ood_set=ood_set, detector=detector, recipe=recipe, seed=seed, **{**facts, **more})


def written(folder: Path, records: list[Record], suite: str = "lee2018") -> StoredRun:
    pairs = [
        {
            "id_set": r.id_set, "ood_set": r.ood_set, "group": r.group, "outlier_source": r.outlier_source,
            "id_family": FAMILIES.get(r.id_set, r.id_set), "ood_family": FAMILIES.get(r.ood_set, r.ood_set),
        }
        for r in records
    ]  # fmt: skip
    cells = [write_record(folder, one).name for one in records]
    write_run_info(folder, {"name": "made_up", "suite": {"name": suite}, "pairs": pairs, "cells": cells})
    return read_stored_run(folder)


@pytest.fixture(scope="module")
def lee() -> Reference:
    return read_reference("lee2018")


def found(run: StoredRun, reference: Reference, **facts: Any) -> list[Line]:
    """The matched lines whose published number has these facts."""
    lines = [line for line in compare(run, reference) if line.status]
    return [line for line in lines if all(getattr(line.published, key) == value for key, value in facts.items())]


# The files


def test_every_reference_ships_and_reads() -> None:
    assert {"lee2018", "openood-v1.5-cifar10"} <= set(references())
    for name in references():
        assert read_reference(name).values


def test_lee2018_is_the_whole_table(lee: Reference) -> None:
    table = [value for value in lee.values if value.source.startswith("Table 1")]
    counts = Counter((v.id_set, v.recipe, v.metric) for v in table)
    for id_set in ("svhn", "cifar10"):
        for recipe in ("cross_entropy", "confidence"):
            assert counts.pop((id_set, recipe, "id_accuracy")) == 1
            for metric in TABLE1:
                assert counts.pop((id_set, recipe, metric)) == 4
    assert not counts
    assert {v.mark for v in table} == {"verified"}
    assert {(v.ood_set, v.id_set) for v in table if v.seen} == {("svhn", "cifar10"), ("cifar10", "svhn")}
    assert all(v.recipe == "confidence" for v in table if v.seen)


@pytest.mark.parametrize(
    "id_set, ood_set, recipe, metric, printed",
    [
        ("cifar10", "svhn", "cross_entropy", "auroc", ["46.6"]),
        ("cifar10", "svhn", "confidence", "tnr_at_tpr95", ["99.8"]),
        ("cifar10", "gaussian", "cross_entropy", "aupr_out", ["39.9"]),
        ("svhn", "tinyimagenet-resize", "confidence", "aupr_out", ["99.4"]),
        ("svhn", "lsun-resize", "cross_entropy", "tnr_at_tpr95", ["46.3"]),
        ("svhn", "", "confidence", "id_accuracy", ["94.23"]),
        ("cifar10", "lsun-resize", "joint", "tnr_at_tpr95", ["37.8", "39.1 recalled"]),
        ("svhn", "lsun-resize", "joint", "tnr_at_tpr95", ["99.9", "98.9 recalled"]),
        ("cifar10", "", "gan_confidence", "id_accuracy", ["80.27 recalled"]),
    ],
)
def test_lee2018_as_printed(
    lee: Reference, id_set: str, ood_set: str, recipe: str, metric: str, printed: list[str]
) -> None:
    values = [v for v in lee.values if (v.id_set, v.ood_set, v.recipe, v.metric) == (id_set, ood_set, recipe, metric)]
    assert [v.value + " recalled" * (v.mark == "recalled") for v in values] == printed


def test_openood_as_printed() -> None:
    reference = read_reference("openood-v1.5-cifar10")
    values = {
        (first_of(v.detector), first_of(v.recipe), v.group, v.metric, v.source[:4]): f"{v.value} ± {v.std}"
        for v in reference.values
    }
    assert len(values) == len(reference.values)
    assert values["knn", "cross_entropy", "near", "auroc", "lead"] == "90.64 ± 0.20"
    assert values["msp", "cross_entropy", "far", "openood_fpr95", "a th"] == "31.71 ± 1.83"
    assert values["gram", "cross_entropy", "far", "auroc", "a th"] == "95.64 ± 0.29"
    assert values["msp", "outlier_exposure", "near", "auroc", "lead"] == "94.82 ± 0.21"
    assert values["msp", "cross_entropy", "", "id_accuracy", "lead"] == "95.06 ± 0.30"


def test_references_name_plugins_that_exist_or_may_come(lee: Reference) -> None:
    """References must use the plug-ins' names: a renamed plug-in would lose its counterparts."""
    known = registry.entries("detector").keys() | registry.entries("recipe").keys()
    assert {name for v in lee.values for name in (*v.detector.split("|"), *v.recipe.split("|"))} <= known


# The reader


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown reference 'lee2108'\. Did you mean 'lee2018'"):
        read_reference("lee2108")
    with pytest.raises(UserError, match="cannot be read"):
        read_reference("nowhere.csv")


GOOD = dict.fromkeys(COLUMNS, "") | {
    "paper": "P", "id_set": "digits", "ood_set": "greek", "detector": "msp", "metric": "auroc", "value": "50.0",
    "source": "S", "mark": "verified",
}  # fmt: skip


def file_of(folder: Path, *rows: dict[str, str]) -> str:
    lines = [",".join(COLUMNS), *(",".join(row.values()) for row in rows)]
    path = folder / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"value": "fifty"}, "value is 'fifty'; it must be a number from 0 to 100"),
        ({"value": "100.1"}, "value is '100.1'"),
        ({"value": "nan"}, "value is 'nan'"),
        ({"std": "-1"}, "std is '-1'"),
        ({"metric": "auc"}, "metric is 'auc'; it must be one of id_accuracy"),
        ({"mark": "guessed"}, "mark is 'guessed'; it must be one of verified, recalled"),
        ({"group": "middle"}, "group is 'middle'"),
        ({"seen": "yes"}, "seen is 'yes'; it must be one of true, false, nothing"),
        ({"epochs": "1e2"}, "epochs is '1e2'; it must be a whole number"),
        ({"source": ""}, "source must not be empty"),
        ({"ood_set": ""}, "ood_set must be empty for id_accuracy and name a set"),
        ({"metric": "id_accuracy"}, "ood_set must be empty for id_accuracy"),
        ({"note": "a,b"}, "it must have 21 fields"),
    ],
)
def test_a_malformed_line_is_one_sentence(change: dict[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_reference(file_of(tmp_path, GOOD, GOOD | change))
    assert str(error.value).startswith(f"Reference '{tmp_path / 'mine.csv'}', line 3: ")
    assert sentence in str(error.value)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe", ",".join(COLUMNS).encode() + b'\n"open'])
def test_a_file_that_is_no_reference_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^Reference '.*mine.csv'.*\.$"):
        read_reference(str(path))


def test_a_file_without_numbers_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no numbers"):
        read_reference(file_of(tmp_path))


# The comparison


def test_ours_published_and_the_difference(lee: Reference, tmp_path: Path) -> None:
    run = written(tmp_path, [record("cifar10", "lsun-resize", "msp", "cross_entropy", seed) for seed in (0, 1)])
    (line,) = found(run, lee, metric="auroc")
    assert line.ours is not None
    assert line.difference == pytest.approx(51.0 - 40.7)
    text = against_text(run, lee)
    assert re.search(r"AUROC +51\.0 ± 1\.4 +40\.7 +\+10\.3", text)
    assert re.search(r"ID acc +80\.00 ± 0\.00 +80\.14 +-0\.14", text)
    (row,) = (row for row in csv_rows(against_csv(run, lee)) if row["status"] and row["metric"] == "auroc")
    assert (row["ours_percent"], row["published_percent"], row["difference_points"], row["seeds"]) == (
        "51.000000", "40.7", "10.300000", "2",
    )  # fmt: skip
    assert "| lsun-resize, msp | AUROC | 51.0 ± 1.4 | 40.7 | +10.3 |" in against_markdown(run, lee)


def test_the_papers_own_protocol_differs_in_nothing_but_the_metric_rules(lee: Reference, tmp_path: Path) -> None:
    run = written(tmp_path, [record("cifar10", "lsun-resize", "msp", "cross_entropy")])
    assert {line.reasons for line in found(run, lee, metric="id_accuracy")} == {()}
    ((reason,),) = (line.reasons for line in found(run, lee, metric="auroc"))
    assert reason.startswith("ours by the exact metrics, published by the rules 'lee2018'")


def reasons(tmp_path: Path, lee: Reference, suite: str = "lee2018", **changes: Any) -> str:
    base = record("cifar10", "lsun-resize", "msp", "cross_entropy")
    run = written(tmp_path, [dataclasses.replace(base, **changes)], suite)
    (line,) = found(run, lee, metric="auroc")
    return "; ".join(line.reasons)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"suite": "lee2018-small"}, "suite lee2018-small; the published protocol is suite lee2018"),
        ({"backbone": "small_cnn"}, "backbone small_cnn, published vgg13"),
        ({"training": {"images": 50000, "epochs": 3}}, "3 epochs, published 100"),
        ({"training": {"images": 4500, "epochs": 100}}, "4,500 training images, published 50,000"),
        ({"training": {}}, "do not say how long the network was trained"),
        ({"n_id": 9000}, "9,000 ID test images, published 10,000"),
        ({"n_ood": 2000}, "2,000 lsun-resize images, published 10,000"),
        ({"settings": {"temperature": 2}}, "settings temperature=2"),
        ({"label": "msp@cross_entropy[learning_rate=1.0]"}, "recipe settings cross_entropy[learning_rate=1.0]"),
        ({"seen": True}, "lsun-resize seen in training, published not seen"),
    ],
)
def test_every_difference_of_protocol_is_flagged(
    changes: dict[str, Any], reason: str, lee: Reference, tmp_path: Path
) -> None:
    assert reason in reasons(tmp_path, lee, **changes)


def test_a_partial_set_is_matched_by_its_family_and_flagged(lee: Reference, tmp_path: Path) -> None:
    partial = record("cifar10", "svhn-test-first10000", "confidence", "confidence")
    (line,) = found(written(tmp_path / "a", [partial]), lee, metric="auroc")
    assert line.ood_set == "svhn-test-first10000"
    assert "OOD set svhn-test-first10000, published svhn" in line.reasons
    assert "10,000 svhn-test-first10000 images, published 26,032" in line.reasons
    both = [partial, record("cifar10", "svhn", "confidence", "confidence")]
    (line,) = found(written(tmp_path / "b", both), lee, metric="auroc")
    assert line.ood_set == "svhn"


def test_another_form_of_the_same_images_stands_in_and_is_flagged(lee: Reference, tmp_path: Path) -> None:
    crop = record("cifar10", "tinyimagenet-crop", "msp", "cross_entropy")
    (line,) = found(written(tmp_path / "a", [crop]), lee, metric="auroc")
    assert "OOD set tinyimagenet-crop, published tinyimagenet-resize" in line.reasons
    both = [crop, record("cifar10", "tinyimagenet-resize", "msp", "cross_entropy")]
    (line,) = found(written(tmp_path / "b", both), lee, metric="auroc")
    assert line.ood_set == "tinyimagenet-resize"


def test_unlike_sets_recipes_and_detectors_have_no_counterpart(lee: Reference, tmp_path: Path) -> None:
    others = [
        record("cifar10", "uniform", "msp", "cross_entropy"),
        record("cifar10", "gaussian", "energy", "cross_entropy"),
        record("cifar10", "gaussian", "msp", "some_recipe", label="msp@some_recipe"),
    ]
    run = written(tmp_path, others)
    assert {line.published.metric for line in compare(run, lee) if line.status} == {"id_accuracy"}
    text = " ".join(against_text(run, lee).split())
    assert "Published, without a counterpart in this run: all 46 numbers on ID set svhn." in text
    assert "svhn, tinyimagenet-resize, lsun-resize, gaussian: msp@cross_entropy;" in text
    rows = csv_rows(against_csv(run, lee))
    assert len(rows) == len(lee.values)
    assert sum(bool(row["status"]) for row in rows) == 1


def test_either_way_of_writing_a_method_is_matched(lee: Reference, tmp_path: Path) -> None:
    pair = [
        record("cifar10", "gaussian", "confidence", "confidence"),
        record("cifar10", "gaussian", "msp", "confidence", label="msp@confidence"),
    ]
    lines = found(written(tmp_path, pair), lee, metric="auroc")
    assert [line.label for line in lines] == ["confidence", "msp@confidence"]
    text = against_text(written(tmp_path, pair), lee)
    assert [text.count(f"gaussian, {label} [1]\n") for label in ("confidence", "msp@confidence")] == [1, 1]


@pytest.mark.parametrize(
    ("name", "score", "printed"),
    [
        ("logitnorm", "msp", {"near": "92.33", "far": "96.74"}),
        ("regmixup", "msp", {}),
        ("pixmix", "msp", {"near": "93.07", "far": "95.65"}),
        ("outlier_exposure", "msp", {"near": "94.82"}),
        ("mixoe", "msp", {}),
        ("vos", "energy", {"near": "87.70", "far": "90.83"}),
        ("cider", "knn", {"near": "90.71", "far": "94.71"}),
        ("t2fnorm", "t2fnorm", {}),
        ("learned_confidence", "learned_confidence", {}),
        ("godin", "godin", {"near": "89.12", "far": "95.51"}),
        ("rotpred", "rotpred", {"near": "92.68", "far": "96.62"}),
    ],
)
def test_trained_methods_of_a_board_are_matched_under_their_own_name(
    tmp_path: Path, name: str, score: str, printed: dict[str, str]
) -> None:
    """The board's rows name a training and a score; ours is named after the training, or is the score on it."""
    reference = read_reference("openood-v1.5-cifar10")
    sets = {"cifar100": "near", "tinyimagenet": "near", "mnist": "far", "svhn": "far"}
    for number, (detector, label) in enumerate(((name, name), (score, f"{score}@{name}"))):
        records = [
            record("cifar10", ood_set, detector, name, label=label, group=group, backbone="resnet18", n_ood=10000)
            for ood_set, group in sets.items()
        ]
        lines = found(written(tmp_path / str(number), records, "openood-cifar10"), reference, metric="auroc")
        assert [line.published.group for line in lines] == ["near", "far"]
        assert {line.label for line in lines} == {label}
        values = {line.published.group: line.published.value for line in lines}
        assert values == {**values, **printed}


def test_recalled_numbers_are_marked(lee: Reference, tmp_path: Path) -> None:
    run = written(tmp_path, [record("svhn", "lsun-resize", "joint", "joint")])
    text = " ".join(against_text(run, lee).split())
    assert "98.9?" in text
    assert "99.9?" not in text
    assert "? recalled: the published number was not checked" in text
    assert "98.9?" in against_markdown(run, lee)
    unmarked = written(tmp_path / "b", [record("svhn", "lsun-resize", "msp", "cross_entropy")])
    assert "recalled:" not in against_text(unmarked, lee)


def test_a_cell_that_failed_is_shown_as_failed(lee: Reference, tmp_path: Path) -> None:
    failed = record("cifar10", "gaussian", "msp", "cross_entropy", status="failed", reason="no luck", metrics={})
    text = against_text(written(tmp_path, [failed]), lee)
    assert re.search(r"AUROC +failed +10\.2 +\N{EN DASH}", text)


def test_means_over_groups(tmp_path: Path) -> None:
    reference = read_reference("openood-v1.5-cifar10")
    facts: dict[str, Any] = {"outlier_source": False, "backbone": "resnet18", "n_id": 9000}
    sets = {"cifar100": "near", "tinyimagenet": "near", "mnist": "far", "svhn": "far"}
    records = [
        dataclasses.replace(record("cifar10", name, "knn", "cross_entropy"), **facts, group=group)
        for name, group in sets.items()
    ]
    run = written(tmp_path, records, "openood-cifar10")
    near, far = found(run, reference, detector="knn", recipe="cross_entropy|standard|checkpoint", metric="auroc")
    assert (near.published.value, near.reasons) == ("90.64", ())
    assert near.difference == pytest.approx(50 - 90.64)
    assert far.reasons == ("far mean over mnist, svhn, published over mnist, svhn, textures, places365",)
    text = against_text(run, reference)
    assert re.search(r"AUROC +50\.00 +90\.64 ± 0\.20 +-40\.64", text)
    assert "near mean, knn\n" in text


@pytest.mark.parametrize("view", [against_text, against_markdown, against_csv])
def test_a_run_without_records(view: Any, lee: Reference, tmp_path: Path) -> None:
    assert "svhn" in view(written(tmp_path, []), lee)


def test_no_line_is_wider_than_the_terminal(lee: Reference, tmp_path: Path) -> None:
    run = written(tmp_path, [record("cifar10", "svhn", "msp", "cross_entropy", backbone="small_cnn")])
    assert max(map(len, against_text(run, lee, 80).splitlines())) <= 80


# The command


def test_the_command_prints_each_format(tmp_path: Path) -> None:
    written(tmp_path / "runs" / "made_up", [record("cifar10", "svhn", "msp", "cross_entropy")])

    table = ("table", "made_up", "--results", tmp_path)
    assert "46.6" in bench(*table, "--against", "lee2018").output
    assert bench(*table, "--against", "lee2018", "--format", "csv").output.startswith("id_set,ood_set")
    assert "| svhn, msp | AUROC |" in bench(*table, "--against", "lee2018", "--format", "md").output
    for arguments, sentence in (
        (["--against", "lee2018", "--format", "tex"], "has no LaTeX form"),
        (["--against", "lee2017"], "Did you mean 'lee2018'?"),
    ):
        done = bench(*table, *arguments)
        assert done.exit_code == 2
        assert sentence in done.stderr
    assert "lee2018" in bench("list", "references").output


# Boards: several networks, full spectrum, lists


R50 = "torchvision[model=resnet50,weights=IMAGENET1K_V1]"


def board_record(ood_set: str, detector: str, backbone: str = R50, **more: Any) -> Record:
    groups = {"ssb-hard": "near", "ninco": "near", "inaturalist": "far", "textures-43of47": "far", "openimage-o": "far"}
    facts: dict[str, Any] = {"id_set": "imagenet1k", "backbone": backbone, "n_id": 45_000, "group": groups[ood_set]}
    facts |= {"outlier_source": False, "training": {"file": "weights.pt", "sha256": "00"}}
    return dataclasses.replace(record("cifar10", ood_set, detector, "checkpoint"), **facts, **more)


BOARD = ("ssb-hard", "ninco", "inaturalist", "textures-43of47", "openimage-o")


@pytest.mark.parametrize(
    "name, rows, count",
    [
        ("openood-v1.5-cifar100", 57, 134),
        ("openood-v1.5-imagenet200", 56, 131),
        ("openood-v1.5-imagenet1k", 97, 209),
        ("openood-v1.5-imagenet1k-full-spectrum", 83, 166),
    ],
)
def test_boards_are_whole(name: str, rows: int, count: int) -> None:
    values = read_reference(name).values
    assert len(values) == count
    means = [(v.detector, v.recipe, v.backbone, v.group) for v in values if v.group]
    assert len(means) == len(set(means)) == 2 * rows
    assert {v.mark for v in values} == {"verified"}
    assert all(v.source.endswith("of 2025-07-19") for v in values)


@pytest.mark.parametrize(
    "name, detector, network, group, printed",
    [
        ("openood-v1.5-imagenet1k", "msp", "resnet50", "near", "76.02"),
        ("openood-v1.5-imagenet1k", "relative_mahalanobis", "vit_b_16", "far", "92.60"),
        ("openood-v1.5-imagenet1k", "gen", "swin_t", "near", "78.97"),
        ("openood-v1.5-imagenet1k", "nnguide", "regnet_y_16gf", "far", "97.17"),
        ("openood-v1.5-imagenet1k-full-spectrum", "msp", "resnet50", "near", "60.79"),
        ("openood-v1.5-imagenet200", "msp", "resnet18", "near", "83.34 ± 0.06"),
        ("openood-v1.5-cifar100", "gen", "resnet18", "near", "81.31 ± 0.08"),
    ],
)
def test_boards_as_printed(name: str, detector: str, network: str, group: str, printed: str) -> None:
    (value,) = [
        v
        for v in read_reference(name).values
        if (v.detector, v.group) == (detector, group) and network in v.backbone and v.recipe.startswith("cross_entropy")
    ]
    assert value.value + (f" ± {value.std}" if value.std else "") == printed


def test_a_suites_name_is_that_of_its_board() -> None:
    for suite, board in {
        "openood-imagenet1k": "openood-v1.5-imagenet1k",
        "openood-imagenet200": "openood-v1.5-imagenet200",
        "openood-cifar100": "openood-v1.5-cifar100",
        "openood-cifar10": "openood-v1.5-cifar10",
    }.items():
        assert read_reference(suite).name == board


def test_a_run_is_compared_with_the_numbers_of_its_network(tmp_path: Path) -> None:
    reference = read_reference("openood-imagenet1k")
    run = written(tmp_path / "a", [board_record(name, "msp") for name in BOARD], "openood-imagenet1k")
    near, far = found(run, reference, detector="msp", metric="auroc")
    assert (near.published.value, near.reasons, far.published.value, far.reasons) == ("76.02", (), "85.23", ())
    text = " ".join(against_text(run, reference).split())
    assert (
        "Published for 4 networks; compared is this run's: torchvision[model=resnet50,weights=IMAGENET1K_V1]." in text
    )
    assert "73.52" not in text  # MSP of ViT-B/16
    swin = written(
        tmp_path / "b", [board_record(name, "msp", "torchvision[model=swin_t]") for name in BOARD], "openood-imagenet1k"
    )
    assert [line.published.value for line in found(swin, reference, metric="auroc")] == ["76.75", "86.30"]
    other = written(tmp_path / "c", [board_record(name, "msp", "timm:x") for name in BOARD], "openood-imagenet1k")
    assert not found(other, reference)
    assert "this run's network is another: timm:x." in " ".join(against_text(other, reference).split())


def test_full_spectrum_boards_are_compared_where_it_was_computed(tmp_path: Path) -> None:
    reference = read_reference("openood-v1.5-imagenet1k-full-spectrum")
    plain = written(tmp_path / "a", [board_record(name, "msp") for name in BOARD], "openood-imagenet1k")
    assert not found(plain, reference)
    shares = dict(zip(BOARD, (0.5, 0.6, 0.7, 0.8, 0.9), strict=True))
    records = [board_record(name, "msp", extended={"fs_auroc": share}) for name, share in shares.items()]
    near, far = found(written(tmp_path / "b", records, "openood-imagenet1k"), reference)
    assert (near.published.value, far.published.value) == ("60.79", "72.32")
    assert near.difference == pytest.approx(55 - 60.79)
    assert far.difference == pytest.approx(80 - 72.32)
    partial = [*records[:1], board_record("ninco", "msp"), *records[2:]]
    (only,) = found(written(tmp_path / "c", partial, "openood-imagenet1k"), reference)
    assert only.published.group == "far"


def test_the_released_lists_are_the_board_s_own_sets(tmp_path: Path) -> None:
    reference = read_reference("openood-v1.5-cifar10")
    sets = {"cifar100-openood10": "near", "tinyimagenet-openood10": "near"}
    facts: dict[str, Any] = {"outlier_source": False, "backbone": "resnet18", "n_id": 9000, "id_set": "cifar10-openood"}
    records = [
        dataclasses.replace(record("cifar10", name, "knn", "cross_entropy"), **facts, group=group)
        for name, group in sets.items()
    ]
    run = written(tmp_path, records, "openood-cifar10")
    (near,) = found(run, reference, detector="knn", recipe="cross_entropy|standard|checkpoint", metric="auroc")
    assert (near.id_set, near.published.value, near.reasons) == ("cifar10-openood", "90.64", ())
