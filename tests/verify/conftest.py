"""A finished run of four cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }, { set = "uniform" }]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one finished run of four cells, called 'tiny'; its suite is beside it."""
    suite = write_suite(tmp_path_factory.mktemp("verify"), MATRIX)
    run_suite(suite, "msp,knn[k=3]")
    return suite.parent / "results"
