"""Every command in the documentation parses: commands, options and scripts exist."""

from __future__ import annotations

import re

import click
import pytest

from oodbench.benchmark.cli import main
from tests.docs.pages import PAGES, ROOT, inline_commands, read, shell_commands

WITH_README = [*PAGES, "../README.md", "../CONTRIBUTING.md"]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the first words name, and the words after them."""
    command: click.Command = main
    while isinstance(command, click.Group):
        assert words, "a command is cut short"
        assert words[0] in command.commands, f"no command '{words[0]}'"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", WITH_README)
def test_lines_of_shell_blocks_parse(page: str) -> None:
    for words in shell_commands(page):
        command, rest = command_of(words)
        try:
            command.make_context(str(command.name), list(rest))
        except click.ClickException as error:
            pytest.fail(f"bench {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", WITH_README)
def test_commands_in_the_text_name_options_that_exist(page: str) -> None:
    for words in inline_commands(page, "bench"):
        if words[0].isupper() or words[0].startswith("--"):  # bench COMMAND, bench --help
            continue
        command, rest = command_of(words)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= known, f"bench {' '.join(words)}"


@pytest.mark.parametrize("page", WITH_README)
def test_scripts_and_their_options_exist(page: str) -> None:
    for words in [*shell_commands(page, "python"), *inline_commands(page, "python")]:
        if words[0] == "-m":
            continue
        script = ROOT / words[0]
        assert script.is_file(), f"python {' '.join(words)}"
        options = {word for word in words if word.startswith("--")}
        assert {option for option in options if option not in script.read_text(encoding="utf-8")} == set()


@pytest.mark.parametrize("page", WITH_README)
def test_files_that_are_named_exist(page: str) -> None:
    """Modules, scripts and tests by their path, and tests by their name alone."""
    text = read(page)
    for path in re.findall(r"\b(?:benchmark|detectors|datasets|figures|perf|tests)/[\w/]+\.(?:py|md|toml)\b", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert list(ROOT.glob(f"tests/**/{name}")), name


def test_commands_are_found() -> None:
    """So that a change of the pages' form cannot leave nothing to test."""
    assert sum(len(shell_commands(page)) for page in PAGES) > 80
    assert sum(len(inline_commands(page, "bench")) for page in PAGES) > 50
    assert ["table", "digits", "--format", "tex"] in shell_commands("quickstart.md")
    assert ["run", "--detectors", "all"] in shell_commands("index.md")
