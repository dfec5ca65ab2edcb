"""Fixtures of tests of bundles: one tiny run, and the bundle of one of its detectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark import Monitor, load_monitor
from tests.standalone.bundle.bundles import digits_run, write_bundle


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of some detectors on digits."""
    return digits_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def vim_file(run_dir: Path) -> Path:
    """The bundle of vim."""
    path = run_dir / "vim.safetensors"
    write_bundle(run_dir, "vim", path)
    return path


@pytest.fixture
def vim(vim_file: Path) -> Monitor:
    """The monitor of vim."""
    return load_monitor(vim_file)
