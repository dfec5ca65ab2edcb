"""The commands of the guide "Bundles and leaderboards" run as they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.docs.pages import blocks, commands
from tests.support import bench, draw_no_plots, run_suite, write_suite

PAGE = "guides/leaderboard.md"

MATRIX = '[[id]]\nset = "digits[0-1]"\nood = [{ set = "uniform" }]'


def test_a_file_of_scores_gets_on_a_board_with_the_commands_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw_no_plots(monkeypatch)
    draw = np.random.default_rng(0)
    rows = ["image,set,split,score"]
    for name, side, mean in (("photos", "id", 0), ("svhn", "ood", 2)):
        rows += [f"{name}/{row}.png,{name},{side},{draw.normal(mean)}" for row in range(40)]
    (tmp_path / "my_scores.csv").write_text("\n".join(rows) + "\n")
    shown = [block.text for block in blocks(PAGE) if block.language == "bash"]
    (take_part,) = [text for text in shown if "my_scores.csv" in text]
    (make,) = [text for text in shown if "bench leaderboard" in text]
    for words in commands(take_part, "bench"):
        done = bench(*words)
        assert done.exit_code == 0, done.output
    (tmp_path / "bundles").mkdir()
    (tmp_path / "my_method.bundle.zip").rename(tmp_path / "bundles" / "my_method.bundle.zip")
    for words in commands(make, "bench"):
        done = bench(*words)
        assert done.exit_code == 0, done.output
    assert "My method" in (tmp_path / "site" / "index.html").read_text()


def test_the_block_of_python_bundles_a_run_and_reads_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_suite(write_suite(tmp_path, MATRIX, name="digits"), "msp,energy")
    (block,) = [block for block in blocks(PAGE) if block.language == "python"]
    exec(compile(block.text, PAGE, "exec"), {})
    shown = capsys.readouterr().out
    assert "msp" in shown
    assert "energy" in shown
    assert (tmp_path / "digits.bundle.zip").is_file()
