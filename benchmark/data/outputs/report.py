"""What `bench outputs check` prints: what was found in a folder or CSV file, and all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from oodbench.benchmark.data.outputs.checks import accuracy, findings, sets_of
from oodbench.benchmark.data.outputs.files import unused
from oodbench.benchmark.data.outputs.given import GivenArrays, GivenOutputs
from oodbench.benchmark.data.outputs.head import head_of
from oodbench.benchmark.data.outputs.methods import methods_of
from oodbench.benchmark.data.outputs.reading import read_outputs, set_problems
from oodbench.benchmark.data.outputs.scores import read_scores
from oodbench.benchmark.errors import UserError, counted


class Report(NamedTuple):
    """What was found."""

    lines: tuple[str, ...]
    """What is there."""
    notes: tuple[str, ...]
    """What should be looked at."""
    problems: tuple[str, ...]
    """What must be corrected."""


def report(path: Path, higher: str | None = None) -> Report:
    """Read and check a folder of outputs or scores, or a CSV file of scores. Problems are returned, not raised."""
    try:
        given = read_outputs(path, higher) if path.is_dir() else read_scores(path, higher)
    except UserError as error:
        return Report((), (), tuple(set_problems(path) if path.is_dir() else ()) or (str(error),))
    found = list(findings(given))
    problems = [str(one) for one in found if isinstance(one, UserError)]
    notes = [one for one in found if isinstance(one, str)]
    notes += unused(path) if path.is_dir() else ()
    lines = [*_about(given), *_sets(given, not problems), *_methods(given)]
    try:
        lines += [] if problems else _head(given)
    except UserError as error:
        problems.append(str(error))
    return Report(tuple(lines), tuple(notes), tuple(problems))


def _about(given: GivenOutputs) -> Iterator[str]:
    known = (("title", given.title), ("network", given.network), ("preprocessing", given.preprocessing))
    yield from (f"{what + ':':15}{text}" for what, text in known if text)
    if given.classes:
        names = ", ".join(given.classes[:5]) + (", ..." if len(given.classes) > 5 else "")
        yield f"{'classes:':15}{len(given.classes):,} ({names})"


def _sets(given: GivenOutputs, values: bool) -> Iterator[str]:
    """One line for each set; `values`: whether logits may be read."""
    sets = sets_of(given)
    width = max(len(name) for name in sets) + 2
    for name, arrays in sets.items():
        about = given.id_set if name not in given.ood else f"OOD {given.groups.get(name, '')}".rstrip()
        parts = [counted(arrays.count, "image"), *_arrays(arrays)]
        share = accuracy(arrays) if values else None
        parts += [] if share is None else [f"accuracy {share:.2%}"]
        yield f"{name:{width}}{about + ':':12}{', '.join(parts)}"


def _arrays(arrays: GivenArrays) -> Iterator[str]:
    for what, array in (("logits", arrays.logits), ("features", arrays.features)):
        if array is not None:
            yield f"{what} {array.dtype} x {array.shape[1]:,}"
    yield from (what for what in ("labels", "names") if getattr(arrays, what) is not None)


def _methods(given: GivenOutputs) -> Iterator[str]:
    sets = sets_of(given)
    for method, seeds in methods_of(sets.values()).items():
        lacking = [name for name in given.ood if method not in sets[name].scores]
        without = f", none of {', '.join(lacking)}" if lacking else ""
        yield f"scores of {method}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{without}"


def _head(given: GivenOutputs) -> Iterator[str]:
    """A line about the head. `UserError` if it does not belong to features and logits."""
    if all(arrays.features is None for arrays in sets_of(given).values()):
        return
    if (head := head_of(given)) is None:
        yield "head:          none given, and features and logits do not show one"
    else:
        how = "given" if given.head is not None else "recovered from features and logits"
        yield f"head:          {head.weight.shape[0]:,} x {head.weight.shape[1]:,}, {how}"
