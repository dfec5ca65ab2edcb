"""The plots of a synthetic run: which files there are, their text, and that equal runs give equal bytes."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.records.record import Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.views.plots import draw as plots
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.bars import bars
from oodbench.benchmark.views.plots.draw import draw
from oodbench.benchmark.views.plots.heatmap import heatmap
from oodbench.benchmark.views.plots.options import Options
from oodbench.benchmark.views.summary import summary_of

ID_SETS = ("digits", "photos $5")
OOD_SETS = (("signs", "near", True), ("noise", "far", False))
DETECTORS = ("alpha", "beta[temperature=1000,epsilon=0.0014]", "gamma@exposed", "delta")
STEMS = ["roc_digits", "histograms_digits", "bars_digits", "roc_photos_5", "histograms_photos_5", "bars_photos_5"]


def score_pair(cache: Path, detector: int, ood: int, seed: int) -> tuple[dict[str, str], dict[str, float]]:
    """Scores on disk, as the runner writes them, and their metrics."""
    random = np.random.default_rng([detector, ood, seed])
    arrays = {"id_scores": random.normal(0, 1, 300), "ood_scores": random.normal(1 + detector / 2 + ood, 1, 200)}
    if detector == 3:
        arrays = {name: np.zeros(50) for name in arrays}  # a detector that gives every image the same score
    names = {name: f"scores/{detector}-{ood}-{seed}-{name}.npy" for name in arrays}
    for name, path in names.items():
        (cache / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(cache / path, arrays[name])
    return names, evaluate(arrays["id_scores"], arrays["ood_scores"])


def records(cache: Path, seeds: tuple[int, ...]) -> Iterator[Record]:
    for id_set in ID_SETS:
        for detector, label in enumerate(DETECTORS):
            for ood, (ood_set, group, source) in enumerate(OOD_SETS):
                for seed in seeds:
                    artifacts, metrics = score_pair(cache, detector, ood, seed)
                    failed = (id_set, detector, ood_set) == ("digits", 1, "noise")
                    yield Record(
                        id_set=id_set, ood_set=ood_set, group=group, outlier_source=source,
                        seen=source and "@" in label, detector=label.split("[")[0].split("@")[0], settings={},
                        recipe="plain", recipe_settings={}, backbone="small_cnn", seed=seed, label=label,
                        status="failed" if failed else "ok", reason="diverged" if failed else "",
                        id_accuracy=0.9, metrics={} if failed else metrics, artifacts={} if failed else artifacts,
                    )  # fmt: skip


def made_up(folder: Path, cache: Path, seeds: tuple[int, ...]) -> StoredRun:
    names = [write_record(folder, record).name for record in records(cache, seeds)]
    write_run_info(folder, {"name": "made_up", "seeds": list(seeds), "cells": names})
    return read_stored_run(folder)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredRun, Path, list[Path]]:
    folder = tmp_path_factory.mktemp("plots")
    run = made_up(folder / "run", folder / "cache", (0, 1, 2))
    return run, folder / "cache", draw(run, folder / "cache")


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def figures(run: StoredRun, cache: Path) -> dict[str, Figure]:
    with canvas.styled():
        summary = summary_of(run)
        options = plots.options_for(run, summary)
        return {
            name: make() for name, make in plots.pictures(summary, plots.score_reader(run, summary, cache), options)
        }


@pytest.fixture(scope="module")
def made(drawn: tuple[StoredRun, Path, list[Path]]) -> dict[str, Figure]:
    return figures(drawn[0], drawn[1])


def test_every_picture_is_there_as_png_and_svg(drawn: tuple[StoredRun, Path, list[Path]]) -> None:
    run, _, paths = drawn
    assert [path.name for path in paths] == [
        f"{stem}.{kind}" for stem in (*STEMS, "heatmap") for kind in ("png", "svg")
    ]
    for path in paths:
        assert path.parent == run.path / "plots"
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            assert ET.parse(path).getroot().tag.endswith("svg")
            assert b"<dc:date>" not in path.read_bytes()


@pytest.mark.slow
def test_id_sets_with_like_names_have_their_own_plots(tmp_path: Path) -> None:
    names = [write_record(tmp_path, dataclasses.replace(next(records(tmp_path / "cache", (0,))), id_set=name)).name
             for name in ("k>5", "k<5", "k=5!", "plain")]  # fmt: skip
    write_run_info(tmp_path, {"name": "alike", "seeds": [0], "cells": names})
    paths = draw(read_stored_run(tmp_path), tmp_path / "cache")
    assert len(set(paths)) == len(paths) == 2 * (4 * 3 + 1)
    assert tmp_path / "plots" / "roc_plain.png" in paths


@pytest.mark.slow
def test_equal_runs_give_equal_bytes(drawn: tuple[StoredRun, Path, list[Path]], tmp_path: Path) -> None:
    run, cache, paths = drawn
    again = draw(dataclasses.replace(run, path=tmp_path), cache)
    for first, second in zip(paths, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_the_users_own_style_changes_nothing_and_stays(
    drawn: tuple[StoredRun, Path, list[Path]], tmp_path: Path
) -> None:
    run, cache, paths = drawn
    few = dataclasses.replace(run, records=[r for r in run.records if r.id_set == "digits"], path=tmp_path)
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "axes.grid": True}):
        again = {path.name: path for path in draw(few, cache)}
        assert mpl.rcParams["font.size"] == 30
    first = next(path for path in paths if path.name == "roc_digits.svg")
    assert again["roc_digits.svg"].read_bytes() == first.read_bytes()


def test_titles_say_which_seed(drawn: tuple[StoredRun, Path, list[Path]], made: dict[str, Figure]) -> None:
    run, cache, _ = drawn
    assert any("seed 0, the first of 3" in text for text in words(made["roc_digits"]))
    assert any("seed 0, the first of 3" in text for text in words(made["histograms_digits"]))
    assert any("mean and std over 3 seeds" in text for text in words(made["bars_digits"]))
    first = [r for r in run.records if r.seed == 0 and r.id_set == "digits"]
    single = dataclasses.replace(run, records=first, info={})
    assert any(text.endswith("accepted; seed 0") for text in words(figures(single, cache)["roc_digits"]))


def test_means_over_fewer_seeds_are_marked(drawn: tuple[StoredRun, Path, list[Path]], made: dict[str, Figure]) -> None:
    run, cache, _ = drawn
    note = "‡ over fewer of the 3 seeds"
    assert not any(note in text for name in ("bars_digits", "heatmap") for text in words(made[name]))
    lost = next(r for r in run.records if r.id_set == "digits" and r.status == "ok" and not r.seen and r.seed == 2)
    partial = dataclasses.replace(run, records=[r for r in run.records if r is not lost])
    some = figures(partial, cache)
    for name in ("bars_digits", "heatmap"):
        assert any(note in text for text in words(some[name]))
    assert len([text for text in words(some["heatmap"]) if text.endswith("‡")]) == 1
    assert words(some["bars_digits"]).count("‡") == 3  # a bar in each of three panels


def test_roc_lines_run_from_corner_to_corner_and_failures_are_named(made: dict[str, Figure]) -> None:
    figure = made["roc_digits"]
    curves = [line for line in figure.axes[0].lines if isinstance(line, Line2D) and np.size(line.get_xdata()) > 2]
    assert len(curves) == len(DETECTORS) - 1  # the constant detector's curve is the straight line of two points
    x, y = (np.asarray(data) for data in curves[0].get_data())
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert len(x) <= 500
    assert "1 of 4: failed" in words(figure)
    assert r"signs (near, outlier source)" in words(figure)


def test_missing_scores_are_mentioned(drawn: tuple[StoredRun, Path, list[Path]], tmp_path: Path) -> None:
    run, cache, _ = drawn
    run = dataclasses.replace(run, records=[r for r in run.records if r.id_set == "digits"])
    without = figures(run, tmp_path)
    assert words(without["roc_digits"]).count("scores not in the cache") == 1  # the panel where nothing failed
    assert words(without["histograms_digits"]).count("scores not in the cache") == 7
    shutil.copytree(cache, tmp_path / "cache")
    for damaged, content in (("0-0-0-id_scores.npy", b""), ("1-0-0-id_scores.npy", b"no array")):
        (tmp_path / "cache" / "scores" / damaged).write_bytes(content)
    np.save(tmp_path / "cache" / "scores" / "2-0-0-id_scores.npy", np.array([1.0, np.nan]))
    assert "3 of 4: scores not in the cache" in words(figures(run, tmp_path / "cache")["roc_digits"])


def test_many_detectors_take_several_pages(drawn: tuple[StoredRun, Path, list[Path]]) -> None:
    run, cache, _ = drawn
    base = [r for r in run.records if r.id_set == "digits" and r.label == "alpha"]
    many = [dataclasses.replace(r, label=f"d{i}", detector=f"d{i}") for i in range(13) for r in base]
    made = figures(dataclasses.replace(run, records=many), cache)
    many_kinds = ["roc_digits", "histograms_digits", "histograms_digits_2", "dots_digits", "multiples_digits"]
    assert list(made) == [*many_kinds, "heatmap"]
    assert "d12" in words(made["histograms_digits_2"])
    for figure in made.values():
        assert max(figure.get_size_inches()) <= canvas.MAX_INCHES


def test_heat_map_prints_percent_marks_seen_and_hatches_failures(drawn: tuple[StoredRun, Path, list[Path]]) -> None:
    run, _, _ = drawn
    summary = summary_of(run)
    figure = heatmap(summary, Options(seeds=3))
    seen = summary.blocks[0].rows[2].cells["signs"].stats["auroc"].mean
    assert f"{100 * seen:.1f}†" in words(figure)
    assert sum(bool(patch.get_hatch()) for patch in figure.axes[0].patches) == 1
    assert r"ID set photos \$5" in [text.replace("\n", " ") for text in words(figure)]


def test_bars_have_error_bars_only_over_several_seeds(drawn: tuple[StoredRun, Path, list[Path]]) -> None:
    run, _, _ = drawn
    block = summary_of(run).blocks[0]
    several = bars(block, Options(seeds=3, looks=canvas.looks(row.label for row in block.rows)))
    assert several.axes[0].collections
    assert words(several).count("†") == 3  # one seen cell, three panels
    single = summary_of(dataclasses.replace(run, records=[r for r in run.records if r.seed == 0])).blocks[0]
    looks = canvas.looks(row.label for row in single.rows)
    assert not bars(single, Options(looks=looks)).axes[0].collections


def test_looks_differ_and_ink_stands_out() -> None:
    looks = canvas.looks(f"d{i}" for i in range(30))
    assert len({(look.colour, look.dash) for look in looks.values()}) == 30
    assert len({(look.colour, look.hatch) for look in looks.values()}) == 30
    assert canvas.ink_on((1.0, 1.0, 0.4, 1.0)) == "black"
    assert canvas.ink_on((0.0, 0.1, 0.3, 1.0)) == "white"


def test_a_run_without_cells_has_no_pictures(tmp_path: Path) -> None:
    write_run_info(tmp_path, {})
    assert draw(read_stored_run(tmp_path), tmp_path) == []


@pytest.mark.slow
def test_drawing_needs_neither_torch_nor_pyplot(drawn: tuple[StoredRun, Path, list[Path]], tmp_path: Path) -> None:
    run, cache, _ = drawn
    one: Any = next(r for r in run.records if r.status == "ok")
    name = write_record(tmp_path, one).name
    write_run_info(tmp_path, {"cells": [name]})
    code = (
        "import sys; from pathlib import Path\n"
        "from oodbench.benchmark.views.plots.draw import draw\n"
        "from oodbench.benchmark.records.run import read_stored_run\n"
        f"assert len(draw(read_stored_run(Path({str(tmp_path)!r})), Path({str(cache)!r}))) == 8\n"
        "assert not {'torch', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
