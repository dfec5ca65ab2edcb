"""The command line: one file per command or group of commands."""

from oodbench.benchmark.cli.main import main as main
