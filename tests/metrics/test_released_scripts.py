"""The released script's metric rules against loops that follow their description, and what saturation does to them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.errors import MetricError, PluginError, UserError
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.metrics.names import EXACT, RULE_METRICS
from oodbench.benchmark.metrics.released_scripts import lee2018
from oodbench.benchmark.papers.against_published import against_csv, against_text
from oodbench.benchmark.papers.published import read_reference
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.csv_file import CSV_COLUMNS
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.evaluate import evaluate_by_rules
from oodbench.benchmark.views.tables.released_scripts import audit_csv, audit_markdown, audit_text
from tests.support import bench, csv_rows, prepare_suite, write_suite

Floats = np.ndarray


def f32(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float32)


# The rules, one threshold at a time


def literal(ind: Floats, ood: Floats, bins: int) -> dict[str, float]:
    """The five rules of docs/appendix/metrics_saturation.md in plain loops over thresholds and scores."""
    start, end = min(ind.min(), ood.min()), max(ind.max(), ood.max())
    gap = (end - start) / bins
    rising, falling = list(np.arange(start, end, gap))[:bins], list(np.arange(end, start, -gap))[:bins]

    def at_least(scores: Floats, delta: float) -> float:
        return sum(bool(score >= delta) for score in scores) / len(scores)

    def above(scores: Floats, delta: float) -> float:
        return sum(bool(score > delta) for score in scores) / len(scores)

    def below(scores: Floats, delta: float) -> float:
        return sum(bool(score < delta) for score in scores) / len(scores)

    band, area, before, error = [], 0.0, 1.0, 1.0
    for delta in rising:
        tpr, fpr = at_least(ind, delta), above(ood, delta)
        if 0.94 <= tpr <= 0.96:
            band.append(fpr)
        area += (before - fpr) * tpr
        before = fpr
        error = min(error, (below(ind, delta) + fpr) / 2)
    aupr_in, recall_before = 0.0, 1.0
    for delta in rising:
        recall, false = at_least(ind, delta), at_least(ood, delta)
        precision = recall / (recall + false)
        aupr_in += (recall_before - recall) * precision
        recall_before = recall
    aupr_in += recall * precision
    aupr_out, recall_before = 0.0, 1.0
    for delta in falling:
        recall, false = below(ood, delta), below(ind, delta)
        if recall + false == 0:
            break
        precision = recall / (recall + false)
        aupr_out += (recall_before - recall) * precision
        recall_before = recall
    aupr_out += recall * precision
    return {
        "tnr_at_tpr95": 1 - sum(band) / len(band) if band else 0.0, "auroc": area, "detection_accuracy": 1 - error,
        "aupr_in": aupr_in, "aupr_out": aupr_out,
        "top_bin_id": at_least(ind, rising[-1]), "top_bin_ood": at_least(ood, rising[-1]),
    }  # fmt: skip


def softmax_confidences(rng: np.random.Generator, mu: float, sigma: float, n: int) -> Floats:
    """Float32 max-softmax of 10 classes, one ahead of the others by |N(mu, sigma)|."""
    logits = torch.zeros(n, 10)
    logits[:, 0] = torch.from_numpy(np.abs(rng.normal(mu, sigma, n)))
    confidence: Floats = torch.softmax(logits, dim=1).amax(dim=1).numpy()
    return confidence


def samples(kind: str, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 120)), int(rng.integers(1, 90))
    if kind == "spread":
        return rng.beta(8, 2, n).astype(np.float32), rng.beta(4, 4, m).astype(np.float32)
    if kind == "saturated":
        return softmax_confidences(rng, 22, 8, n), softmax_confidences(rng, 9.5, 8, m)
    if kind == "ties":
        return (rng.integers(0, 6, n) / 5).astype(np.float32), (rng.integers(0, 5, m) / 5).astype(np.float32)
    return np.full(n, 1, np.float32), softmax_confidences(rng, 1, 1, m)


@pytest.mark.parametrize("kind", ["spread", "saturated", "ties", "all ID alike"])
@pytest.mark.parametrize("bins", [1, 2, 7, 100, 500])
def test_the_rules_equal_their_description(kind: str, bins: int) -> None:
    for seed in range(6):
        ind, ood = samples(kind, seed)
        if min(ind.min(), ood.min()) == max(ind.max(), ood.max()):
            continue
        expected = literal(ind.astype(np.float64), ood.astype(np.float64), bins)
        measured = lee2018(ind, ood, bins)
        assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_every_value_is_there_and_a_share() -> None:
    values = lee2018(*samples("saturated", 0))
    assert tuple(values) == RULE_METRICS
    assert all(0 <= value <= 1 for value in values.values())


def test_float32_values_are_the_exact_metrics_with_ties() -> None:
    ind, ood = samples("ties", 3)
    values, exact = lee2018(ind, ood), evaluate(-ind, -ood)
    assert values["float32_auroc"] == exact["auroc"]
    assert values["float32_aupr_out"] == exact["aupr_out"]


def test_no_threshold_in_the_band_is_a_tnr_of_zero() -> None:
    ind = np.repeat(f32([0.2, 0.9]), [10, 90])
    values = lee2018(ind, f32([0.1, 0.3]))
    assert values["tnr_at_tpr95"] == 0
    assert values["float32_tnr_at_tpr95"] == 0.5


def test_the_band_is_averaged_uniformly_in_confidence() -> None:
    """TPR is 0.95 from 0.2 to 0.9, and in the first seventh of that half of OOD is still accepted."""
    values = lee2018(np.repeat(f32([0.2, 0.9]), [5, 95]), f32([0.1, 0.3]))
    assert values["tnr_at_tpr95"] == pytest.approx(1 - 0.5 / 7, abs=1e-4)
    assert values["float32_tnr_at_tpr95"] == 1


def test_separated_sets_are_perfect_and_exchanged_ones_are_not() -> None:
    low, high = f32([0.1, 0.2, 0.3]), np.linspace(0.7, 1.0, 100, dtype=np.float32)
    perfect = lee2018(high, low)
    assert [perfect[name] for name in ("tnr_at_tpr95", "auroc", "detection_accuracy")] == pytest.approx([1, 1, 1])
    assert lee2018(low, high)["auroc"] == pytest.approx(0)
    assert lee2018(low, high)["detection_accuracy"] == 0.5


@pytest.mark.parametrize("ind, ood", [([0.5], [0.5]), ([1.0, 1.0], [1.0])])
def test_equal_confidences_have_no_grid(ind: list[float], ood: list[float]) -> None:
    with pytest.raises(MetricError, match="a grid of thresholds needs two distinct values"):
        lee2018(f32(ind), f32(ood))


def test_an_invalid_confidence_is_rejected() -> None:
    with pytest.raises(MetricError, match="not finite"):
        lee2018([0.5, np.nan], [0.1])


# The effect of saturation. The expected rows come from a separate implementation, with other random numbers
# for the same distributions. Tolerance: four standard deviations over draws, measured over 12 seeds (0.8 points of
# TNR, 0.5 of AUROC, 0.3 of the others at most), for each of the two sides: 5.7 sd of one. AUPR out of the last row
# depends on which scores are exactly 1, and so on the order in which a float32 softmax adds: 23.3 to 28.5 over four.

Pair = tuple[float, float]
ROWS: dict[str, tuple[Pair, Pair, int, int, tuple[float, ...]]] = {
    "spread": ((8, 2), (4, 4), 10_000, 10_000, (65.11, 92.36, 84.14, 92.33, 92.61)),
    "over-confident": ((22, 8), (9.5, 8), 26_032, 10_000, (44.27, 69.61, 77.89, 74.06, 87.00)),
    "ultra-saturated": ((40, 10), (20, 9), 10_000, 10_000, (0.00, 26.75, 63.10, 57.58, 97.35)),
    "OOD more confident": ((18, 9), (23, 6), 10_000, 10_000, (0.03, 5.67, 50.0, 42.67, 26.19)),
}
DEVIATION = (0.8, 0.5, 0.3, 0.3, 0.3)


def draw_confidences(name: str, seed: int = 5) -> tuple[Floats, Floats]:
    (a, b), (c, d), n, m, _ = ROWS[name]
    rng = np.random.default_rng(seed)
    if name == "spread":
        return rng.beta(a, b, n).astype(np.float32), rng.beta(c, d, m).astype(np.float32)
    return softmax_confidences(rng, a, b, n), softmax_confidences(rng, c, d, m)


@pytest.mark.parametrize("name", ROWS)
def test_the_demonstration_is_reproduced(name: str) -> None:
    values = lee2018(*draw_confidences(name))
    for metric, expected, deviation in zip(RULE_METRICS, ROWS[name][4], DEVIATION, strict=False):
        order = 3.0 if (name, metric) == ("OOD more confident", "aupr_out") else 0.0
        assert 100 * values[metric] == pytest.approx(expected, abs=max(order, 5.7 * deviation)), metric


def test_rules_and_exact_metrics_agree_where_nothing_saturates() -> None:
    values = lee2018(*draw_confidences("spread"))
    assert values["top_bin_id"] < 0.001
    for metric in RULE_METRICS[1:5]:
        assert values[metric] == pytest.approx(values[f"float32_{metric}"], abs=1e-3)


def test_rules_and_exact_metrics_part_where_scores_saturate() -> None:
    over, ultra = lee2018(*draw_confidences("over-confident")), lee2018(*draw_confidences("ultra-saturated"))
    assert over["top_bin_id"] > 0.8
    assert over["float32_auroc"] - over["auroc"] > 0.12
    assert over["aupr_out"] > over["float32_aupr_out"] + 0.02
    assert ultra["tnr_at_tpr95"] == 0
    assert ultra["float32_auroc"] - ultra["auroc"] > 0.35


def test_temperature_moves_the_rules_and_not_the_ranking() -> None:
    rng = np.random.default_rng(0)
    margins = np.abs(rng.normal(22, 8, 5000)), np.abs(rng.normal(9.5, 8, 5000))
    exact, ruled = [], []
    for temperature in (1, 3):
        logits = [torch.from_numpy(np.outer(m / temperature, np.eye(10)[0])) for m in margins]
        ind, ood = (score_of("msp", value) for value in logits)
        exact.append(evaluate(ind, ood)["auroc"])
        ind, ood = (torch.softmax(value.float(), 1).amax(1).numpy() for value in logits)
        ruled.append(lee2018(ind, ood)["auroc"])
    assert exact[0] == exact[1]
    assert ruled[1] - ruled[0] > 0.1
    assert ruled[1] == pytest.approx(exact[1], abs=0.01)


# Which detectors have a scale of their own


def score_of(name: str, logits: torch.Tensor) -> Floats:
    detector: Detector = registry.get("detector", name)()
    scores: Floats = detector.score(Batch(len(logits), {"logits": logits.__getitem__}, name)).numpy()
    return scores


@pytest.mark.parametrize("name", ["msp", "confidence", "gan_confidence", "joint"])
def test_the_softmax_score_states_the_float32_softmax(name: str) -> None:
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(0, 8, (2000, 10)).astype(np.float32))
    confidence = registry.get("detector", name)().confidence_of(score_of(name, logits.double()))
    expected = torch.softmax(logits, dim=1).amax(dim=1).numpy()
    assert confidence.dtype == np.float32
    # A softmax in float32 adds its terms in some order, and is accurate to a few units in the last place.
    assert np.abs(confidence - expected).max() <= 4 * 2.0**-24
    assert (confidence == 1).any()
    assert confidence.min() >= 0.1


def test_energy_has_no_other_scale() -> None:
    detector = registry.get("detector", "energy")()
    assert detector.confidence_of(np.zeros(3)) is None
    assert evaluate_by_rules("lee2018", detector, np.zeros(3), np.ones(3)) == {}


@pytest.mark.parametrize("returned", ["np.zeros(2)", "1 / 0", "np.array(['a'] * len(scores))"])
def test_a_scale_that_fails_is_one_sentence(returned: str) -> None:
    class Odd(Detector):
        def confidence_of(self, scores: Floats) -> Floats:
            value: Floats = eval(returned, {"np": np, "scores": scores})
            return value

    with pytest.raises(PluginError, match=r"^confidence_of\(\) of detector '' failed: .+"):
        evaluate_by_rules("lee2018", Odd(), np.zeros(3), np.ones(3))


# Runs

MATRIX = """
[[id]]
set = "digits[0-2]"
ood = [{ set = "greek", group = "near" }, { set = "gaussian", group = "far" }]
"""


@pytest.fixture
def run_tiny(tmp_path: Path, undrawn: None) -> Callable[..., StoredRun]:
    suite = write_suite(tmp_path, MATRIX)

    def run(metrics: str = EXACT, **options: Any) -> StoredRun:
        prepared = prepare_suite(suite, "msp,energy", results=tmp_path, metrics=metrics, **options)
        assert options.get("rerun") or not prepared.work.jobs or not (tmp_path / "runs").exists()
        return prepared.start()

    return run


def test_a_run_computes_the_rules_only_when_asked(run_tiny: Callable[..., StoredRun], tmp_path: Path) -> None:
    plain = run_tiny()
    assert all(not record.audit for record in plain.records)
    assert columns(plain) == list(CSV_COLUMNS)
    asked = run_tiny("lee2018")  # the fixture asserts that no job is repeated
    by_detector = {record.detector: record.audit for record in asked.records}
    assert tuple(by_detector["msp"]["lee2018"]) == tuple(sorted(RULE_METRICS))
    assert by_detector["energy"] == {}
    assert columns(asked) == [*CSV_COLUMNS, *(f"lee2018_{name}" for name in RULE_METRICS)]
    for old, new in zip(plain.records, asked.records, strict=True):
        assert (old.metrics, old.tpr) == (new.metrics, new.tpr)
    assert all(not record.audit for record in run_tiny().records)


def columns(run: StoredRun) -> list[str]:
    return next(csv.reader(io.StringIO((run.path / "records.csv").read_text())))


def test_the_views_show_exact_and_ruled_values(run_tiny: Callable[..., StoredRun]) -> None:
    run = run_tiny("lee2018")
    text = " ".join(audit_text(run, "lee2018").split())
    assert "greek, msp TNR95" in text
    assert "top bin, OOD" in text
    assert "Without values by these rules: energy." in text
    assert "| gaussian, msp | AUROC |" in audit_markdown(run, "lee2018")
    rows = csv_rows(audit_csv(run, "lee2018"))
    assert [row["ood_set"] for row in rows] == ["greek", "gaussian"]
    audit = run.records[0].audit["lee2018"]
    assert float(rows[0]["lee2018_auroc/mean"]) == pytest.approx(audit["auroc"], abs=1e-6)


def test_a_run_without_the_rules_says_how_to_get_them(run_tiny: Callable[..., StoredRun], tmp_path: Path) -> None:
    run_tiny()
    arguments = ["table", "tiny", "--results", str(tmp_path), "--metrics", "lee2018"]
    done = bench(*arguments)
    assert done.exit_code == 2
    assert "Repeat the command that made it with --metrics lee2018" in done.stderr
    run_tiny("lee2018")
    assert "rules - exact" in bench(*arguments).output
    assert bench(*arguments, "--format", "tex").exit_code == 2


def test_unknown_rules_are_one_sentence(run_tiny: Callable[..., StoredRun]) -> None:
    with pytest.raises(UserError, match=r"Unknown metric rules 'lee2017'\. Did you mean 'lee2018'"):
        run_tiny("lee2017")


def test_published_numbers_are_compared_with_values_by_their_rules(
    run_tiny: Callable[..., StoredRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = tmp_path / "mine.csv"
    columns_ = (Path(__file__).parents[2] / "benchmark/papers/reference/lee2018.csv").read_text().splitlines()[0]
    values = {
        "paper": "P", "id_set": "digits[0-2]", "ood_set": "greek", "detector": "msp", "recipe": "cross_entropy",
        "rules": "lee2018", "metric": "auroc", "value": "50.0", "source": "S", "mark": "verified",
    }  # fmt: skip
    reference.write_text(f"{columns_}\n" + ",".join(values.get(name, "") for name in columns_.split(",")) + "\n")
    published = read_reference(str(reference))
    assert "ours by the exact metrics" in against_text(run_tiny(), published)
    run = run_tiny("lee2018")
    record = run.records[0]
    text = against_text(run, published)
    assert "ours by the exact metrics" not in text
    assert "by its rules" in text
    (row,) = csv_rows(against_csv(run, published))
    assert float(row["ours_percent"]) == pytest.approx(100 * record.metrics["auroc"], abs=1e-5)
    assert float(row["by_its_rules_percent"]) == pytest.approx(100 * record.audit["lee2018"]["auroc"], abs=1e-5)
    assert float(row["difference_points"]) == pytest.approx(100 * record.audit["lee2018"]["auroc"] - 50, abs=1e-5)
