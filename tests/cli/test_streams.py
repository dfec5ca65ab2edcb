"""Standard output and error that are closed or full: work is done and kept, and errors are one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""The environment of users: where it is set, Python keeps nothing that it would write at exit."""

PROGRAM = "import sys; from oodbench.benchmark.cli import main; main(sys.argv[1:])"


def shell(redirection: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with the streams that a shell's redirection gives it."""
    words = " ".join(f"'{word}'" for word in (sys.executable, "-c", PROGRAM, *arguments))
    return subprocess.run(
        ["bash", "-c", f"{words} {redirection}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=BUFFERED,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["list", "forms"], ["--help"], ["list", "--help"]], ids=" ".join)
def test_a_full_standard_output_is_one_sentence(tmp_path: Path, arguments: list[str]) -> None:
    result = shell(">/dev/full", *arguments, folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (
        "Error: Standard output cannot be written: No space left on device. What was computed is kept.\n"
    )


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_closed_streams_stop_nothing(tmp_path: Path, redirection: str) -> None:
    result = shell(redirection, "list", "forms", folder=tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""
    assert ("inverted" in result.stdout) == (not redirection.startswith(">"))


def test_what_is_written_at_exit_changes_no_exit_code(tmp_path: Path) -> None:
    """As a library's thread or finaliser may, after the command's own sentence could not be written."""
    late = "import atexit, sys; atexit.register(lambda: sys.stderr.write('a few words')); " + PROGRAM
    words = [sys.executable, "-c", late, "show", "no_such_name"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=full, cwd=tmp_path, env=BUFFERED, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize(
    "redirection", ["2>&-", *(pytest.param(two, marks=pytest.mark.slow) for two in ("2>/dev/full", ">&- 2>&-"))]
)
def test_errors_keep_their_exit_code(tmp_path: Path, redirection: str) -> None:
    assert shell(redirection, "show", "no_such_name", folder=tmp_path).returncode == 2


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    result = shell("| true; exit ${PIPESTATUS[0]}", "list", "detectors", folder=tmp_path)
    assert result.stderr == ""


def test_files_are_not_written_into_by_output_to_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import os\n"
        "from oodbench.benchmark.cli.streams import usable_streams\n"
        "with usable_streams():\n"
        "    file = open('artifact', 'wb')\n"
        "    os.write(1, b'from a C library')\n"
    )
    words = f"'{sys.executable}' -c \"{program}\" >&-"
    assert subprocess.run(["bash", "-c", words], cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "artifact").read_bytes() == b""


def test_a_log_message_on_a_full_stream_stops_no_run(tmp_path: Path) -> None:
    program = (
        "import logging\n"
        "from oodbench.benchmark.cli.base import log_to_stderr\n"
        "with log_to_stderr():\n"
        "    logging.getLogger('oodbench.x').warning('a message')\n"
    )
    words = f"'{sys.executable}' -c \"{program}\" 2>/dev/full"
    assert subprocess.run(["bash", "-c", words], cwd=tmp_path, check=False).returncode in (0, 120)


def test_a_home_that_does_not_exist(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": "/nonexistent/home"}
    code = (
        "from oodbench.benchmark.views import plots; from oodbench.benchmark.cli import main; main(['list', 'forms'])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
