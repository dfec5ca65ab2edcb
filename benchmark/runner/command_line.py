"""The command that asks for the same as some options, to print where a run can be continued."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from oodbench.benchmark.plan.options import Options

FLAGS = {"id_sets": "--id", "ood_sets": "--ood", "plugins": "--plugin", "stability": "--no-stability"}
"""Options whose flag is not their name."""

UNSAID = ("own_cache", "rerun")
"""Options that a command which continues a run does without."""

SECRET = {"store": "URL"}
"""Options whose value may hold a password, so that it is written nowhere, and what stands in its place."""


def command_line(asked: Options) -> str:
    """`bench run` with every option that is not the default, quoted for the shell."""
    words = ["bench", "run"]
    for one in fields(Options):
        value = _seeds(asked.seeds) if one.name == "seeds" else getattr(asked, one.name)
        if one.name not in UNSAID and str(value) != str(one.default):  # a default folder is a text, a given one a path
            words += _words(one.name, SECRET.get(one.name, value))
    return shlex.join(words)


def _seeds(seeds: int | Iterable[int]) -> int | str:
    """Seeds as `--seeds` takes them: their number if they count from 0, or else a list; one seed ends in a comma."""
    if isinstance(seeds, int):
        return seeds
    given = list(seeds)
    if given == list(range(len(given))):
        return len(given)
    return ",".join(map(str, given)) + "," * (len(given) == 1)


def _words(name: str, value: Any) -> Iterator[str]:
    flag = FLAGS.get(name, "--" + name.replace("_", "-"))
    if isinstance(value, bool):
        yield flag
    elif name == "plugins":
        for file in [value] if isinstance(value, str | Path) else value:
            yield from (flag, str(file))
    elif isinstance(value, tuple | list):
        if value:
            yield from (flag, ",".join(map(str, value)))
    else:
        yield from (flag, str(value))
