"""Every option can be set in the environment: the flag's name for `bench run`, else the command's and the flag's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from oodbench.benchmark.cli import main
from oodbench.benchmark.cli.base import CONTEXT, long_flag
from oodbench.benchmark.cli.run import chosen_verbosity
from tests.support import bench


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands without subcommands below `command`, by path."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield path, command


OPTIONS = [
    pytest.param(path, command, option, id=" ".join((*path, long_flag(option))))
    for path, command in leaves(main)
    for option in command.params
    if isinstance(option, click.Option)
]

TEXTS = {"seeds": "0,5", "device": "mps", "engine": "ray"}


def text_for(option: click.Option) -> str:
    """A valid value of an option, other than its default."""
    if isinstance(option.type, click.Choice):
        return str(next(choice for choice in reversed(option.type.choices) if choice != option.default))
    if isinstance(option.type, click.types.FloatParamType):
        return "0.25"
    if isinstance(option.type, click.types.IntParamType):
        return "7"
    text = TEXTS.get(str(option.name), "some-text")
    return text if text != option.default else "cuda"


def parsed(command: click.Command, arguments: list[str]) -> dict[str, Any]:
    """The values that a command's function would be called with."""
    names = {"kind": "forms" if command.name == "list" else "detector", "name": "x", "names": "x", "run_name": "x"}
    positional = [names.get(str(p.name), "x") for p in command.params if isinstance(p, click.Argument)]
    required = [p for p in command.params if isinstance(p, click.Option) and p.required]
    given = {long_flag(p) for p in required if p.envvar in os.environ} | {*arguments}
    others = [word for p in required if long_flag(p) not in given for word in (long_flag(p), "of-the-test")]
    return dict(command.make_context(command.name, [*arguments, *others, *positional]).params)


EVERYWHERE = {"--results", "--data-dir", "--plugin", "--device", "--threads", "--block"}
"""Flags that mean the same in every command."""


def variable(flag: str, path: tuple[str, ...]) -> str:
    named = (flag,) if path == ("run",) or flag in EVERYWHERE else (*path, flag)
    return "OODBENCH_" + "_".join(part.strip("-") for part in named).upper().replace("-", "_")


@pytest.mark.parametrize("path, command, option", OPTIONS)
def test_a_variable_is_the_option_of_that_name(
    path: tuple[str, ...], command: click.Command, option: click.Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = long_flag(option)
    text = text_for(option)
    by_option = parsed(command, [flag] if option.is_flag else [flag, text])
    assert by_option != parsed(command, [])
    monkeypatch.setenv(variable(flag, path), "1" if option.is_flag else text)
    assert parsed(command, []) == by_option


def test_names_of_variables() -> None:
    assert variable("--dry-run", ("run",)) == "OODBENCH_DRY_RUN"
    assert variable("--columns", ("table",)) == "OODBENCH_TABLE_COLUMNS"
    assert variable("--dry-run", ("cache", "prune")) == "OODBENCH_CACHE_PRUNE_DRY_RUN"
    assert variable("--data-dir", ("report",)) == "OODBENCH_DATA_DIR"


@pytest.mark.parametrize("path, command", [pytest.param(*one, id=" ".join(one[0])) for one in leaves(main)])
def test_what_is_set_for_runs_changes_no_other_command(
    path: tuple[str, ...], command: click.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = parsed(command, [])
    for option in main.commands["run"].params:
        if isinstance(option, click.Option) and long_flag(option) not in EVERYWHERE:
            monkeypatch.setenv(variable(long_flag(option), ("run",)), "1" if option.is_flag else text_for(option))
    assert (parsed(command, []) == before) == (path != ("run",))


def test_every_command_with_options_is_tried() -> None:
    commands = {path[-1] for path, command in leaves(main) if any(isinstance(p, click.Option) for p in command.params)}
    assert {"run", "list", "show", "table", "plot", "compare", "verify", "check", "new", "figures", "prune"} <= commands


def test_the_command_line_wins_over_the_environment() -> None:
    run = main.commands["run"]
    for flag, variable, name in (("--quiet", "OODBENCH_VERBOSE", "quiet"), ("--verbose", "OODBENCH_QUIET", "verbose")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, "1")
            context = run.make_context("run", [flag])
        assert chosen_verbosity(context, context.params["quiet"], context.params["verbose"]) == name


def test_both_flags_of_verbosity_are_refused() -> None:
    result = bench("run", "--quiet", "--verbose", "--dry-run")
    assert result.exit_code == 2
    assert "--quiet and --verbose exclude each other. Leave out one of them." in result.stderr


def test_several_plugin_files_are_separated_as_in_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_PLUGIN", os.pathsep.join(["one.py", "two.py"]))
    assert parsed(main.commands["list"], [])["plugins"] == (Path("one.py"), Path("two.py"))


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODBENCH_TABLE_FORMAT", "")
    assert parsed(main.commands["table"], [])["form"] == "text"


@pytest.mark.parametrize("variable", ["OODBENCH_VERSION", "OODBENCH_HELP"])
def test_variables_of_other_programs_do_not_replace_the_command(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(variable, "1")
    assert "auto_envvar_prefix" not in CONTEXT  # click's own names are those of the functions' parameters
    result = bench("list", "runs", "--results", tmp_path)
    assert result.output == "No runs yet.\n"


def test_from_names_the_variable_that_it_cannot_use() -> None:
    result = bench("run", "--from", "x", env={"OODBENCH_SEEDS": "3"})
    assert result.exit_code == 2
    assert "leave out the environment variable OODBENCH_SEEDS." in result.stderr
    assert "leave out --id." in bench("run", "--from", "x", "--id", "digits").stderr


def test_a_variable_reaches_the_command(tmp_path: Path) -> None:
    result = bench("run", "--dry-run", env={"OODBENCH_ID": "nowhere_at_all", "OODBENCH_RESULTS": str(tmp_path)})
    assert result.exit_code == 2
    assert "nowhere_at_all" in result.stderr
