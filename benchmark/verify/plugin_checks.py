"""Runs the contract checks of plug-ins: `run_checks` for `bench check NAME`, `check_detector` for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from oodbench.benchmark.errors import OodbenchError, unknown
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.dataset import COLOUR
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.verify.check_error import CheckError, SkippedCheck
from oodbench.benchmark.verify.detector_checks import DETECTOR_CHECKS
from oodbench.benchmark.verify.other_checks import (
    check_backbone,
    check_dataset,
    check_figure,
    check_form,
    check_recipe_learns,
    check_recipe_repeats,
    check_recipe_takes_grey,
    check_suite,
)
from oodbench.benchmark.verify.recipe_outputs import check_recipe_outputs
from oodbench.benchmark.verify.toy_world import SIDE

CHECKS: dict[str, tuple[Callable[[str], None], ...]] = {
    "detector": DETECTOR_CHECKS,
    "recipe": (check_recipe_learns, check_recipe_repeats, check_recipe_takes_grey, check_recipe_outputs),
    "backbone": (check_backbone,),
    "dataset": (check_dataset,),
    "form": (check_form,),
    "figure": (check_figure,),
    "suite": (check_suite,),
}
"""Kind of plug-in -> its checks, in the order in which they run."""


DECLARATIONS = "check_declarations"
"""The check that others build on: where it fails, they would fail for the same mistake."""


class Result(NamedTuple):
    """The outcome of one check of one plug-in."""

    kind: str
    """Kind of the plug-in: 'detector', 'recipe', ..."""
    name: str
    """Name of the plug-in."""
    check: str
    """Name of the check's function; 'import' if the plug-in cannot be imported."""
    status: str
    """'ok', 'failed' or 'skipped'."""
    reason: str = ""
    """Why it failed or was skipped."""


def check_detector(name: str) -> None:
    """Run all contract checks of a registered detector.

    Args:
        name: The detector, possibly with settings.

    Raises:
        CheckError: The first check that fails, in one sentence.
        OodbenchError: The detector raises an error of its own, or is unknown.
    """
    for check in DETECTOR_CHECKS:
        with suppress(SkippedCheck):
            check(name)


def run_checks(names: Iterable[str], data_dir: Path) -> Iterator[Result]:
    """Run the contract checks of plug-ins of any kind, as `bench check` does.

    Args:
        names: Names of plug-ins; 'all' means everything registered. A name that several kinds have is checked as each
            of them.
        data_dir: The folder with the files of data sets.

    Yields:
        One result per check. A plug-in that raises an error gives a failed result; a data set whose files are missing
        gives a skipped one.

    Raises:
        UserError: No plug-in has the name.
    """
    for name in names:
        kinds = [kind for kind in CHECKS if name == "all" or name in registry.entries(kind)]
        if not kinds:
            raise unknown("plug-in", name, [n for kind in CHECKS for n in registry.entries(kind)], "bench list")
        for kind in kinds:
            for entry_name in registry.entries(kind) if name == "all" else [name]:
                yield from _run(kind, entry_name, data_dir)


def _refuses(backbone: str) -> str | None:
    """Why a backbone refuses the images of the checks; None if it takes them."""
    plugin: Backbone = create("backbone", parse_spec(backbone))
    return plugin.refuses((plugin.channels or COLOUR, SIDE, SIDE))


def _run(kind: str, name: str, data_dir: Path) -> Iterator[Result]:
    entry = registry.entries(kind)[name]
    if reason := entry.reason():
        yield Result(kind, name, "import", "failed", reason)
        return
    reported: dict[str, str] = {}
    for check in CHECKS[kind]:
        if DECLARATIONS in reported.values():
            yield Result(kind, name, check.__name__, "skipped", f"it builds on {DECLARATIONS}, which fails")
            continue
        result = _result(kind, name, check, data_dir)
        if result.status == "failed" and result.reason in reported:
            yield result._replace(status="skipped", reason=f"it fails as {reported[result.reason]} does")
        else:
            yield result
        if result.status == "failed":
            reported.setdefault(result.reason, result.check)


def _result(kind: str, name: str, check: Callable[..., None], data_dir: Path) -> Result:
    """Run one check."""
    try:
        entry = registry.entries(kind)[name]
        if kind == "dataset" and (missing := entry.load()().missing(data_dir)):
            return Result(kind, name, check.__name__, "skipped", missing)
        if kind == "backbone" and (refused := _refuses(name)):
            return Result(kind, name, check.__name__, "skipped", refused)
        check(*((name, data_dir) if kind == "dataset" else (name,)))
    except SkippedCheck as error:
        return Result(kind, name, check.__name__, "skipped", str(error))
    except Exception as error:  # third-party code may raise anything, and the other checks still run
        expected = isinstance(error, CheckError | OodbenchError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        return Result(kind, name, check.__name__, "failed", reason)
    return Result(kind, name, check.__name__, "ok")
