"""`compare` on arrays: the tests of `bench compare`, and which input is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from oodbench.benchmark import Evaluation, PairedComparison, compare
from oodbench.benchmark.comparisons.compare import compare as compare_run
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.records.record import Record, write_record
from oodbench.benchmark.records.run import read_stored_run, write_run_info
from oodbench.benchmark.stats.delong import Placements, covariance
from tests.standalone.test_evaluation import Tags

Sets = dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]


@pytest.fixture
def sets() -> Sets:
    random = np.random.default_rng(0)
    image, ood = random.normal(size=300), {"svhn": random.normal(1.5, size=200), "noise": random.normal(2, size=150)}

    def noisy(array: np.ndarray, noise: float) -> np.ndarray:
        found: np.ndarray = array + noise * random.normal(size=len(array))
        return found

    return {
        name: (noisy(image, noise), {key: noisy(array, noise) for key, array in ood.items()})
        for name, noise in (("a", 0.1), ("b", 0.5), ("c", 0.5))
    }


def of_set(sets: Sets, ood_set: str) -> dict[str, Any]:
    return {name: (id_scores, ood[ood_set]) for name, (id_scores, ood) in sets.items()}


def test_it_is_delongs_test(sets: Sets) -> None:
    """Against the formula of DeLong et al. (1988), for one pair."""
    pairs = of_set(sets, "svhn")
    found = compare({"a": pairs["a"], "b": pairs["b"]})
    (pair,) = found.pairs
    joint = covariance([Placements.of(*pairs[name]) for name in ("a", "b")])
    error = np.sqrt(joint[0, 0] + joint[1, 1] - 2 * joint[0, 1])
    difference = auroc(*pairs["a"]) - auroc(*pairs["b"])
    assert pair.difference == pytest.approx(difference, abs=1e-12)
    assert pair.p == pytest.approx(2 * stats.norm.sf(abs(difference) / error), rel=1e-9)
    assert pair.p_holm == pair.p
    assert (pair.low, pair.high) == pytest.approx((difference - 1.959964 * error, difference + 1.959964 * error))


def stored(folder: Path, sets: Sets) -> Path:
    """The scores as a run on the sets ID and svhn, noise would leave them."""
    cells = []
    for name, (id_scores, ood) in sets.items():
        for ood_set, ood_scores in ood.items():
            artifacts = {"checkpoint": "checkpoint/one"}
            for part, array in (("id_scores", id_scores), ("ood_scores", ood_scores)):
                path = folder / "cache" / "scores" / f"{name}-{ood_set}-{part}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
                artifacts[part] = path.relative_to(folder / "cache").as_posix()
            record = Record(
                id_set="ID", ood_set=ood_set, group="far", outlier_source=False, seen=False, detector=name, settings={},
                recipe="r", recipe_settings={}, backbone="b", label=name, seed=0, status="ok",
                metrics={"auroc": auroc(id_scores, ood_scores)}, artifacts=artifacts,
            )  # fmt: skip
            cells.append(write_record(folder / "runs" / "r", record).name)
    write_run_info(folder / "runs" / "r", {"name": "r", "seeds": [0], "cells": cells})
    return folder


@pytest.mark.parametrize("metric", ["auroc", "aupr_in", "tnr_at_tpr95", "fpr_at_tpr95"])
def test_numbers_are_those_of_bench_compare(tmp_path: Path, sets: Sets, metric: str) -> None:
    folder = stored(tmp_path, sets)
    run = compare_run(read_stored_run(folder / "runs" / "r"), folder / "cache", metric=metric, resamples=200)
    found = compare(sets, metric=metric, resamples=200)
    assert [column.ood_set for column in run.columns] == [column.ood_set for column in found.columns]
    for theirs, ours in zip(run.columns, found.columns, strict=True):
        np.testing.assert_array_equal(theirs.estimate.values, ours.estimate.values)
        np.testing.assert_array_equal(theirs.estimate.holm, ours.estimate.holm)
        np.testing.assert_array_equal(theirs.estimate.half_width, ours.estimate.half_width)
        assert theirs.best_set == ours.best_set


def test_pairs_and_frames(sets: Sets) -> None:
    found = compare(sets)
    frame = found.to_frame()
    assert len(frame) == len(found.pairs) == 6
    row = frame[(frame.ood_set == "svhn") & (frame.a == "a") & (frame.b == "b")].iloc[0]
    assert row.value_a == pytest.approx(auroc(*of_set(sets, "svhn")["a"]))
    assert row.difference == pytest.approx(row.value_a - row.value_b)
    assert row.low < row.difference < row.high
    assert set(frame.outcome) <= {"win", "tie", "loss"}
    assert row.outcome == "win"
    assert (frame.p_holm >= frame.p).all()
    assert found.best["svhn"] == {"a"}
    assert found.matrix is not None


def test_lower_is_better_keeps_the_metrics_own_sign(sets: Sets) -> None:
    tnr, fpr = (compare(of_set(sets, "svhn"), metric=metric).pairs[0] for metric in ("tnr_at_tpr95", "fpr_at_tpr95"))
    assert fpr.value_a == pytest.approx(1 - tnr.value_a)
    assert fpr.difference == pytest.approx(-tnr.difference)
    assert fpr.low < fpr.difference < fpr.high
    assert fpr.outcome == tnr.outcome


def test_evaluations_and_tensors_are_compared(sets: Sets) -> None:
    expected = compare(sets).pairs
    evaluations: dict[str, Any] = {name: Evaluation(*pair) for name, pair in sets.items()}
    assert compare(evaluations).pairs == expected
    tensors = {
        name: (torch.from_numpy(id_scores), {key: torch.from_numpy(array) for key, array in ood.items()})
        for name, (id_scores, ood) in sets.items()
    }
    assert compare(tensors).pairs == expected


def test_images_that_belong_together_weigh_less(sets: Sets) -> None:
    pairs = of_set(sets, "svhn")
    doubled = {name: (np.tile(i, 2), np.tile(o, 2)) for name, (i, o) in pairs.items()}
    alone = compare(pairs).pairs[0]
    ignored = compare(doubled).pairs[0]
    groups = compare(doubled, id_groups=np.tile(np.arange(300), 2), ood_groups=np.tile(np.arange(200), 2)).pairs[0]
    assert ignored.high - ignored.low < 0.8 * (alone.high - alone.low)
    assert groups.high - groups.low == pytest.approx(alone.high - alone.low, rel=0.03)


def test_groups_come_from_the_evaluations(sets: Sets) -> None:
    own: dict[str, Any] = {"id_groups": np.arange(300) // 2, "ood_groups": {"svhn": np.arange(200) // 4}}
    expected = compare(sets, **own)
    evaluations: dict[str, Any] = {name: Evaluation(*pair, **own) for name, pair in sets.items()}
    assert compare(evaluations).pairs == expected.pairs != compare(sets).pairs
    assert compare({**evaluations, "c": sets["c"]}).pairs == expected.pairs
    free: Any = {"id_groups": np.arange(300), "ood_groups": {"svhn": np.arange(200)}}
    assert compare(evaluations, **free).pairs == compare(sets).pairs
    others = Evaluation(*sets["c"], id_groups=np.arange(300) // 3)
    with pytest.raises(UserError, match="'a' and 'c' have different groups of ID images"):
        compare({**evaluations, "c": others})
    others = Evaluation(*sets["c"], ood_groups={"svhn": np.arange(200) // 2})
    with pytest.raises(UserError, match="'a' and 'c' have different groups of 'svhn' images"):
        compare({**evaluations, "c": others})


def test_tables(sets: Sets) -> None:
    found = compare(sets)
    latex = found.to_latex().splitlines()
    assert latex[2] == r"Pair & OOD set & difference & 95\% interval & p & p (Holm) \\"
    assert sum(" - " in line for line in latex) == 6
    assert "$<$ 0.001" in found.to_latex()
    html, tags = found._repr_html_(), Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.rows == [3] * 4 + [6] * 7
    assert f"{100 * auroc(*of_set(sets, 'svhn')['a']):.1f}°" in html
    assert "may be best on svhn: a; noise: " in repr(found)
    assert isinstance(found, PairedComparison)


def test_wrong_input_is_one_sentence(sets: Sets) -> None:
    pairs = of_set(sets, "svhn")
    a = pairs["a"]
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"a": a}, {}, "needs two detectors or more, got 1"),
        (
            {"a": a, "b": (a[0][1:], a[1])},
            {},
            "'a' has 300 ID scores and 'b' 299; a paired test needs scores of the same",
        ),
        ({"a": a, "b": (a[0], a[1][1:])}, {}, "'a' has 200 OOD scores and 'b' 199"),
        ({"a": a, "b": (a[0], {"svhn": a[1]})}, {}, "'a' has the OOD sets OOD, and 'b' svhn"),
        ({"a": a, "b": a[0]}, {}, "'b' is not a pair"),
        ({"a": a, "b": a}, {"metric": "auc"}, "Unknown metric 'auc'"),
        ({"a": a, "b": a}, {"resamples": 5}, "5 resamples are too few"),
        ({"a": a, "b": a}, {"id_groups": [1, 2]}, r"id_groups is int64 of shape \(2,\); expected 300 integers"),
        ({"a": a, "b": a}, {"ood_groups": {"svh": [1]}}, "ood_groups has 'svh', which is no OOD set here"),
        (sets, {"ood_groups": np.arange(200)}, "ood_groups is one array for 2 OOD sets"),
        ({"a": ([1], [2, 3]), "b": ([1], [2, 3])}, {}, "OOD: 1 ID images and 2 OOD images are too few"),
    ]
    for detectors, options, message in cases:
        with pytest.raises(UserError, match=message):
            compare(detectors, **options)
