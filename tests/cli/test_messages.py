"""Log messages of the package on standard error: shown once, by every command, and without damage to progress bars."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench.benchmark.data.files import inventory
from oodbench.benchmark.records import prune
from tests.support import bench

MESSAGE = "'a[b]' is \x1b[31mdamaged"
SHOWN = "'a[b]' is \\x1b[31mdamaged\n"


@pytest.fixture
def root_handler() -> Iterator[None]:
    """A handler of the root logger, as a plug-in that calls `logging.basicConfig` leaves behind."""
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


@pytest.mark.usefixtures("root_handler")
def test_commands_of_groups_show_each_message_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def log(*_: object) -> tuple[int, int]:
        logging.getLogger("oodbench.benchmark.store").info(MESSAGE)
        return 0, 0

    def no_files(*_: object) -> list[object]:
        log()
        return []

    monkeypatch.setattr(prune, "prune", log)
    monkeypatch.setattr(inventory, "to_fetch", no_files)
    for command in (["cache", "prune", "--results", str(tmp_path)], ["data", "fetch", "cifar10"]):
        result = bench(*command)
        assert result.exit_code == 0, result.output
        assert result.stderr == SHOWN


def test_the_logger_is_left_as_it_was(tmp_path: Path) -> None:
    logger = logging.getLogger("oodbench")
    before = logger.handlers[:], logger.level, logger.propagate
    assert bench("list", "runs", "--results", str(tmp_path)).exit_code == 0
    assert bench("show", "no_such_name").exit_code == 2
    assert (logger.handlers, logger.level, logger.propagate) == before


BARS = f"""
import logging
import click
from oodbench.benchmark.cli.base import Command
from oodbench.benchmark.cli.progress import watch

class job:
    kind, passes, bank = "score", 0, None
    id, title, size = "1", "score [b]", 4

@click.command(cls=Command)
def command():
    with watch([job], "") as progress:
        progress.start(job)
        progress.tick(job, 2)
        logging.getLogger("oodbench.benchmark.store").warning({MESSAGE!r})
        progress.tick(job, 2)
        progress.finish(job, "no [red]luck")
    print("table")

command(standalone_mode=False)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_message_does_not_damage_the_progress_bars() -> None:
    lines = screen(output_on_terminal(BARS))
    assert lines == [SHOWN.strip(), "failed: score [b]: no [red]luck", "table"]


def output_on_terminal(code: str) -> str:
    """What a Python program writes to a terminal of 80 columns."""
    import pty

    terminal, program_end = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=program_end, stderr=program_end, env=environment
    ) as program:
        os.close(program_end)
        parts = []
        while True:
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # Linux reports the end of the terminal as an error
                break
            if not part:
                break
            parts.append(part)
    os.close(terminal)
    assert program.returncode == 0, b"".join(parts)
    return b"".join(parts).decode()


def screen(output: str) -> list[str]:
    """The lines of a terminal after some output, without those left empty at the end."""
    lines, row, column = [""], 0, 0
    for argument, command, character in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|(.)", output, re.DOTALL):
        if command == "A":
            row -= int(argument or 1)
        elif command == "K":
            lines[row] = "" if argument == "2" else lines[row][:column]
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif character:
            lines[row] = lines[row][:column].ljust(column) + character + lines[row][column + 1 :]
            column += 1
    return "\n".join(line.rstrip() for line in lines).rstrip("\n").split("\n")
