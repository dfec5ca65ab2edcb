"""`bench plot` with its options: what is drawn, where, in which format and size, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from oodbench.benchmark.records.record import write_record
from oodbench.benchmark.records.run import read_stored_run, write_run_info
from oodbench.benchmark.views.plots.chosen import PlotChoice, parse_size, prepared
from oodbench.benchmark.views.plots.options import in_colour, shown
from oodbench.benchmark.views.plots.style import STYLES
from tests.support import bench
from tests.views.test_plots import records


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    run = folder / "runs" / "made_up"
    names = [write_record(run, record).name for record in records(folder / "cache", (0,))]
    write_run_info(run, {"name": "made_up", "seeds": [0], "cells": names})
    return folder


def drawn(results: Path, *options: object) -> list[Path]:
    result = bench("plot", "made_up", "--results", results, *options)
    assert result.exit_code == 0, result.output
    return [Path(line) for line in result.stdout.splitlines()]


def picture(path: Path) -> Image.Image:
    """A file's pixels; the file is closed."""
    with Image.open(path) as opened:
        found: Image.Image = opened.convert("RGB")
    return found


def test_choices_go_to_a_folder_of_their_own(results: Path) -> None:
    paths = drawn(results, "--kind", "roc,heatmap", "--id", "digits", "--detectors", "alpha,delta")
    assert [path.name for path in paths] == ["roc_digits.png", "roc_digits.svg", "heatmap.png", "heatmap.svg"]
    assert {path.parent for path in paths} == {results / "runs" / "made_up" / "plots" / "chosen"}
    text = (results / "runs" / "made_up" / "plots" / "chosen" / "roc_digits.svg").read_text()
    assert "<svg" in text
    assert not (results / "runs" / "made_up" / "plots" / "roc_digits.png").exists()


def test_a_size_is_the_size_of_the_file(results: Path, tmp_path: Path) -> None:
    wanted = ("--kind", "dots", "--id", "digits", "--metric", "auroc", "-o", tmp_path / "dots.png")
    (path,) = drawn(results, *wanted, "--size", "3.3x2.5")
    assert path == tmp_path / "dots.png"
    assert picture(path).size == (528, 400)  # 160 pixels per inch
    (path,) = drawn(results, *wanted, "--size", "3.3")
    assert picture(path).size[0] == 528


@pytest.mark.slow
def test_pdf_is_the_same_bytes_again_and_has_text(results: Path, tmp_path: Path) -> None:
    wanted = ("--kind", "roc,dots,multiples", "--id", "digits", "--format", "pdf", "--style", "paper")
    first = drawn(results, *wanted, "-o", tmp_path / "a")
    assert [path.suffix for path in first] == [".pdf"] * 3
    for one, two in zip(first, drawn(results, *wanted, "-o", tmp_path / "b"), strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.read_bytes().startswith(b"%PDF")
        assert b"/Type3" not in one.read_bytes().replace(b" ", b"")
        assert b"CreationDate" not in one.read_bytes()


def test_rows_stand_out_or_are_left_out(results: Path) -> None:
    run = read_stored_run(results / "runs" / "made_up")
    summary, options = prepared(run, PlotChoice(best=2, highlight="delta", sort="far:auroc", ood="near,noise"))
    block = summary.blocks[1]
    front = [row.label for row in in_colour(block, options)]
    assert front[-1] == "delta"  # highlighted, and the worst
    assert len(front) == 3
    assert [row.label for row in shown(block, options)[0]] == front
    summary, options = prepared(run, PlotChoice(detectors="delta,alpha"))
    assert [row.label for row in shown(summary.blocks[0], options)[0]] == ["delta", "alpha"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--kind", "rok"], "Unknown kind of plot 'rok'. Did you mean 'roc'?"),
        (["--format", "gif"], "Unknown format 'gif'"),
        (["--style", "gray"], "Unknown plot style 'gray'. Did you mean 'grey'?"),
        (["--style", "missing.mplstyle"], "--style missing.mplstyle cannot be read"),
        (["--size", "wide"], "--size is 'wide'; expected inches as WIDTHxHEIGHT or WIDTH"),
        (["--size", "1x1"], "expected a width of 2 to 100 inches"),
        (["--kind", "roc", "--size", "3.3x1"], "The picture does not fit into 3.3 x 1 inches"),
        (["--detectors", "alpa"], "There is no detector 'alpa' to show. Did you mean 'alpha'?"),
        (["--highlight", "alpa"], "There is no detector 'alpa' to show."),
        (["--ood", "nois"], "There is no OOD set 'nois' to show."),
        (["--metric", "aurok"], "Unknown metric 'aurok'. Did you mean 'auroc'?"),
        (["--sort", "neer:auroc"], "'neer' is neither a group nor an OOD set shown"),
        (["--kind", "roc", "-o", "one.pdf"], "--output one.pdf is one file, but there are 2 pictures"),
        (["--names", "missing.toml"], "missing.toml"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = bench("plot", "made_up", "--results", results, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_read() -> None:
    assert (parse_size("3.3x2.5").width, parse_size("3.3x2.5").height) == (3.3, 2.5)
    assert (parse_size(" 7in").width, parse_size("7").height) == (7, None)


def test_a_style_of_the_users_own(results: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.mplstyle").write_text("font.size: 11\naxes.facecolor: FFEEEE\n")
    wanted = ("--kind", "dots", "--id", "digits", "--size", "5", "--format", "png")
    (own,) = drawn(results, *wanted, "--style", tmp_path / "mine.mplstyle", "-o", tmp_path / "own.png")
    (other,) = drawn(results, *wanted, "-o", tmp_path / "other.png")
    assert picture(own).size[1] > picture(other).size[1]
    assert (255, 238, 238) in {colour for _, colour in picture(own).getcolors(1 << 20) or []}


@pytest.mark.parametrize("style", STYLES)
def test_styles_have_help_and_the_grey_one_no_colour(results: Path, tmp_path: Path, style: str) -> None:
    assert STYLES[style].help
    if style == "grey":
        for path in drawn(results, "--style", style, "--format", "png", "-o", tmp_path):
            red, green, blue = picture(path).split()
            assert red.tobytes() == green.tobytes() == blue.tobytes(), path.name


@pytest.mark.slow
def test_options_need_neither_torch_nor_pyplot(results: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom oodbench.benchmark.cli import main\n"
        f"arguments = ['plot', 'made_up', '--results', {str(results)!r}, '--kind', 'heatmap', '-o', 'a.pdf']\n"
        "try: main(arguments)\nexcept SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "a.pdf").is_file()


def test_a_place_that_cannot_be_written_is_that_of_its_option(results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    wanted = ("plot", "made_up", "--results", results, "--kind", "dots", "--id", "digits")
    result = bench(*wanted, "-o", tmp_path / "file" / "pictures")
    assert result.exit_code == 2
    assert result.stderr.endswith("Choose a writable folder with --output.\n")
    copy: Path = shutil.copytree(results, tmp_path / "results")
    shutil.rmtree(copy / "runs" / "made_up" / "plots", ignore_errors=True)
    (copy / "runs" / "made_up" / "plots").write_text("x")
    result = bench("plot", "made_up", "--results", copy, "--kind", "dots", "--id", "digits")
    assert result.exit_code == 2
    assert result.stderr.endswith("Choose a writable folder with --results.\n")
