"""A run killed without warning goes on, when the same command is given again, to the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUITE = """
schema = 1
[protocol]
backbone = "small_cnn"
recipe = "cross_entropy"
[training]
epochs = 2
[[id]]
set = "digits[0-3]"
outliers = "glyphs"
ood = [{ set = "glyphs", group = "near" }, { set = "greek", group = "near" }]
"""
FILES = ("table.csv", "table.md", "table.tex")


def command(folder: Path, results: str) -> list[str]:
    options = ["--suite", str(folder / "tiny.toml"), "--results", str(folder / results), "--threads", "1", "--quiet"]
    return [sys.executable, "-m", "oodbench.benchmark", "run", "--detectors", "msp,energy,confidence", *options]


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(SUITE)
    started = time.monotonic()
    subprocess.run(command(tmp_path, "whole"), check=True, capture_output=True)
    length = time.monotonic() - started
    moments = random.Random(0)
    for attempt in range(6):
        results = f"killed{attempt}"
        process = subprocess.Popen(command(tmp_path, results), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=moments.uniform(0.3, 1.0) * length)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        subprocess.run(command(tmp_path, results), check=True, capture_output=True)
        for name in FILES:
            whole, resumed = (tmp_path / folder / "runs/tiny" / name for folder in ("whole", results))
            assert whole.read_bytes() == resumed.read_bytes(), f"{name} differs after kill {attempt}"
        assert not list((tmp_path / results / "runs").rglob("*.tmp"))
