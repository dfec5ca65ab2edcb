"""`Evaluation`: the metrics and intervals of a run, in every form, from arrays of scores."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from oodbench.benchmark import Evaluation, auroc, confidence_intervals, evaluate
from oodbench.benchmark.errors import MetricError, UserError
from oodbench.benchmark.metrics.names import METRICS


def scores(seed: int = 0, n: int = 300, m: int = 200, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=n), random.normal(shift, size=m)


@pytest.fixture
def several() -> Evaluation:
    id_scores, first = scores()
    sets = {"svhn": first, "lsun_&_co": scores(1)[1], "noise": scores(2, shift=4)[1]}
    return Evaluation(id_scores, sets, {"svhn": "near", "noise": "far"}, name="vim[dim=3]")


def test_metrics_and_intervals_are_those_of_a_run() -> None:
    pair = scores()
    one = Evaluation(*pair)
    assert one.metrics == {name: evaluate(*pair)[name] for name in METRICS}
    assert one.auroc == auroc(*pair)
    assert one.intervals == confidence_intervals(*pair)
    assert one.sets == ("OOD",)
    assert one.means == {}


def test_intervals_count_groups_of_images_that_depend_on_each_other() -> None:
    (id_scores, svhn), (_, noise) = scores(), scores(1)
    of_id, of_svhn = np.arange(300) // 3, torch.arange(200) // 4
    alone = Evaluation(id_scores, svhn, id_groups=of_id, ood_groups=of_svhn)
    assert alone.metrics == Evaluation(id_scores, svhn).metrics
    assert alone.intervals == confidence_intervals(id_scores, svhn, of_id, of_svhn.numpy())
    assert alone.intervals != confidence_intervals(id_scores, svhn)
    both = Evaluation(id_scores, {"svhn": svhn, "noise": noise}, id_groups=of_id, ood_groups={"svhn": of_svhn})
    assert both["svhn"].intervals == alone.intervals
    assert both["noise"].intervals == confidence_intervals(id_scores, noise, of_id)
    sets = both.to_dict()["sets"]
    assert sets["svhn"]["intervals"]["auroc"] == list(alone.intervals["auroc"])
    assert both.to_frame().loc["svhn", "auroc_low"] == alone.intervals["auroc"][0]
    assert "over draws of groups of dependent test images" in both._repr_html_()
    assert "over draws of test images" in Evaluation(id_scores, svhn)._repr_html_()


def test_wrong_groups_are_one_sentence() -> None:
    id_scores, svhn = scores()
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (svhn, {"id_groups": [1, 2]}, r"id_groups is int64 of shape \(2,\); expected 300 integers, one per image"),
        (svhn, {"ood_groups": np.zeros(200)}, r"ood_groups is float64 of shape \(200,\); expected 200 integers"),
        ({"a": svhn, "b": svhn}, {"ood_groups": np.arange(200)}, "ood_groups is one array for 2 OOD sets; expected"),
        ({"a": svhn, "b": svhn}, {"ood_groups": {"b": [1]}}, r"ood_groups\['b'\] is int64 of shape \(1,\)"),
        ({"a": svhn, "b": svhn}, {"ood_groups": {"c": [1]}}, "ood_groups has 'c', which is no OOD set here; .* a, b"),
    ]
    for ood, options, message in cases:
        with pytest.raises(UserError, match=message):
            Evaluation(id_scores, ood, **options)


def test_tensors_and_lists_are_scores() -> None:
    id_scores, ood_scores = scores()
    expected = Evaluation(id_scores, ood_scores).to_dict()
    tensors = Evaluation(torch.from_numpy(id_scores).requires_grad_(), torch.from_numpy(ood_scores))
    assert tensors.to_dict() == Evaluation(id_scores.tolist(), ood_scores.tolist()).to_dict() == expected


def test_several_sets_have_means_by_group(several: Evaluation) -> None:
    of_sets = {name: several[name].metrics["auroc"] for name in several.sets}
    assert several.auroc == pytest.approx(np.mean(list(of_sets.values())))
    assert several.means["near"]["auroc"] == of_sets["svhn"]
    assert several.means["far"]["auroc"] == of_sets["noise"]
    assert list(several.means) == ["near", "far", "all"]
    assert several["svhn"].intervals == confidence_intervals(several.id_scores, several.ood_scores["svhn"])
    with pytest.raises(UserError, match=r"share their ID images. Ask for one of them: evaluation\['svhn'\].intervals"):
        _ = several.intervals


def test_a_dict_is_plain_and_complete(several: Evaluation) -> None:
    found = json.loads(json.dumps(several.to_dict()))
    assert (found["name"], found["n_id"], list(found["sets"])) == ("vim[dim=3]", 300, list(several.sets))
    svhn = found["sets"]["svhn"]
    assert (svhn["group"], svhn["n_ood"]) == ("near", 200)
    assert svhn["metrics"] == several["svhn"].metrics
    assert {name: tuple(ends) for name, ends in svhn["intervals"].items()} == several["svhn"].intervals


def test_a_frame_has_a_row_per_set_and_mean(several: Evaluation) -> None:
    frame = several.to_frame()
    assert list(frame.index) == [*several.sets, "near mean", "far mean", "all mean"]
    assert frame.loc["svhn", "auroc"] == several["svhn"].auroc
    assert frame.loc["svhn", ["auroc_low", "auroc_high"]].tolist() == list(several["svhn"].intervals["auroc"])
    assert frame.loc["all mean", "auroc"] == several.auroc
    assert frame.loc["all mean"].isna()["auroc_low"]
    assert frame["n_ood"].tolist()[:3] == [200, 200, 200]
    assert len(Evaluation(*scores()).to_frame()) == 1


def test_a_latex_row_has_percent_and_intervals() -> None:
    one = Evaluation(*scores(), name="my_method")
    low, high = (100 * end for end in one.intervals["auroc"])
    expected = rf"my\_method & {100 * one.auroc:.1f} {{\scriptsize [{low:.1f}, {high:.1f}]}} \\"
    assert one.to_latex(["auroc"], row=True) == expected + "\n"
    table = one.to_latex()
    assert table.startswith("\\begin{tabular}{@{}lrrrrr@{}}\n\\toprule\nDetector & TNR95 & AUROC & DetAcc & AUPR-in &")
    assert table.endswith("\\bottomrule\n\\end{tabular}\n")
    assert "Other & " in one.to_latex(name="Other")


def test_a_latex_table_of_several_sets(several: Evaluation) -> None:
    lines = several.to_latex(["auroc", "fpr_at_tpr95"]).splitlines()
    assert lines[2] == r"OOD set (vim{[}dim=3]) & AUROC & FPR95 \\"
    assert [line.split(" & ")[0] for line in lines if " & " in line][1:] == [
        "svhn", r"lsun\_\&\_co", "noise", "near mean", "far mean", "all mean"
    ]  # fmt: skip
    assert lines.count(r"\midrule") == 2
    with pytest.raises(UserError, match=r"Unknown metric 'aurocc'. Did you mean 'auroc'\?"):
        several.to_latex(["aurocc"])


class Tags(HTMLParser):
    """Counts cells of each row, and refuses tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_notebook_shows_a_table(several: Evaluation) -> None:
    html, tags = several._repr_html_(), Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.rows == [7] * 7
    assert "lsun_&amp;_co" in html
    low, high = (100 * end for end in several["noise"].intervals["auroc"])
    assert f"{100 * several['noise'].auroc:.1f} [{low:.1f}, {high:.1f}]" in html
    assert repr(several).startswith("<Evaluation 'vim[dim=3]': AUROC of 300 ID images against svhn ")


