"""`Evaluation` with labels: AUROC by class and the extended metrics of arrays."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from oodbench.benchmark import Evaluation, auroc, confidence_intervals
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.extended import ClassifiedImages, ScoredClassification, extended

RANDOM = np.random.default_rng(0)
ID_LABELS, SVHN_LABELS = RANDOM.integers(0, 3, 120), RANDOM.choice(["one", "two"], 80)
ID_SCORES, SVHN, NOISE = RANDOM.normal(size=120), RANDOM.normal(1, 1, 80), RANDOM.normal(2, 1, 50)
LOGITS = RANDOM.normal(size=(120, 3)) + 2 * np.eye(3)[ID_LABELS]
SETS = {"svhn": SVHN, "noise": NOISE}


def labelled(**more: Any) -> Evaluation:
    return Evaluation(ID_SCORES, SETS, id_labels=ID_LABELS, ood_labels={"svhn": SVHN_LABELS}, name="msp", **more)


def test_classes_are_those_of_the_scores() -> None:
    frame = labelled().classes()
    assert len(frame) == (3 + 2 + 6) + 3  # noise has no labels
    row = frame.query("ood_set == 'svhn' and id_class == '' and ood_class == 'two'").iloc[0]
    own = SVHN[SVHN_LABELS == "two"]
    assert (row["auroc"], row["images"]) == (auroc(ID_SCORES, own), len(own))
    assert (row["low"], row["high"]) == pytest.approx(confidence_intervals(ID_SCORES, own)["auroc"])
    pair = frame.query("id_class == '2' and ood_class == 'one'").iloc[0]
    assert pair["auroc"] == auroc(ID_SCORES[ID_LABELS == 2], SVHN[SVHN_LABELS == "one"])
    of_id = frame.query("ood_set == 'noise' and id_class == '1'").iloc[0]
    assert of_id["auroc"] == auroc(ID_SCORES[ID_LABELS == 1], NOISE)
    assert len(labelled()["svhn"].classes()) == 11
    assert len(Evaluation(ID_SCORES, SETS).classes()) == 0


def test_tensors_and_lists_of_names_are_labels_too() -> None:
    as_text = [f"class {k}" for k in ID_LABELS]
    given = [Evaluation(ID_SCORES, SVHN, id_labels=one).classes() for one in (torch.from_numpy(ID_LABELS), as_text)]
    assert given[0]["auroc"].tolist() == given[1]["auroc"].tolist()
    assert given[1]["id_class"].tolist() == ["class 0", "class 1", "class 2"]


def test_groups_widen_the_intervals_of_classes() -> None:
    groups = np.repeat(np.arange(12), 10)
    alone, grouped = labelled().classes(), labelled(id_groups=groups).classes()
    assert alone["auroc"].equals(grouped["auroc"])
    own = ID_LABELS == 1
    ends = confidence_intervals(ID_SCORES[own], NOISE, groups[own])["auroc"]
    row = grouped.query("ood_set == 'noise' and id_class == '1'").iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(ends)


def test_extended_metrics_are_those_of_a_run() -> None:
    test = ScoredClassification(ClassifiedImages(LOGITS, ID_LABELS), ID_SCORES)
    expected = [extended(test, scores, None) for scores in (SVHN, NOISE)]
    found = labelled(id_logits=LOGITS)
    assert found["svhn"].extended == expected[0]
    assert found.extended == {name: np.mean([one[name] for one in expected]) for name in expected[0]}
    assert {"aurc", "augrc", "ece", "oscr"} <= found.extended.keys()
    assert labelled().extended.keys() == {"tnr_at_tpr99", "precision_1pct", "precision_10pct"}  # of scores alone


def test_the_heat_map_has_every_pair() -> None:
    with mpl.rc_context({"figure.max_open_warning": 0}):
        panel = Figure().add_subplot()
        assert labelled().plot_classes("svhn", ax=panel) is panel
    frame = labelled().classes().query("id_class != '' and ood_class != ''")
    assert [text.get_text() for text in panel.texts] == [f"{100 * value:.0f}" for value in frame["auroc"]]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["one", "two"]
    for evaluation, ood_set in ((labelled(), "noise"), (Evaluation(ID_SCORES, SVHN), "")):
        with pytest.raises(UserError, match="needs labels of two classes or more on both sides"):
            evaluation.plot_classes(ood_set)
    with pytest.raises(UserError, match="Unknown OOD set"):
        labelled().plot_classes()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "length": (
        {"id_labels": ID_LABELS[:5]},
        r"id_labels is int64 of shape \(5,\); expected 120 class numbers or names",
    ),
    "fractions": ({"id_labels": ID_SCORES}, "id_labels is float64"),
    "one array": ({"ood_labels": SVHN_LABELS}, "ood_labels is one array for 2 OOD sets"),
    "set": ({"ood_labels": {"snow": SVHN_LABELS}}, "ood_labels has 'snow', which is no OOD set here"),
    "ood length": ({"ood_labels": {"noise": SVHN_LABELS}}, r"ood_labels\['noise'\] is <U3 of shape \(80,\)"),
    "logits alone": ({"id_logits": LOGITS}, "id_logits is given without id_labels"),
    "logits of others": (
        {"id_labels": ID_LABELS, "id_logits": LOGITS[:7]},
        r"id_logits has shape \(7, 3\); expected 120 rows, one per ID image, and a column for each class up to 2",
    ),
    "too few columns": ({"id_labels": ID_LABELS, "id_logits": LOGITS[:, :2]}, "a column for each class up to 2"),
    "names with logits": (
        {"id_labels": [f"class {k}" for k in ID_LABELS], "id_logits": LOGITS},
        "id_labels holds text, such as 'class [0-2]'; expected class numbers from 0",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(case: str) -> None:
    options, sentence = WRONG[case]
    with pytest.raises(UserError, match=sentence):
        Evaluation(ID_SCORES, SETS, **options)
