"""What all commands share: examples in the help, errors as one sentence, log messages, common options."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from oodbench.benchmark.cli.streams import note, usable_streams
from oodbench.benchmark.errors import OodbenchError, UserError, visible
from oodbench.benchmark.records.given_sets import with_plain_names
from oodbench.benchmark.store.user_path import user_path

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

ONCE = {
    "--checkpoint": (
        "Run the command once for each file; with --name NAME and --add they share one table. Separate files by commas "
        "if they are one for each seed."
    ),
    "--from": "Run the command once for each run.",
}
"""Options that name what is evaluated -> what to do with several. Of other options the last value counts, as usual."""

F = TypeVar("F", bound=Callable[..., Any])


class StderrHandler(logging.Handler):
    """Writes each log message as one line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message.

        `click.echo` would bypass the stream that rich puts in place of standard error while it draws progress bars.
        """
        note(with_plain_names(visible(record.getMessage())))


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show the log messages of the package on standard error."""
    logger, handler = logging.getLogger("oodbench"), StderrHandler()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a plug-in may configure the root logger, which would show every message again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def no_gui_backend() -> Iterator[None]:
    """Plug-ins that draw, and worker processes, need no GUI, whatever backend a notebook server asks of matplotlib."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("MPLBACKEND", None)
        else:
            os.environ["MPLBACKEND"] = before


ROOT = "main"
"""The name of the group of all commands, which users call `bench`."""

RUN = "run"
"""The command whose options are the variables without a command's name."""

SHARED = frozenset({"--results", "--data-dir", "--plugin", "--device", "--threads", "--block"})
"""Flags that mean the same in every command: where files are, and where and how work is done."""


def variable_of(option: click.Option, path: Sequence[str]) -> str:
    """The environment variable of an option of the command with this path, such as `("cache", "prune")`.

    OODBENCH_LIMIT_TRAIN for `--limit-train` of `bench run`, and OODBENCH_TABLE_COLUMNS for `--columns` of `bench
    table`: what is chosen for runs must not silently change what other commands show. Flags in `SHARED` have one
    variable for all commands. Named after the flag that users write; click would name it after the function's
    parameter: ID_SETS for `--id`.
    """
    flag = long_flag(option)
    words = [*([] if flag in SHARED or tuple(path) == (RUN,) else path), flag.lstrip("-")]
    return "_".join(["OODBENCH", *words]).replace("-", "_").upper()


def long_flag(option: click.Parameter) -> str:
    """The flag of an option that is a word, `--output` rather than `-o`; the name of an argument."""
    return next((flag for flag in option.opts if flag.startswith("--")), option.opts[0])


class _WithExamples(click.Command):
    """Adds `examples`, one per line, to the end of the help, and lets every option be set in the environment."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT, **kwargs})
        self.examples = examples
        self.name_variables(str(self.name))

    def name_variables(self, *path: str) -> None:
        """Name the environment variables of the options of the command with this path."""
        for parameter in self.params:
            # Not --version: a variable OODBENCH_VERSION is often set by others, and would replace every command.
            if isinstance(parameter, click.Option) and parameter.expose_value:
                parameter.envvar = variable_of(parameter, path)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse a second value where it would silently replace the first, and empty values."""
        values, _, given = self.make_parser(ctx).parse_args(list(args))
        for option in [] if ctx.resilient_parsing else given:
            value = values.get(str(option.name))
            if isinstance(option, click.Option) and (value == "" or (option.multiple and "" in (value or ()))):
                raise click.UsageError(
                    f"{long_flag(option)} is empty. If a variable gives its value, is that set?", ctx
                )
        for option, times in Counter(given).items():
            if times > 1 and long_flag(option) in ONCE and not ctx.resilient_parsing:
                raise click.UsageError(
                    f"{long_flag(option)} takes one value, got {times}. {ONCE[long_flag(option)]}", ctx
                )
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples without wrapping them."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


class Group(_WithExamples, click.Group):
    """A group of commands with examples in its help."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, whose variables have the names of both, unless this is `bench` itself."""
        super().add_command(cmd, name)
        if isinstance(cmd, _WithExamples) and self.name != ROOT:
            cmd.name_variables(str(self.name), name or str(cmd.name))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, whatever standard output and error are."""
        with usable_streams():
            return super().main(*args, **kwargs)


class Command(_WithExamples):
    """A command with examples in its help, whose errors are one sentence and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with log messages and errors on standard error."""
        try:
            with log_to_stderr(), no_gui_backend():
                return super().invoke(ctx)
        except OodbenchError as error:
            fail(with_plain_names(str(error)))
        except KeyboardInterrupt:
            note("Interrupted. Finished work is kept: run the same command again to continue.")
            sys.exit(130)


def fail(sentence: str) -> NoReturn:
    """Print an error and exit with code 2."""
    note(f"Error: {sentence}")
    sys.exit(2)


class UserPath(click.Path):
    """A path, in which '~' is the home folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Expand '~'."""
        try:
            return super().convert(user_path(value), param, ctx)
        except UserError as error:
            self.fail(str(error), param, ctx)


PATH = UserPath(path_type=Path)


def results_option(function: F) -> F:
    """`--results`."""
    return click.option(
        "--results",
        default="results",
        show_default=True,
        type=PATH,
        metavar="DIR",
        help="Folder of runs and cache.",
    )(function)


def data_dir_option(function: F) -> F:
    """`--data-dir`."""
    return click.option(
        "--data-dir",
        default="data",
        show_default=True,
        type=PATH,
        metavar="DIR",
        help="Folder with the files of data sets.",
    )(function)


def plugin_option(function: F) -> F:
    """`--plugin`."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=PATH,
        metavar="FILE",
        help="Python file with plug-ins. Can be repeated.",
    )(function)