def test_plots_show_the_curves_and_the_shares(several: Evaluation) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert several.plot_roc(left) is left
    curves = [line for line in left.get_lines() if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in curves] == [
        f"{name} (AUROC {100 * several[name].auroc:.1f})" for name in several.sets
    ]
    x, y = (np.asarray(data) for data in curves[0].get_data())
    assert (np.diff(x) * (y[1:] + y[:-1]) / 2).sum() == pytest.approx(several["svhn"].auroc, abs=1e-3)
    assert several.plot_histogram(right, bins=20) is right
    steps: Any = right.patches[0]
    heights = steps.get_data().values
    assert len(heights) == 20
    assert heights.sum() == pytest.approx(1, abs=0.01)
    assert len(right.patches) == 4
    figure.canvas.draw()
    with pytest.raises(UserError, match="bins is 0"):
        several.plot_histogram(right, bins=0)


def test_without_axes_there_is_a_new_figure(several: Evaluation) -> None:
    import matplotlib.pyplot as plt

    with mpl.rc_context({"backend": "agg"}):
        plt.switch_backend("agg")
        axes = several["svhn"].plot_roc()
        assert axes.figure in [plt.figure(number) for number in plt.get_fignums()]
        plt.close("all")


def test_turned_scores_are_asked_about(logged: list[str]) -> None:
    id_scores, ood_scores = scores()
    Evaluation(-id_scores, {"a": -ood_scores, "b": ood_scores})
    assert logged == []
    Evaluation(-id_scores, -ood_scores)
    assert len(logged) == 1
    assert "AUROC is below 0.5 on every OOD set" in logged[0]
    assert "negate them" in logged[0]


def test_wrong_scores_are_one_sentence() -> None:
    good = [0.1, 0.2]
    for bad, message in (
        ([[0.1]], "ood_scores has shape"), ([], "ood_scores is empty"), ([0.1, np.nan], "has 1 of 2 .* index 1"),
        (["a"], "ood_scores has values of type"),
    ):  # fmt: skip
        with pytest.raises(MetricError, match=message):
            Evaluation(good, bad)
    with pytest.raises(MetricError, match=r"ood_scores\['svhn'\] has 1 of 1"):
        Evaluation(good, {"svhn": [np.inf]})
    with pytest.raises(UserError, match="groups has 'lsun', which is no OOD set here; expected one of svhn"):
        Evaluation(good, {"svhn": good}, {"lsun": "far"})
    with pytest.raises(UserError, match="groups has 'very far' for 'svhn'; expected near or far"):
        Evaluation(good, {"svhn": good}, {"svhn": "very far"})
    with pytest.raises(UserError, match="ood_scores is empty; expected an array, or a name"):
        Evaluation(good, {})
    with pytest.raises(UserError, match=r"Unknown OOD set 'svhm'. Did you mean 'svhn'\?"):
        Evaluation(good, {"svhn": good})["svhm"]


def test_torch_is_not_imported_for_scores() -> None:
    code = (
        "import sys; from oodbench.benchmark import Evaluation, compare; a = [0.1, 0.2, 0.3]; "
        "Evaluation(a, a).to_latex(); compare({'a': (a, a), 'b': (a, [1, 2, 3])}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
