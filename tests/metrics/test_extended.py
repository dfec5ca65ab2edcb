"""Extended metrics against loops that follow their definitions, and in a run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import auc

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import MetricError, UserError
from oodbench.benchmark.metrics import extended as extended_module
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.metrics.extended import (
    ClassifiedImages,
    ScoredClassification,
    calibration_error,
    deployed,
    extended,
    failures,
    negative_log_likelihood,
    oscr,
    precisions,
    softmax,
    tnr_at_tpr99,
)
from oodbench.benchmark.metrics.names import EXTENDED_METRICS
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.csv_file import CSV_COLUMNS
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.tables.extended import extended_csv, extended_markdown, extended_text
from tests.support import bench, csv_rows, prepare_suite, run_suite, write_suite


def known(n: int = 200, ties: bool = False, seed: int = 0) -> ScoredClassification:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    logits = rng.normal(0, 1, (n, 4)) + 2 * np.eye(4)[labels]
    scores = -logits.max(axis=1)
    return ScoredClassification(ClassifiedImages(logits, labels), np.round(scores) if ties else scores)


def test_calibration_by_loops() -> None:
    images = known().images
    assert isinstance(images, ClassifiedImages)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    total = likelihood = 0.0
    for row, label in zip(images.logits, images.labels, strict=True):
        powers = [math.exp(value) for value in row]
        shares = [power / sum(powers) for power in powers]
        likelihood -= math.log(shares[label]) / len(images.labels)
        place = next(b for b in range(15) if max(shares) <= (b + 1) / 15)
        bins[place].append((max(shares), shares.index(max(shares)) == label))
    for members in filter(None, bins):
        confidence = sum(c for c, _ in members) / len(members)
        accuracy = sum(right for _, right in members) / len(members)
        total += len(members) / len(images.labels) * abs(accuracy - confidence)
    assert calibration_error(softmax(images.logits), images.labels) == pytest.approx(total, abs=1e-12)
    assert negative_log_likelihood(images.logits, images.labels) == pytest.approx(likelihood, abs=1e-12)


def test_calibration_at_the_edges() -> None:
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert calibration_error(sure, [0, 1]) == 0
    assert calibration_error(sure, [1, 0]) == 1
    assert negative_log_likelihood(np.array([[1e4, 0.0]]), [1]) == 1e4


def aurc_by_orders(scores: NDArray[Any], right: NDArray[Any], draws: int) -> float:
    """The mean over random orders of ties, image by image."""
    rng, total = np.random.default_rng(1), 0.0
    for _ in range(draws):
        order = np.lexsort((rng.random(len(scores)), scores))
        errors = 0
        for taken, k in enumerate(order, 1):
            errors += not right[k]
            total += errors / taken / len(scores) / draws
    return total


def test_aurc_by_its_definition() -> None:
    test = known(60)
    found = failures(test.scores, test.right)["aurc"]
    assert found == pytest.approx(aurc_by_orders(test.scores, test.right, 1), abs=1e-12)


def test_aurc_of_ties_is_the_mean_over_their_orders() -> None:
    test = known(40, ties=True)
    assert len(set(test.scores)) < 10
    drawn = aurc_by_orders(test.scores, test.right, 3000)
    assert failures(test.scores, test.right)["aurc"] == pytest.approx(drawn, abs=2e-3)
    assert failures(np.zeros(40), test.right)["aurc"] == pytest.approx(1 - test.right.mean(), abs=1e-12)


def augrc_by_thresholds(scores: NDArray[Any], right: NDArray[Any]) -> float:
    """Trapezoids under the share of accepted errors against the share accepted, threshold by threshold from none."""
    area, last_coverage, last_risk = 0.0, 0.0, 0.0
    for threshold in sorted(set(scores.tolist())):
        accepted = wrong = 0
        for score, is_right in zip(scores, right, strict=True):
            accepted += score <= threshold
            wrong += score <= threshold and not is_right
        coverage, risk = accepted / len(scores), wrong / len(scores)
        area += (coverage - last_coverage) * (risk + last_risk) / 2
        last_coverage, last_risk = coverage, risk
    return area


@pytest.mark.parametrize("ties", [False, True])
def test_augrc_is_the_area_under_generalised_risk(ties: bool) -> None:
    test = known(150, ties)
    found = failures(test.scores, test.right)
    accuracy = float(test.right.mean())
    assert 0 < accuracy < 1
    assert found["augrc"] == pytest.approx(augrc_by_thresholds(test.scores, test.right), abs=1e-12)
    closed = (1 - found["auroc_errors"]) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2  # the paper's equation
    assert found["augrc"] == pytest.approx(closed, abs=1e-12)
    assert failures(10 * test.scores - 3, test.right)["augrc"] == found["augrc"]


def test_augrc_by_hand_and_without_overflow() -> None:
    # Two errors of four; accepted one by one there are 0, 1, 1, 2: trapezoids of 0, 1/2, 1, 3/2 quarters of quarters.
    assert failures([0.0, 1.0, 2.0, 3.0], [True, False, True, False])["augrc"] == 3 / 16
    assert failures([5.0, 5.0, 5.0, 5.0], [True, False, True, False])["augrc"] == 1 / 4
    assert failures(np.zeros(3_000_000), np.zeros(3_000_000, dtype=bool))["augrc"] == 0.5


def test_errors_are_left_out_where_there_are_none() -> None:
    assert failures([0.0, 1.0], [True, True]) == {"aurc": 0.0, "augrc": 0.0}
    assert failures([0.0, 1.0], [False, False]) == {"aurc": 1.0, "augrc": 0.5}
    assert failures([0.0, 1.0, 2.0], [True, False, True])["auroc_errors"] == 0.5


@pytest.mark.parametrize("ties", [False, True])
def test_oscr_is_the_area_of_its_curve(ties: bool) -> None:
    test = known(ties=ties)
    ood = known(90, ties, seed=5).scores + 1
    thresholds = [-np.inf, *np.unique(np.concatenate([test.scores, ood]))]
    rate = [np.mean((test.scores <= t) & test.right) for t in thresholds]
    false = [np.mean(ood <= t) for t in thresholds]
    assert oscr(test.scores, test.right, ood) == pytest.approx(auc(false, rate), abs=1e-12)


def test_thresholds_by_hand() -> None:
    validation = np.arange(100.0)  # 95% are at most 94
    assert deployed([0, 94, 94.5, 200], [94, 95], validation) == {"tpr_validation": 0.5, "tnr_validation": 0.5}
    assert tnr_at_tpr99(np.arange(100.0), [98, 98.5, 99, 100]) == 0.75
    assert tnr_at_tpr99(np.arange(101.0), [98, 99, 99.5, 100]) == 0.5  # ceil(99.99) = 100 of 101


def test_a_score_between_two_float32_values_is_not_rounded_to_the_threshold() -> None:
    # 95% of validation lies at or below 0.1 in float64; 0.1 in float32 is larger, and so it is flagged.
    exact, rounded = 0.1, np.float32(0.1)
    assert rounded > np.float64(exact)
    validation = np.full(20, exact)
    kept = np.full(4, rounded, dtype=np.float32)
    assert deployed(kept, kept, validation) == {"tpr_validation": 0.0, "tnr_validation": 1.0}
    assert deployed(validation, validation, kept) == {"tpr_validation": 1.0, "tnr_validation": 0.0}
    assert precisions(validation, kept) == {"precision_1pct": 1.0, "precision_10pct": 1.0}
    assert evaluate(validation, kept)["tnr_at_tpr95"] == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_rejected_by_name(bad: float) -> None:
    good, wrong = [0.0, 1.0], [0.0, bad]
    for name, arguments in (
        ("id_scores", (wrong, good, good)),
        ("ood_scores", (good, wrong, good)),
        ("validation_scores", (good, good, wrong)),
    ):
        with pytest.raises(MetricError, match=rf"^{name} has 1 of 2 values that are not finite"):
            deployed(*arguments)
    for name, pair in (("id_scores", (wrong, good)), ("ood_scores", (good, wrong))):
        with pytest.raises(MetricError, match=rf"^{name} has 1 of 2 values that are not finite"):
            precisions(*pair)
    with pytest.raises(MetricError, match=r"^scores has 1 of 2 values that are not finite"):
        failures(wrong, [True, True])
    with pytest.raises(MetricError, match=r"^logits has values that are not finite for 1 of 2 images, .* index 1"):
        negative_log_likelihood([[0.0, 1.0], [bad, 0.0]], [0, 1])
    with pytest.raises(MetricError, match=r"^logits has values that are not finite"):
        softmax([[bad, 0.0]])


def test_precision_at_a_prevalence() -> None:
    found = precisions(np.arange(100.0), [0.0, 99.0])  # TNR 0.5, 5% false alarms
    assert found["precision_1pct"] == pytest.approx(0.01 * 0.5 / (0.01 * 0.5 + 0.99 * 0.05))
    assert found["precision_10pct"] == pytest.approx(0.1 * 0.5 / (0.1 * 0.5 + 0.9 * 0.05))
    assert precisions(np.zeros(10), np.zeros(10)) == {}


def test_full_spectrum_takes_shifted_images_as_id() -> None:
    test, shifted, ood = known(50), [known(30, seed=2), known(20, seed=3)], known(40, seed=4).scores + 1
    found = extended(test, ood, known(25, seed=6).scores, shifted)
    both = evaluate(np.concatenate([test.scores, shifted[0].scores, shifted[1].scores]), ood)
    assert {found[f"fs_{name}"] for name in ("auroc", "aupr_in")} == {both["auroc"], both["aupr_in"]}
    assert found["shifted_accuracy"] == (shifted[0].right.sum() + shifted[1].right.sum()) / 50
    assert tuple(found) == EXTENDED_METRICS
    assert not any(name.startswith(("fs_", "shifted")) for name in extended(test, ood, test.scores))


MATRIX = """
[[id]]
set = "digits[0-2]"
shifted = ["digits[0-2]+faded"]
ood = [{ set = "greek", group = "near" }, { set = "gaussian", group = "far" }]
"""


@pytest.fixture
def run_tiny(tmp_path: Path) -> Callable[..., StoredRun]:
    suite = write_suite(tmp_path, MATRIX)
    return lambda metrics="exact": run_suite(suite, "msp,knn", results=tmp_path, metrics=metrics)


def test_a_run_has_them_when_asked(run_tiny: Callable[..., StoredRun], tmp_path: Path) -> None:
    plain = run_tiny()
    assert not any(record.extended or record.by_class for record in plain.records)
    assert not (plain.path / "classes.csv").exists()
    arguments = ["table", "tiny", "--results", str(tmp_path), "--metrics", "extended"]
    refused = bench(*arguments)
    assert (refused.exit_code, "Repeat the command that made it with --metrics extended" in refused.stderr) == (2, True)
    asked = run_tiny("lee2018,extended")
    for old, new in zip(plain.records, asked.records, strict=True):
        assert old.metrics == new.metrics
        assert set(new.extended) == set(EXTENDED_METRICS)
        assert ("lee2018" in new.audit) == (new.detector == "msp")
    header = next(csv.reader(io.StringIO((asked.path / "records.csv").read_text())))
    assert header[-len(EXTENDED_METRICS) :] == [f"extended_{name}" for name in EXTENDED_METRICS]
    assert header[: len(CSV_COLUMNS)] == list(CSV_COLUMNS)
    shown = bench(*arguments)
    assert (shown.exit_code, "FS-AUROC" in shown.stdout) == (0, True)
    assert "| greek | knn |" in extended_markdown(asked)
    rows = csv_rows(extended_csv(asked))
    assert float(rows[0]["oscr/mean"]) == pytest.approx(asked.records[0].extended["oscr"], abs=1e-6)
    text = extended_text(asked)
    assert text.count("the ID set alone") == 1
    check_classes(asked)
    # computed metrics are not computed again
    assert not prepare_suite(tmp_path / "tiny.toml", "msp,knn", results=tmp_path, metrics="extended").work.jobs


def check_classes(run: StoredRun) -> None:
    """AUROC by class: in records those of the scores and labels, in tables the lowest, none where it was not asked."""
    found = {record.ood_set: record.by_class for record in run.records if record.detector == "msp"}
    assert [one.name for one in found["greek"].id] == ["0", "1", "2"]
    assert (len(found["greek"].ood), len(found["greek"].pairs)) == (10, 3)
    assert (len(found["gaussian"].id), found["gaussian"].ood, found["gaussian"].pairs) == (3, (), ())  # noise
    for record in run.records:
        scores = [np.load(run.path.parents[1] / "cache" / record.artifacts[f"{side}_scores"]) for side in ("id", "ood")]
        labels = Library(Path("data")).part(parse_set("digits[0-2]"), "test").labels
        expected = evaluate(scores[0][labels == 1], scores[1])["auroc"]
        assert record.by_class.id[1].auroc == expected
    lowest = min(found["greek"].ood, key=lambda one: one.auroc)
    shown = f"{lowest.name}: {100 * lowest.auroc:.1f} [{100 * lowest.low:.1f}, {100 * lowest.high:.1f}]"
    assert shown in extended_text(run)
    rows = csv_rows((run.path / "classes.csv").read_text())
    assert len(rows) == 2 * (3 + 10 + 3)
    row = next(r for r in rows if (r["label"], r["ood_set"], r["class"]) == ("msp", "greek", lowest.name))
    assert (row["side"], row["images"]) == ("ood", str(lowest.images))
    assert float(row["auroc/mean"]) == pytest.approx(lowest.auroc, abs=1e-6)


@pytest.mark.parametrize(
    "shifted, message",
    [
        ('["greek+faded"]', r"'greek\+faded' in shifted is not a form of 'digits\[0-2\]'"),
        ('["digits[0-2]"]', r"'digits\[0-2\]' in shifted is not a form of 'digits\[0-2\]'; write it as"),
        ('["digits[0-2]+fadd"]', "Unknown form 'fadd'. Did you mean 'faded'"),
        ('"digits[0-2]+faded"', "shifted must be a list"),
    ],
)
def test_a_wrong_shifted_set_is_one_sentence(tmp_path: Path, shifted: str, message: str) -> None:
    path = write_suite(tmp_path, MATRIX.replace('["digits[0-2]+faded"]', shifted))
    with pytest.raises(UserError, match=message):
        read_suite(str(path))


def test_what_depends_on_the_classifier_alone_is_computed_once(
    run_tiny: Callable[..., StoredRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[int, ...]] = []
    original = extended_module.calibration_error

    def counting(probabilities: Any, labels: Any) -> float:
        counted.append(np.asarray(probabilities).shape)
        return original(probabilities, labels)

    monkeypatch.setattr(extended_module, "calibration_error", counting)
    run = run_tiny("extended")
    assert len(run.records) == 4
    assert len(counted) == 1  # one checkpoint, one ID set
    assert len({record.extended["ece"] for record in run.records}) == 1
