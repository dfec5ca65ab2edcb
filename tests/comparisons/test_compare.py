"""`bench compare` on a synthetic run: its page, its files and its errors."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from matplotlib.text import Text

from oodbench.benchmark import ImageSet
from oodbench.benchmark.comparisons.compare import Comparison, Matrix, compare
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.records.record import Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.stats.rank_tests import rank_tests
from oodbench.benchmark.views.comparison import plots
from oodbench.benchmark.views.comparison.layout import matrix_lines
from oodbench.benchmark.views.comparison.page import compare_csv, compare_markdown, compare_text
from oodbench.benchmark.views.comparison.plots import diagram, wins
from oodbench.benchmark.views.plots import style as canvas
from tests.support import bench, csv_rows

DETECTORS = ("alpha", "beta[heat=2]", "gamma@exposed", "delta")
SHIFTS = (0.4, 0.5, 1.5, 0.0)
SETS = ("signs", "noise", "fur", "ink", "sky", "mud")
SEEDS = (0, 1, 2)


def made_up_scores(detector: int, ood: int, seed: int) -> dict[str, np.ndarray]:
    """60 ID and 50 OOD scores; the images are the same for all detectors and seeds; delta is always right."""
    images, own = np.random.default_rng(ood), np.random.default_rng([detector, ood, seed])
    shift = 20.0 if DETECTORS[detector] == "delta" else SHIFTS[detector]
    pair = {"id_scores": images.normal(size=60), "ood_scores": images.normal(shift, 1, 50)}
    return {name: shared + 0.5 * own.normal(size=len(shared)) for name, shared in pair.items()}


def records(cache: Path, seeds: tuple[int, ...]) -> Iterator[Record]:
    for d, label in enumerate(DETECTORS):
        for o, ood_set in enumerate(SETS):
            for seed in seeds:
                arrays = made_up_scores(d, o, seed)
                names = {name: f"scores/{d}-{o}-{seed}-{name}.npy" for name in arrays}
                for name, path in names.items():
                    (cache / path).parent.mkdir(parents=True, exist_ok=True)
                    np.save(cache / path, arrays[name])
                recipe = "exposed" if "@" in label else "plain"
                failed = (label, ood_set, seed) == ("alpha", "mud", seeds[-1])
                yield Record(
                    id_set="digits", ood_set=ood_set, group="far", outlier_source=ood_set == "signs",
                    seen="@" in label and ood_set == "signs", detector=label.split("[")[0].split("@")[0], settings={},
                    recipe=recipe, recipe_settings={}, backbone="small_cnn", seed=seed, label=label,
                    status="failed" if failed else "ok", reason="diverged" if failed else "",
                    metrics={} if failed else evaluate(**arrays),
                    artifacts={} if failed else {**names, "checkpoint": f"checkpoint/{recipe}-{seed}"},
                )  # fmt: skip


def made_up(results: Path, name: str, seeds: tuple[int, ...] = SEEDS) -> Path:
    folder = results / "runs" / name
    cells = [write_record(folder, record).name for record in records(results / "cache", seeds)]
    write_run_info(folder, {"name": name, "seeds": list(seeds), "cells": cells})
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "results"
    made_up(folder, "toy")
    made_up(folder, "single", (0,))
    return folder


@pytest.fixture(scope="module")
def run(results: Path) -> StoredRun:
    return read_stored_run(results / "runs" / "toy")


@pytest.fixture(scope="module")
def found(results: Path, run: StoredRun) -> Comparison:
    return compare(run, results / "cache")


def bench_compare(results: Path, *arguments: str) -> Result:
    return bench("compare", *arguments, "--results", results)


def rows(run_folder: Path, name: str = "compare.csv") -> list[dict[str, str]]:
    return csv_rows((run_folder / "compare" / name).read_text())


def test_the_page_and_its_files(results: Path) -> None:
    folder = results / "runs" / "toy"
    result = bench_compare(results, "toy")
    assert result.exit_code == 0, result.output
    assert "toy: which detector is better? AUROC" in result.output
    assert re.search(r"^delta +100\.0°\* +100\.0°\*", result.output, re.MULTILINE)
    written = {path.name: path.read_bytes() for path in (folder / "compare").iterdir()}
    assert set(written) == {
        "compare.md", "compare.csv", "best.csv", "wins.csv", "drawn.json", "win_tie_loss.png", "win_tie_loss.svg"
    }  # fmt: skip
    assert written["win_tie_loss.png"].startswith(b"\x89PNG")
    bench_compare(results, "toy")
    assert {path.name: path.read_bytes() for path in (folder / "compare").iterdir()} == written


def test_the_numbers_are_those_of_the_scores(results: Path) -> None:
    bench_compare(results, "toy")
    table = rows(results / "runs" / "toy")
    row = next(r for r in table if (r["ood_set"], r["a"], r["b"]) == ("noise", "alpha", "gamma@exposed"))
    means = [np.mean([evaluate(**made_up_scores(d, 1, s))["auroc"] for s in SEEDS]) for d in (0, 2)]
    assert float(row["value_a"]) == pytest.approx(means[0], abs=1e-6)
    assert float(row["difference"]) == pytest.approx(means[0] - means[1], abs=2e-6)
    assert (row["n_id"], row["n_ood"], row["seeds"]) == ("60", "50", "0 1 2")
    units = {(r["a"], r["b"]): r["unit"] for r in table if r["ood_set"] == "noise"}
    assert units[("alpha", "beta[heat=2]")] == "images"
    assert units[("alpha", "gamma@exposed")] == "seeds and images"
    assert all((r["outcome"] == "tie") == (float(r["p_holm"]) >= 0.05) for r in table)


def test_detectors_that_do_not_compete_are_listed(found: Comparison) -> None:
    by_set = {column.ood_set: column for column in found.columns}
    assert by_set["signs"].left_out == {"gamma@exposed": "was trained on outliers of this distribution"}
    assert by_set["signs"].outcome("gamma@exposed", "delta") is None
    text = " ".join(compare_text(found).split())
    assert "Left out: gamma@exposed was trained on outliers of this distribution (digits against signs)." in text
    assert "both seeds and images are random samples" in text
    # The outlier source is not part of the matrix.
    assert found.matrix is not None
    assert found.matrix.columns == tuple(("digits", name) for name in SETS[1:])
    assert "with 5, the Wilcoxon signed-rank test cannot give a p below 0.0625" in text


def test_a_column_is_judged_on_the_seeds_that_all_have(found: Comparison) -> None:
    by_set = {column.ood_set: column for column in found.columns}
    assert by_set["fur"].seeds == (0, 1, 2)
    mud = by_set["mud"]
    assert (mud.seeds, mud.left_out, mud.seeds_left_out) == ((0, 1), {}, {2: ("alpha",)})
    expected = [np.mean([evaluate(**made_up_scores(d, 5, s))["auroc"] for s in (0, 1)]) for d in range(len(DETECTORS))]
    np.testing.assert_allclose(mud.estimate.values, expected)
    text = " ".join(compare_text(found).split())
    assert "Left out: seed 2, for which alpha has no result (digits against mud)." in text


def test_without_a_common_seed_the_one_that_most_have_decides(results: Path, run: StoredRun) -> None:
    chosen = [r for r in run.records if (r.label == "alpha") == (r.seed == 0) and r.status == "ok"]
    found = compare(dataclasses.replace(run, records=chosen), results / "cache")
    column = next(column for column in found.columns if column.ood_set == "fur")
    assert column.seeds == (1, 2)
    assert column.left_out == {"alpha": "has no result for seed 1"}
    assert column.seeds_left_out == {}
    failed = [dataclasses.replace(r, status="failed") if r.label == "alpha" else r for r in run.records]
    found = compare(dataclasses.replace(run, records=failed), results / "cache")
    assert all(column.left_out["alpha"] == "has no result" for column in found.columns)


class Grouped(ScoredImages):
    """ID images of six groups of ten; the OOD images are not available."""

    def __init__(self) -> None:
        pass

    def of(self, record: Record, name: str, count: int) -> ImageSet | str:
        if name == "digits":
            return ImageSet(np.zeros((count, 1, 2, 2), np.uint8), groups=np.arange(count) // 10)
        return "not available"


@pytest.mark.parametrize("metric", ["auroc", "tnr_at_tpr95"])
def test_groups_are_drawn_where_they_are_known(results: Path, run: StoredRun, metric: str) -> None:
    found = compare(run, results / "cache", ("alpha", "delta"), metric, 300, images=Grouped())
    assert [(c.units[0].count, c.units[1].count) for c in found.columns] == [(6, 50)] * len(SETS)
    assert [c.images_unknown for c in found.columns] == [(name,) for name in SETS]
    page = " ".join(compare_text(found).split())
    assert "(one writer, one photograph) in digits (6 groups)." in page
    assert "Groups unknown: the scored images of signs, noise, fur, ink, sky, mud are not in --data-dir" in page
    alone = compare(run, results / "cache", ("alpha", "delta"), metric, 300)
    assert "The unit of sampling is the group" not in " ".join(compare_text(alone).split())
    assert all(a.estimate.p[0, 1] != b.estimate.p[0, 1] for a, b in zip(found.columns, alone.columns, strict=True))


def test_wins_and_losses_mirror_each_other(found: Comparison) -> None:
    assert found.counts("delta", "alpha") == (6, 0, 0)
    for a, b in combinations(found.labels, 2):
        assert found.counts(a, b) == found.counts(b, a)[::-1]
    assert all(column.best == "delta" and "delta" in column.best_set for column in found.columns)
    assert not any({"alpha", "beta[heat=2]"} & column.best_set for column in found.columns)


def test_one_seed_speaks_of_its_checkpoints_only(results: Path) -> None:
    result = bench_compare(results, "single", "--detectors", "alpha,gamma@exposed")
    assert result.exit_code == 0, result.output
    assert "for these checkpoints only" in " ".join(result.output.split())
    assert {row["unit"] for row in rows(results / "runs" / "single")} == {"images", "sets"}


def test_few_detectors_are_listed_pair_by_pair(results: Path, run: StoredRun) -> None:
    two = compare(run, results / "cache", ("beta[heat=2]", "delta"))
    page = compare_text(two)
    assert page.count("beta[heat=2] - delta") == len(SETS)
    assert "< 0.001" in page
    assert "Wilcoxon signed-rank: no significant" not in page  # five sets are too few to say so
    assert "`beta[heat=2] - delta`" in compare_markdown(two)


def test_six_sets_are_enough_for_the_diagram(results: Path, run: StoredRun) -> None:
    whole = [dataclasses.replace(r, outlier_source=False, seen=False) for r in run.records if r.label != "alpha"]
    found = compare(dataclasses.replace(run, records=whole), results / "cache")
    assert found.matrix is not None
    assert found.matrix.tests.enough
    figure = diagram(found.matrix, "AUROC")
    words = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
    assert "delta 1.00" in words
    assert f"critical difference {found.matrix.tests.critical_difference:.2f}" in words
    page = " ".join(compare_text(found).split())
    assert re.search(r"Friedman: p = 0\.0\d+ for the hypothesis", page)
    assert "Not told apart: delta, gamma@exposed; gamma@exposed, beta[heat=2]." in page  # Nemenyi
    assert "Conover, Holm over 3 pairs. Not told apart at 5%: none." in page  # all sets rank them alike
    assert found.matrix.tests.cliques == []
    rows_of_matrix = [row for row in csv_rows(compare_csv(found)) if row["scope"] == "matrix"]
    assert [float(row["p_conover_holm"]) for row in rows_of_matrix] == pytest.approx([3 / 6**5] * 3, rel=1e-4)


def test_what_is_not_told_apart_is_written_and_drawn_for_both_tests() -> None:
    values = np.random.default_rng(1).normal(size=(16, 9)) + 0.3 * np.arange(9)
    labels = tuple("abcdefghi")
    matrix = Matrix(labels, tuple(("digits", f"set {n}") for n in range(16)), rank_tests(values))
    tests = matrix.tests
    assert 0 < len(tests.cliques) < len(labels)
    figure = diagram(matrix, "AUROC")
    drawn: dict[str, list[list[float]]] = {"black": [], "#D55E00": []}
    for line in figure.axes[0].get_lines():
        if line.get_color() in drawn:
            drawn[str(line.get_color())].append(np.asarray(line.get_xdata(), dtype=float).tolist())
    for colour, groups in (("black", tests.groups), ("#D55E00", tests.cliques)):
        ends = [[tests.ranks[group[0]] - 0.04, tests.ranks[group[-1]] + 0.04] for group in groups]
        np.testing.assert_allclose(drawn[colour], ends)
    sentence = " ".join(matrix_lines(Comparison("toy", "auroc", labels, 100, (), matrix, {})))
    conover = sentence.partition("Conover, Holm over 36 pairs. Not told apart at 5%: ")[2].partition(".")[0]
    assert len(conover.split("; ")) == len(tests.cliques)
    first = [labels[i] for i in tests.cliques[0]]
    assert conover.split("; ")[0] == ", ".join(first)
    nemenyi = next(group for group in tests.groups if len(group) > 4)
    assert f"{labels[nemenyi[0]]} to {labels[nemenyi[-1]]} ({len(nemenyi)})" in sentence


def test_a_diagram_of_an_earlier_comparison_does_not_stay(results: Path) -> None:
    stale = results / "runs" / "toy" / "compare" / "critical_difference.png"
    stale.parent.mkdir(exist_ok=True)
    stale.write_bytes(b"old")
    bench_compare(results, "toy")
    assert not stale.exists()


@pytest.mark.slow
def test_the_same_plots_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    folder = made_up(results, "toy") / "compare"
    counted: list[str] = []
    draw = plots.draw

    def counting(found: Comparison, place: Path) -> list[Path]:
        counted.append(found.metric)
        return draw(found, place)

    monkeypatch.setattr(plots, "draw", counting)

    def drawn(*arguments: str) -> int:
        before = len(counted)
        assert bench_compare(results, "toy", *arguments).exit_code == 0
        assert (folder / "win_tie_loss.png").read_bytes().startswith(b"\x89PNG")
        return len(counted) - before

    assert (drawn(), drawn()) == (1, 0)
    (folder / "win_tie_loss.png").write_bytes(b"damaged")
    assert (drawn(), drawn()) == (1, 0)
    (folder / "win_tie_loss.svg").unlink()
    assert (drawn(), drawn()) == (1, 0)
    assert (drawn("--detectors", "alpha,delta"), drawn("--detectors", "alpha,delta"), drawn()) == (1, 0, 1)
    assert (drawn("--metric", "tnr_at_tpr95", "--resamples", "200"), drawn()) == (1, 1)
    (folder / "drawn.json").write_text('{"files": {"../../x.png": 1}, "inputs": 5}')
    assert (drawn(), drawn()) == (1, 0)
    monkeypatch.setattr(plots, "draw", lambda *_: 1 / 0)
    (folder / "win_tie_loss.png").unlink()
    assert bench_compare(results, "toy").exit_code == 0  # with a warning
    assert not (folder / "drawn.json").exists()


def test_lower_is_better_where_the_metric_counts_errors(results: Path, run: StoredRun) -> None:
    found = compare(run, results / "cache", ("alpha", "delta"), "fpr_at_tpr95", 200)
    assert all(column.best == "delta" for column in found.columns)
    assert found.counts("delta", "alpha")[0] > 0
    page = compare_text(found)
    assert re.search(r"^delta +0\.0°\*", page, re.MULTILINE)
    assert re.search(r"alpha - delta +\+", page)  # in points of the metric itself
    again = compare(run, results / "cache", ("alpha", "delta"), "fpr_at_tpr95", 200)
    assert compare_text(again) == page
    assert compare_text(compare(run, results / "cache", ("alpha", "delta"), "fpr_at_tpr95", 200, seed=1)) != page


def test_the_heat_map_prints_every_pair(found: Comparison) -> None:
    with canvas.styled():
        words = [text.get_text() for text in wins(found).findobj(Text) if isinstance(text, Text)]
    assert words.count("6/0/0") >= 1
    assert sum("/" in word and word[0].isdigit() for word in words) == 12


WRONG = {
    "run": (["tou"], "Unknown run 'tou'. Did you mean 'toy'?"),
    "detector": (["toy", "--detectors", "alpha,delt"], "Unknown detector of run 'toy' 'delt'. Did you mean 'delta'?"),
    "one detector": (
        ["toy", "--detectors", "alpha,alpha"],
        "needs two detectors or more; --detectors names only alpha",
    ),
    "metric": (["toy", "--metric", "auroc2"], "Unknown metric 'auroc2'. Did you mean 'auroc'?"),
    "resamples": (["toy", "--resamples", "5"], "5 resamples are too few"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence_and_exit_code_two(results: Path, case: str) -> None:
    arguments, sentence = WRONG[case]
    result = bench_compare(results, *arguments)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_missing_scores_are_an_error_and_the_earlier_page_stays(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "results", "toy")
    assert bench_compare(tmp_path / "results", "toy").exit_code == 0
    page = (folder / "compare" / "compare.md").read_bytes()
    path = tmp_path / "results" / "cache" / "scores" / "1-1-0-ood_scores.npy"
    for spoil in (lambda: path.write_bytes(path.read_bytes()[:90]), path.unlink):
        spoil()
        result = bench_compare(tmp_path / "results", "toy")
        assert result.exit_code == 2
        assert "The scores of 'beta[heat=2]' on digits against noise, seed 0, are not in the cache" in result.output
        assert "Repeat the command that made the run" in result.output
        assert (folder / "compare" / "compare.md").read_bytes() == page
    # A comparison that does not need them is still possible.
    assert bench_compare(tmp_path / "results", "toy", "--detectors", "alpha,delta").exit_code == 0


def test_other_images_are_not_compared(results: Path, run: StoredRun, tmp_path: Path) -> None:
    cache = results / "cache"
    np.save(cache / "scores" / "shorter.npy", np.zeros(49))
    changed = [
        dataclasses.replace(r, artifacts={**r.artifacts, "ood_scores": "scores/shorter.npy"})
        if (r.label, r.ood_set, r.seed) == ("alpha", "fur", 1)
        else r
        for r in run.records
    ]
    found = compare(dataclasses.replace(run, records=changed), cache)
    assert "not scored on the same images" in found.not_judged[("digits", "fur")]
    assert "Not judged: digits against fur" in compare_text(found, 400)
    only = [r for r in run.records if r.label == "delta" or r.status != "ok"]
    with pytest.raises(UserError, match="No column of run 'toy' has two of these detectors that can be compared"):
        compare(dataclasses.replace(run, records=only), cache)


@pytest.mark.parametrize("metric", ["aupr_in", "aupr_out"])
def test_aupr_of_few_images_is_not_judged(results: Path, run: StoredRun, metric: str) -> None:
    message = r"60 ID and 50 OOD images are too few to judge AUPR, which needs 100 of each"
    with pytest.raises(UserError, match=message):
        compare(run, results / "cache", metric=metric)


def test_detection_accuracy_of_few_images_is_not_judged(results: Path, run: StoredRun) -> None:
    message = r"60 ID and 50 OOD images are too few to judge detection_accuracy, which needs 100 of each"
    with pytest.raises(UserError, match=message):
        compare(run, results / "cache", metric="detection_accuracy")
    assert compare(run, results / "cache", metric="tnr_at_tpr95").columns


def test_a_run_of_one_detector_is_rejected(results: Path, run: StoredRun) -> None:
    only = [record for record in run.records if record.label == "delta"]
    with pytest.raises(UserError, match="run 'toy' has only delta"):
        compare(dataclasses.replace(run, records=only), results / "cache")


@pytest.mark.slow
def test_comparing_needs_neither_torch_nor_pyplot(results: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from oodbench.benchmark.cli import main\n"
        f"r = CliRunner().invoke(main, ['compare', 'toy', '--results', {str(results)!r}])\n"
        "assert r.exit_code == 0, r.output\n"
        "assert not {'torch', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
