"""Pictures of data frames on the caller's own axes: what they draw, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import oodbench.benchmark
from oodbench.benchmark import (
    Run,
    plot_bars,
    plot_dots,
    plot_heatmap,
    plot_histograms,
    plot_multiples,
    plot_roc,
)
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.views.run import public
from tests.views.test_plot_boxes import name, pair, problems
from tests.views.test_plots import made_up, words

SETS = {"svhn": "near", "gaussian": "far"}


def scores_frame(rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"label": name(k), "ood_set": ood, "group": group, "id_scores": known, "ood_scores": other}
        for k in range(rows)
        for i, (ood, group) in enumerate(SETS.items())
        for known, other in [pair(k, i)]
    )


def numbers_frame(rows: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"label": row.label, "ood_set": row.ood_set, "group": row.group, "metric": metric, "mean": value}
        for row in scores_frame(rows).itertuples()
        for metric, value in evaluate(row.id_scores, row.ood_scores).items()
    )


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    import matplotlib.pyplot as plt

    with mpl.rc_context({"backend": "agg"}):
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("frames")
    return public(made_up(folder / "runs" / "made_up", folder / "cache", (0, 1)))


def figure_of(axes: Axes) -> Figure:
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def test_frames_of_a_run_have_its_numbers_and_scores(run: Run) -> None:
    numbers, scores = run.summary(), run.scores()
    known = next(r for r in run.records if r.label == "alpha" and r.ood_set == "noise" and r.seed == 0)
    (row,) = scores[
        (scores.id_set == known.id_set) & (scores.label == "alpha") & (scores.ood_set == "noise")
    ].itertuples()
    assert evaluate(row.id_scores, row.ood_scores)["auroc"] == known.metrics["auroc"]
    assert scores[scores.status == "failed"].id_scores.isna().all()
    assert len(run.scores(seed=1)) == len(scores) == len(run.records) / 2
    assert {"far", "set"} <= set(numbers.scope)
    one = plot_dots(numbers[numbers.id_set == "digits"])
    assert "far mean" in words(figure_of(one))
    assert plot_heatmap(numbers).get_xlim()[0] == 0  # all ID sets


@pytest.mark.parametrize("draw", [plot_dots, plot_bars, plot_heatmap])
@pytest.mark.parametrize("rows", [3, 14])
def test_numbers_are_drawn_whole_on_new_axes(draw: Any, rows: int) -> None:
    axes = draw(numbers_frame(rows))
    assert [*problems(figure_of(axes))] == []
    shown = " ".join(words(figure_of(axes))).replace("\n", "")
    assert all(name(k) in shown for k in range(rows))


@pytest.mark.parametrize("draw", [plot_histograms, plot_multiples])
def test_scores_are_drawn_whole_on_new_axes(draw: Any) -> None:
    axes = draw(scores_frame(4))
    assert [*problems(figure_of(axes))] == []


def test_roc_takes_as_many_axes_as_there_are_sets() -> None:
    figure = Figure(figsize=(7, 3))
    own = figure.subplots(1, 2)
    drawn = plot_roc(scores_frame(12), own, best=3, highlight=name(11))
    assert list(np.ravel(own)) == drawn
    assert own[1].get_legend().get_texts()[-1].get_text() == "8 others"
    assert len(own[0].collections[0].get_paths()) == 8  # in grey
    single = plot_roc(scores_frame(2).query("ood_set == 'svhn'"), Figure().subplots(), log_fpr=True)
    assert isinstance(single, Axes)
    assert single.get_xscale() == "log"
    with pytest.raises(UserError, match=r"2 OOD sets \(svhn \(near\), gaussian \(far\)\), but there are 1 axes"):
        plot_roc(scores_frame(2), Figure().subplots())


def test_dots_show_the_metric_best_first_and_intervals() -> None:
    frame = numbers_frame(9).assign(low=0.2, high=0.9)
    axes = plot_dots(frame, Figure(figsize=(5, 4)).subplots(), metric="fpr95", best=4)
    near = frame[(frame.metric == "fpr_at_tpr95") & (frame.group == "near")].set_index("label")["mean"].sort_values()
    first = axes.get_yticklabels()[0].get_text().replace("\n", "")
    assert near[first] == near.iloc[0]
    assert len(axes.get_yticklabels()) == 4
    lines = [np.asarray(path.vertices)[:, 0] for found in axes.collections for path in found.get_paths()]
    assert sum(np.allclose(line, [20, 90]) for line in lines) == 8
    assert axes.get_xlabel() == "FPR95 (ID+) (%, lower is better)"


def test_the_caller_s_size_of_text_is_kept() -> None:
    with mpl.rc_context({"font.size": 14}):
        axes = plot_heatmap(numbers_frame(3))
        assert {text.get_fontsize() for text in axes.texts} == {14}


@pytest.mark.parametrize(
    "draw, frame, message",
    [
        (plot_dots, scores_frame(2), "no column 'metric', 'mean'; expected label, ood_set, metric, mean"),
        (plot_roc, numbers_frame(2), "no column 'id_scores', 'ood_scores'"),
        (plot_dots, numbers_frame(2).iloc[:0], "The frame is empty"),
        (plot_dots, numbers_frame(2).assign(scope="near"), "no numbers of OOD sets"),
        (plot_multiples, scores_frame(1).assign(id_scores=[[np.nan], [1.0]]), "Scores of 'mahalanobis.* not finite"),
    ],
)
def test_a_frame_that_does_not_fit_is_one_sentence(draw: Any, frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw(frame)


def test_what_does_not_fit_the_axes_or_the_frame_is_refused() -> None:
    with pytest.raises(UserError, match=r"The axes are .* but this heat map needs a height of"):
        plot_heatmap(numbers_frame(40), Figure(figsize=(6, 2)).subplots())
    both = pd.concat([numbers_frame(2).assign(id_set=one) for one in ("digits", "letters")])
    with pytest.raises(UserError, match=r"2 ID sets \(digits, letters\).*frame\['id_set'\] == 'digits'"):
        plot_dots(both)
    with pytest.raises(UserError, match="Unknown metric 'aurok'"):
        plot_dots(numbers_frame(2), metric="aurok")
    with pytest.raises(UserError, match="no detector 'nothing' to show"):
        plot_dots(numbers_frame(2), highlight="nothing")


def test_the_functions_are_public() -> None:
    for one in ("bars", "dots", "heatmap", "histograms", "multiples", "roc"):
        assert f"plot_{one}" in oodbench.benchmark.__all__
        assert "Example:" in getattr(oodbench.benchmark, f"plot_{one}").__doc__


def test_a_run_without_its_cache_has_no_scores(run: Run, tmp_path: Path) -> None:
    moved = public(made_up(tmp_path / "elsewhere", tmp_path / "there", (0,)))
    assert moved.scores(results=tmp_path / "nowhere").id_scores.isna().all()
