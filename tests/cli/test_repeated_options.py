"""A second value of an option that names what is evaluated is refused, because it would silently replace the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import bench


@pytest.mark.parametrize("given", [["--checkpoint", "b/best.pth"], ["--checkpoint=b/best.pth"]])
def test_a_second_checkpoint_is_refused(given: list[str]) -> None:
    done = bench("run", "--checkpoint", "a/best.pth", "--id", "digits", *given, "--dry-run")
    assert done.exit_code == 2
    assert "Error: --checkpoint takes one value, got 2. Run the command once for each file" in done.output


@pytest.mark.parametrize("command", [["run"], ["figures", "lee2018"]])
def test_a_second_run_to_start_from_is_refused(command: list[str]) -> None:
    done = bench(*command, "--from", "a", "--from", "b")
    assert done.exit_code == 2
    assert "Error: --from takes one value, got 2. Run the command once for each run." in done.output


def test_of_other_options_the_last_counts(tmp_path: Path) -> None:
    """Scripts append options to a command with defaults."""
    done = bench("run", "--results", "a", "--results", tmp_path, "--suite", "digits", "--suite", "nothing", "--dry-run")
    assert "Unknown suite 'nothing'" in done.output


def test_one_checkpoint_is_read(tmp_path: Path) -> None:
    done = bench("run", "--checkpoint", tmp_path / "a.pt", "--results", tmp_path, "--dry-run")
    assert done.exit_code == 2
    assert "cannot be read: No such file" in done.output
