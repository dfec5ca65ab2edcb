"""Which rows and sets views show, and in which order, on a summary computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.views.choice import (
    best,
    check_order,
    choose_rows,
    choose_sets,
    chosen,
    parse_order,
    sorted_rows,
    split_names,
    stat_by,
)
from oodbench.benchmark.views.metric_titles import METRIC_NAMES, metric_of, metrics_of
from oodbench.benchmark.views.summary import Summary
from tests.support import summary_from

LABELS = ["msp", "odin", "odin[epsilon=0.1]@joint", "vim", "energy@a", "energy@b", "msp (epochs=2)"]

SETS = {"svhn": "far", "cifar100": "near", "digits[7-9]": "near", "plain": ""}


def cell(
    label: str, ood: str, auroc: float | None, *, id_set: str = "cifar10", seed: int = 0, group: str | None = None
) -> Record:
    """A record whose FPR95 falls as its AUROC rises; without AUROC it has failed."""
    metrics = {} if auroc is None else {"auroc": auroc, "fpr_at_tpr95": 1 - auroc, "openood_fpr95": auroc / 2}
    metrics |= {} if auroc is None else {"tnr_at_tpr95": auroc}
    return Record(
        id_set=id_set, ood_set=ood, group=SETS.get(ood, "") if group is None else group, outlier_source=False,
        seen=False, detector=label, settings={}, recipe="plain", recipe_settings={}, backbone="net", seed=seed,
        label=label, status="failed" if auroc is None else "ok", metrics=metrics, id_accuracy=0.9,
        sanity=label == "random", extended={"ece": 0.1} if label == "msp" else {},
    )  # fmt: skip


def summary(values: Mapping[str, Sequence[float | None]], sets: Sequence[str] = tuple(SETS)) -> Summary:
    """A summary of one ID set: label -> AUROC on each set."""
    return summary_from(
        [cell(label, ood, x) for label, row in values.items() for ood, x in zip(sets, row, strict=True)]
    )


# Names


def test_commas_in_brackets_and_parentheses_separate_nothing() -> None:
    assert split_names(" msp, odin[a=1,b=2]@joint,msp (a=1,b=2) ,") == ["msp", "odin[a=1,b=2]@joint", "msp (a=1,b=2)"]
    assert split_names(["a,b"]) == ["a,b"]


@pytest.mark.parametrize(
    "wanted, expected",
    [
        ("vim,msp", ["vim", "msp"]),  # in the order typed; 'msp' is the row of that label alone
        ("odin", ["odin"]),
        ("energy", ["energy@a", "energy@b"]),  # no row has that label, two have that detector
        ("odin*", ["odin", "odin[epsilon=0.1]@joint"]),
        ("odin[epsilon=0.1]@joint", ["odin[epsilon=0.1]@joint"]),  # brackets are no pattern
        ("*joint", ["odin[epsilon=0.1]@joint"]),
        ("all,-odin*,-energy", ["msp", "vim", "msp (epochs=2)"]),
        ("-vim", [label for label in LABELS if label != "vim"]),
        ("vim,all", ["vim", *(label for label in LABELS if label != "vim")]),
        ("", LABELS),
        ("Virtual Logits", ["vim"]),
        ("virtual logits", ["vim"]),
    ],
)
def test_rows(wanted: str, expected: list[str]) -> None:
    assert choose_rows(LABELS, wanted, {"vim": "Virtual Logits"}) == expected


def test_a_row_whose_label_begins_with_a_hyphen_can_be_wanted() -> None:
    assert choose_rows(["-mine", "vim"], "-mine") == ["-mine"]


@pytest.mark.parametrize(
    "wanted, message",
    [
        ("vmi", r"There is no detector 'vmi' to show\. Did you mean 'vim'\?"),
        ("all,-vmi", r"There is no detector 'vmi' to show\. Did you mean 'vim'\?"),
        ("x*", r"no detector 'x\*' to show\. There are msp, odin"),
        ("vim,-vim", r"The choice 'vim,-vim' leaves no detector"),
    ],
)
def test_what_no_row_is_called_is_one_sentence(wanted: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_rows(LABELS, wanted)


def test_sets_by_name_pattern_and_group() -> None:
    sets = summary({"msp": [0.9] * 4}).blocks[0].sets
    assert choose_sets(sets, "near") == ["cifar100", "digits[7-9]"]
    assert choose_sets(sets, "plain,far") == ["plain", "svhn"]
    assert choose_sets(sets, "d*") == ["digits[7-9]"]
    assert choose_sets(sets, "digits[7-9]") == ["digits[7-9]"]
    assert choose_sets(sets, "all,-near") == ["svhn", "plain"]
    with pytest.raises(UserError, match=r"no OOD set 'svnh' to show\. Did you mean 'svhn'"):
        choose_sets(sets, "svnh")


# A summary of what is wanted


def test_means_are_over_the_sets_that_remain() -> None:
    whole = summary({"msp": [0.9, 0.8, 0.6, 0.5], "vim": [0.95, 0.7, 0.6, None]})
    part = chosen(whole, "vim,msp", "svhn,cifar100")
    (block,) = part.blocks
    assert [row.label for row in block.rows] == ["vim", "msp"]
    assert [ood.name for ood in block.sets] == ["svhn", "cifar100"]
    assert block.groups == ("near", "far")
    assert [row.means["near", "auroc"].mean for row in block.rows] == [0.7, 0.8]
    assert whole.blocks[0].rows[0].means["near", "auroc"].mean == pytest.approx(0.7)
    assert block.rows[0].worst["auroc"][0] == "cifar100"


def test_near_and_far_are_those_of_each_id_set() -> None:
    records = [cell("msp", "svhn", 0.9), cell("msp", "svhn", 0.8, id_set="digits", group="near")]
    records += [cell("msp", "cifar100", 0.7), cell("msp", "kanji", 0.6, id_set="digits", group="far")]
    part = chosen(summary_from(records), sets="near")
    assert [(block.id_set, [ood.name for ood in block.sets]) for block in part.blocks] == [
        ("cifar10", ["cifar100"]),
        ("digits", ["svhn"]),
    ]
    only = chosen(summary_from(records), sets="kanji")  # which one ID set does not have
    assert [block.id_set for block in only.blocks] == ["digits"]
    with pytest.raises(UserError, match=r"no ID set 'digit' to show\. Did you mean 'digits'"):
        chosen(summary_from(records), id_sets="digit")


# Order


def test_best_first_ties_in_plan_order_and_missing_ones_last() -> None:
    (block,) = summary(
        {"a": [0.8, None], "b": [0.7, 0.6], "c": [0.9, 0.6], "d": [0.9, 0.7]}, ["svhn", "cifar100"]
    ).blocks
    assert [row.label for row in sorted_rows(block, "svhn:auroc")] == ["c", "d", "a", "b"]
    assert [row.label for row in sorted_rows(block, "far:fpr95")] == ["c", "d", "a", "b"]
    assert [row.label for row in sorted_rows(block, "near:auroc")] == ["d", "b", "c", "a"]
    assert [row.label for row in sorted_rows(block, "auroc")] == ["d", "c", "b", "a"]
    assert [row.label for row in sorted_rows(block, "far:openood_fpr95")] == ["b", "a", "c", "d"]


def test_the_mean_over_all_sets_needs_no_set_without_a_group() -> None:
    (block,) = summary({"a": [0.8, 0.6]}, ["svhn", "cifar100"]).blocks
    stat = stat_by(block, block.rows[0], parse_order("all:auroc"))
    assert stat is not None
    assert stat.mean == pytest.approx(0.7)


def test_best_leaves_out_sanity_rows_and_rows_without_the_number() -> None:
    (block,) = summary({"random": [0.99], "a": [None], "b": [0.8], "c": [0.9], "d": [0.7]}, ["svhn"]).blocks
    assert [row.label for row in best(block, 2, "svhn:auroc")] == ["c", "b"]
    assert [row.label for row in best(block, 9, "svhn:auroc")] == ["c", "b", "d"]


def test_an_order_that_no_block_has_is_refused() -> None:
    blocks = summary({"a": [0.8]}, ["svhn"]).blocks
    assert check_order(blocks, "far:tnr95").metric.name == "tnr_at_tpr95"
    assert check_order(blocks, "id:id_acc").scope == "id"
    with pytest.raises(UserError, match=r"'near' is neither a group nor an OOD set shown\. Choose far, all, svhn"):
        check_order(blocks, "near:auroc")
    with pytest.raises(UserError, match=r"'id:auroc': AUROC depends on the OOD set\..* as in 'far:auroc'"):
        check_order(blocks, "id:auroc")
    with pytest.raises(UserError, match=r"No cell shown has 'ece'\. Repeat .* --metrics extended"):
        check_order(blocks, "id:ece")
    with pytest.raises(UserError, match="neither a low nor a high value is better"):
        parse_order("near:stability_jpeg")


def test_an_order_by_a_mean_that_no_row_has_is_refused() -> None:
    blocks = summary({"a": [0.8, None], "b": [None, 0.7]}, ["svhn", "cifar100"]).blocks
    with pytest.raises(UserError, match=r"'all:auroc', which no row shown has on all of these OOD sets"):
        check_order(blocks, "all:auroc")
    assert check_order(blocks, "svhn:auroc").scope == "svhn"


def test_rows_are_sorted_by_a_number_that_depends_on_no_set() -> None:
    cells = [(cell(label, "svhn", 0.9), {"ece": ece}) for label, ece in (("a", 0.2), ("b", 0.1))]
    made = summary_from([replace(one, extended=extended) for one, extended in cells])
    (block,) = made.blocks
    assert [row.label for row in sorted_rows(block, check_order([block], "id:ece"))] == ["b", "a"]


# Metrics


def test_other_names_of_metrics() -> None:
    assert [one.name for one in metrics_of(["FPR95", "fpr_at_tpr95", "tnr95", "AUPR-in", "extended_ece"])] == [
        "fpr_at_tpr95",
        "tnr_at_tpr95",
        "aupr_in",
        "ece",
    ]
    assert metric_of("fpr95").full_title == "FPR95 (ID+)"
    assert metric_of("openood_fpr95").full_title == "FPR95 (OOD+)"
    assert metric_of("lee2018_auroc").rules == "lee2018"


def test_every_metric_has_a_title_a_meaning_and_a_direction() -> None:
    for name in METRIC_NAMES:
        metric = metric_of(name)
        assert metric.title
        assert metric.help
    lower = {metric_of(name).name for name in METRIC_NAMES if metric_of(name).lower_is_better}
    assert lower == {"fpr_at_tpr95", "openood_fpr95", "ece", "nll", "aurc", "augrc", "tuning_spread"}
    assert {metric_of(name).name for name in METRICS} == set(METRICS)


@pytest.mark.parametrize(
    "name, message",
    [
        ("accuracy", "may mean several metrics. Write id_accuracy or detection_accuracy"),
        ("auroq", "Unknown metric 'auroq'. Did you mean 'auroc'?"),
        ("x", "Unknown metric 'x'. Choose tnr_at_tpr95"),
    ],
)
def test_a_metric_that_is_unknown_or_ambiguous(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        metric_of(name)
    assert message in str(caught.value)


def test_values_are_read_where_the_record_has_them() -> None:
    record = cell("msp", "svhn", 0.75)
    assert [metric_of(name).of(record) for name in ("auroc", "fpr95", "id_acc", "ece", "aupr_in", "lee2018_auroc")] == [
        0.75,
        0.25,
        0.9,
        0.1,
        None,
        None,
    ]
