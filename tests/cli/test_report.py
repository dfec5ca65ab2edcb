"""`bench report`, `report` and `Run.report`: one file, without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark import read_run
from oodbench.benchmark import report as write_report
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.views.report import page
from tests.scored_runs import scored_run
from tests.support import bench


def data_in(path: Path) -> Any:
    """The data of a page."""
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_is_in_the_run_and_its_path_is_printed(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    result = bench("report", "made_up", "--results", tmp_path)
    assert result.exit_code == 0
    assert result.stdout == f"{run.path / 'report.html'}\n"
    data = data_in(run.path / "report.html")
    assert [row["label"] for row in data["rows"]] == ["msp", "energy", "knn[k=5]"]
    assert data["made"]["command"] == "bench report made_up"
    assert data["cells"][0]["curve"] is not None
    assert data["pairs"]


def test_another_file_title_and_no_images(tmp_path: Path) -> None:
    scored_run(tmp_path)
    out = tmp_path / "shown" / "page.html"
    options = ("-o", out, "--title", "Made <up>", "--images", 0)
    assert bench("report", "made_up", "--results", tmp_path, *options).exit_code == 0
    assert data_in(out)["title"] == "Made <up>"
    assert data_in(out)["pictures"] == []
    assert "<title>Made &lt;up&gt;</title>" in out.read_text("utf-8")


def test_a_file_that_cannot_be_written_is_that_of_its_option(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    result = bench("report", "made_up", "--results", tmp_path, "--images", 0, "-o", run.path / "run.json" / "page.html")
    assert result.exit_code == 2
    assert result.stderr.endswith("Choose a writable folder with --out.\n")


def test_names_of_ones_own(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    names = tmp_path / "names.toml"
    names.write_text('[rows]\nmsp = "Ours <1>"\n[sets]\nglyphs = "Letters"\n', encoding="utf-8")
    assert bench("report", "made_up", "--results", tmp_path, "--names", names).exit_code == 0
    data = data_in(run.path / "report.html")
    assert [row["name"] for row in data["rows"]] == ["Ours <1>", "Energy", "KNN (k=5)"]
    assert data["id_sets"][0]["sets"][0]["title"] == "Letters"
    result = bench("report", "made_up", "--results", tmp_path, "--names", tmp_path / "none.toml")
    assert result.exit_code == 2
    assert "none.toml' cannot be read" in result.stderr


def test_several_runs_are_in_one_page_beside_the_runs(tmp_path: Path) -> None:
    scored_run(tmp_path, "small")
    scored_run(tmp_path, "wide", labels=["msp", "odin"])
    path = Path(bench("report", "small", "wide", "--results", tmp_path).stdout.strip())
    assert path == tmp_path / "compare" / "small+wide" / "report.html"
    assert [run["name"] for run in data_in(path)["runs"]] == ["small", "wide"]
    joined = read_run("small", tmp_path).beside(read_run("wide", tmp_path))
    before = path.read_bytes()
    written = joined.report(tmp_path / "joined.html", results=tmp_path, command="bench report small wide")
    assert written.read_bytes() == before


def test_python_and_the_command_write_the_same(tmp_path: Path) -> None:
    run = scored_run(tmp_path)
    bench("report", "made_up", "--results", tmp_path)
    command = (run.path / "report.html").read_bytes()
    written = write_report("made_up", tmp_path / "a.html", results=tmp_path, command="bench report made_up")
    assert written.read_bytes() == command
    assert data_in(read_run(run.path).report(tmp_path / "b.html"))["rows"] == data_in(written)["rows"]


def test_what_is_missing_is_said_on_standard_error(tmp_path: Path) -> None:
    scored_run(tmp_path, change=lambda record: None if record.label == "msp" else record)
    result = bench("report", "made_up", "--results", tmp_path)
    assert result.exit_code == 0
    assert "cells are missing" in result.stderr


def test_mistakes_of_the_user_are_one_sentence(tmp_path: Path) -> None:
    scored_run(tmp_path)
    result = bench("report", "made_upp", "--results", tmp_path)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "made_up" in result.stderr
    assert bench("report", "made_up", "made_up", "--results", tmp_path).exit_code == 2
    folder = bench("report", "made_up", "--results", tmp_path, "-o", tmp_path)
    assert folder.exit_code == 2
    assert f"'{tmp_path}' is a folder. Name the file to write" in folder.stderr
    with pytest.raises(UserError, match="images is -1"):
        write_report("made_up", results=tmp_path, images=-1)


@pytest.mark.slow
def test_torch_is_not_imported(tmp_path: Path) -> None:
    scored_run(tmp_path)
    code = "import sys; from oodbench.benchmark.cli import main; main(sys.argv[1:], standalone_mode=False); "
    words = [sys.executable, "-c", code + "print('torch' in sys.modules, 'IPython' in sys.modules)"]
    done = subprocess.run([*words, "report", "made_up", "--results", str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


def test_the_scripts_are_package_data() -> None:
    assets = Path(str(page.__file__)).parent / "assets"
    assert {path.name for path in assets.iterdir()} == {
        "page.html",
        "style.css",
        *(f"{name}.js" for name in page.SCRIPTS),
    }
