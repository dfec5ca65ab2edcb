"""Views fail last and alone: records, and the views that can be made, are there whatever one raises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.runner import write_views as module
from oodbench.benchmark.views.comparison import plots as comparison_plots
from oodbench.benchmark.views.plots import draw as plots
from oodbench.benchmark.views.tables import files as tables
from tests.support import bench, write_suite

MATRIX = '[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek" }]'

DRAWN = True


@pytest.fixture
def command(tmp_path: Path) -> list[str | Path]:
    suite = write_suite(tmp_path, MATRIX)
    return ["run", "--suite", suite, "--results", tmp_path / "results", "--quiet", "--detectors", "msp"]


def broken(*_: object) -> list[Path]:
    raise ValueError("the renderer\nis broken")


VIEWS = {
    "plots": (plots, "draw"),
    "tables": (tables, "write_tables"),
    "marks of the best": (module, "update_best"),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_raises_stops_no_other(
    tmp_path: Path, command: list[str | Path], view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "results" / "runs" / "tiny"
    with monkeypatch.context() as patch:
        patch.setattr(*VIEWS[view], broken)
        result = bench(*command)
    assert result.exit_code == 0, result.output
    assert "ID set digits[0-2]" in result.stdout
    assert f"The {view} of 'tiny' could not be made: ValueError: the renderer. Records are complete." in result.stderr
    assert len(list((run / "cells").glob("*.json"))) == 1
    assert "is broken" in (run / "logs" / f"view-{view.replace(' ', '-')}.txt").read_text()
    assert (run / "table.csv").is_file() == (view != "tables")
    assert (run / "plots" / "heatmap.png").is_file() == (view != "plots")
    result = bench(*command)  # made by the next command
    assert result.stderr == ""
    assert (run / "table.csv").is_file()
    assert (run / "plots" / "heatmap.png").is_file()
    assert (run / "best.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("view", ["plots", "tables"])
def test_views_of_other_records_are_removed(
    tmp_path: Path, command: list[str | Path], view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "results" / "runs" / "tiny"
    assert bench(*command).exit_code == 0
    own = run / "plots" / "of_the_user.png"
    own.touch()
    monkeypatch.setattr(*VIEWS[view], broken)
    assert bench(*command[:-1], "energy").exit_code == 0
    assert (run / "table.csv").is_file() == (view != "tables")
    assert (run / "plots" / "heatmap.png").is_file() == (view != "plots")
    assert own.is_file()


def test_a_full_disk_is_an_error_after_the_other_views(
    tmp_path: Path, command: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> list[Path]:
        raise StoreError("Cannot write 'table.csv': No space left on device.")

    monkeypatch.setattr(tables, "write_tables", full)
    result = bench(*command)
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert (tmp_path / "results" / "runs" / "tiny" / "plots" / "heatmap.png").is_file()


@pytest.mark.slow
def test_a_forged_marker_removes_no_other_files(
    tmp_path: Path, command: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, outside = tmp_path / "results" / "runs" / "tiny", tmp_path / "precious.txt"
    assert bench(*command).exit_code == 0
    outside.touch()
    (run / "views.json").write_text(f'{{"inputs": "", "files": ["../../../precious.txt", "{outside}"]}}')
    monkeypatch.setattr(tables, "write_tables", broken)
    assert bench(*command).exit_code == 0
    assert outside.is_file()


@pytest.mark.slow
def test_plots_that_the_run_no_longer_has_are_removed(tmp_path: Path, command: list[str | Path]) -> None:
    run = tmp_path / "results" / "runs" / "tiny"
    assert bench(*command).exit_code == 0
    old, own = run / "plots" / "histograms_digits_0-2_2.png", run / "plots" / "of_the_user.png"
    for path in (old, own):
        path.touch()
    marker = json.loads((run / "views.json").read_text())
    (run / "views.json").write_text(json.dumps({"inputs": "", "files": [*marker["files"], f"plots/{old.name}"]}))
    assert bench(*command).exit_code == 0
    assert not old.exists()
    assert own.is_file()
    assert json.loads((run / "views.json").read_text()) == marker


def test_comparisons_are_written_without_their_plots(
    tmp_path: Path, command: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(*command[:-1], "msp,energy").exit_code == 0
    monkeypatch.setattr(comparison_plots, "draw", broken)
    result = bench("compare", "tiny", "--results", tmp_path / "results")
    assert result.exit_code == 0, result.output
    assert "The plots of the comparison of 'tiny' could not be made" in result.stderr
    assert (tmp_path / "results" / "runs" / "tiny" / "compare" / "compare.csv").is_file()
