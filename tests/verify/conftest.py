"""A finished run of four cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oodbench.benchmark import Run


@pytest.fixture(scope="module")
def matrix() -> str:
    """The suite's sets."""
    return """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }, { set = "uniform" }]
"""


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_suite: Callable[[str], str],
    tiny_run: Callable[..., Run],
    matrix: str,
) -> Path:
    """A results folder with one finished run of four cells, called 'tiny'."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "tiny.toml").write_text(tiny_suite(matrix))
    tiny_run(folder / "tiny.toml", "msp,knn[k=3]", results=folder / "results")
    return folder / "results"
