"""Plots need no GUI: what MPLBACKEND says does not matter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = ["module://no_such_package.backend_inline", "inline_of_no_package", "no such backend"]
"""As notebook servers set it, where their package is not installed; a name; nonsense."""

DRAW = """
import io, os, sys
{first}
from oodbench.benchmark.views.plots import style as plot_style
with plot_style.styled():
    figure, _ = plot_style.grid(1, 1, (1, 1), plot_style.FigureMargins(0.1, 0.1, 0.5, 0.1))
    for kind in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=kind)
import matplotlib
print(os.environ.get("MPLBACKEND"), dict.__getitem__(matplotlib.rcParams, "backend") == "pdf")
"""


def run_python(code: str, backend: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MPLBACKEND": backend}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ABSENT)
@pytest.mark.parametrize(
    "first", ["", "from oodbench.benchmark.views import plots", "from oodbench.benchmark.views.comparison import plots"]
)
def test_a_backend_that_is_not_installed_does_not_matter(tmp_path: Path, backend: str, first: str) -> None:
    result = run_python(DRAW.format(first=first), backend, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[0] == f"{backend} False"  # the environment is left as it was


def test_a_backend_that_exists_still_applies_to_the_users_plots(tmp_path: Path) -> None:
    assert run_python(DRAW.format(first=""), "pdf", tmp_path).stdout == "pdf True\n"


@pytest.mark.parametrize("backend", [ABSENT[0], *(pytest.param(name, marks=pytest.mark.slow) for name in ABSENT[1:])])
def test_commands_may_import_plugins_that_draw(tmp_path: Path, backend: str) -> None:
    plugin = tmp_path / "drawing.py"
    plugin.write_text(
        "import matplotlib.pyplot as plt\n"
        "from oodbench.benchmark import Detector, detector\n"
        "@detector('draws_with_pyplot')\n"
        "class Draws(Detector):\n"
        "    def score(self, batch):\n"
        "        plt.figure()\n"
        "        return batch.logits[:, 0]\n"
    )
    code = f"from oodbench.benchmark.cli import main; main(['list', 'detectors', '--plugin', {str(plugin)!r}])"
    result = run_python(code, backend, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "draws_with_pyplot" in result.stdout
