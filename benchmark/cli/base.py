"""What every command of the command line is made of: its errors, its examples, the options that several share."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from oodbench.benchmark.errors import OodbenchError, visible

CONTEXT = {"auto_envvar_prefix": "OODBENCH", "help_option_names": ["-h", "--help"], "max_content_width": 110}

F = TypeVar("F", bound=Callable[..., Any])


class Echo(logging.Handler):
    """Writes every message of the package as a line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        click.echo(visible(record.getMessage()), err=True)


class Command(click.Command):
    """A command whose `examples` end its help, and whose errors are sentences with exit code 2."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT, **kwargs})
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, one a line."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")

    def invoke(self, ctx: click.Context) -> Any:
        """Show what is logged on standard error, and turn an error that is meant for the user into one sentence."""
        logger, handler = logging.getLogger("oodbench"), Echo()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        ctx.call_on_close(lambda: logger.removeHandler(handler))
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except OodbenchError as error:
            fail(str(error))
        except KeyboardInterrupt:
            click.echo("Interrupted. Nothing finished is lost: the same command goes on from here.", err=True)
            sys.exit(130)


def fail(sentence: str) -> NoReturn:
    """Say what is wrong and exit with code 2."""
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(2)


def results_option(function: F) -> F:
    """`--results`."""
    return click.option(
        "--results",
        default="results",
        show_default=True,
        type=click.Path(path_type=Path),
        help="Runs and cache.",
    )(function)


def data_dir_option(function: F) -> F:
    """`--data-dir`."""
    return click.option(
        "--data-dir", default="data", show_default=True, type=click.Path(path_type=Path), help="Files of data sets."
    )(function)


def plugin_option(function: F) -> F:
    """`--plugin`."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A Python file of plug-ins.",
    )(function)
