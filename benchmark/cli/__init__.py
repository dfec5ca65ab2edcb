"""The `bench` command: one module per command or group of commands."""

from oodbench.benchmark.cli.main import main as main
