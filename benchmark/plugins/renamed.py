"""Names of older versions of modules and of the public API, and errors that give the new name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TypeVar

from typing_extensions import ParamSpec

PACKAGE = "oodbench.benchmark"

NAMES = {"Studio": "FigureInputs"}
"""Public name in an older version -> its present name."""

PARAMETERS = {
    "say": "messages go to the logger 'oodbench' now; configure it with the logging module of Python",
}
"""Parameter of a public function in an older version -> what replaces it."""

MODULES = {
    "across": "stats.rank_tests",
    "again": "verify.repeat",
    "arrays": "store.npy",
    "audit": "metrics.released_scripts",
    "backbones._convnet": "backbones._lee2018_convnet",
    "backbones._found": "backbones._third_party",
    "bank": "plugins.training_bank",
    "best": "records.best",
    "cards": "cli.cards",
    "cells": "records.cell_names",
    "chain": "plan.job_builder",
    "checks": "verify.plugin_checks",
    "cli_compare": "cli.compare",
    "cli_data": "cli.data",
    "cli_figures": "cli.figures",
    "cli_runs": "cli.runs",
    "columns": "comparisons.column",
    "command": "cli.base",
    "compare": "comparisons",
    "comparing": "stages.similarity_scoring",
    "contract": "plugins",
    "conventions": "metrics.conventions",
    "delong": "stats.delong",
    "disk": "store.atomic",
    "display": "cli.progress",
    "engines.board": "engines.ray_progress",
    "engines.cluster": "engines.ray_engine",
    "engines.greeting": "engines.ray_preflight",
    "extended": "metrics.extended",
    "extract": "stages.extract",
    "files": "data.files",
    "gallery": "papers.draw",
    "handed": "stages.detector_inputs",
    "intervals": "stats.intervals",
    "jobs": "plan.jobs",
    "joints": "stats.estimates",
    "leakage": "data.duplicates",
    "lineage": "store.lineage",
    "locks": "store.locks",
    "looks": "plan.job_builder",
    "loop": "stages.training.train_loop",
    "memory": "stages.memory",
    "outcomes": "stages.evaluate",
    "paired": "stats.paired_tests",
    "parts": "stages.extract_parts",
    "planner": "plan.planner",
    "precision": "plan.precision",
    "provenance": "runner.provenance",
    "pruning": "records.prune",
    "recompute": "verify.recompute",
    "reference": "papers.published",
    "registry": "plugins.registry",
    "remote": "store.remote",
    "resample": "stats.bootstrap",
    "resolve": "plan.resolve",
    "runinfo": "runner.run_info",
    "scatter": "stats.clustered",
    "scored": "comparisons.scored_images",
    "scoring": "stages.fit_score",
    "seeds": "stats.seeds",
    "setups": "stages.worker_config",
    "shapes": "store.schema",
    "shared_store": "store.shared",
    "snapshots": "stages.training.snapshots",
    "specs": "plugins.specs",
    "state": "store.tensor_file",
    "studio": "papers.figure_inputs",
    "suite": "plan.suite",
    "timeouts": "engines.time_limit",
    "toy": "verify.toy_world",
    "training": "stages.training.train",
    "trivial": "data.pixel_baseline",
    "tuning": "stages.tune",
    "units": "stats.clustered",
    "untrusted": "store.safe_read",
    "versions": "plugins.source_version",
    "views._canvas": "views.plots.style",
    "views._compare_plots": "views.comparison.plots",
    "views._compared": "views.comparison.layout",
    "views._counterparts": "papers.match",
    "views._images": "views.marks",
    "views._latex": "views.tables.latex",
    "views._layout": "views.tables.layout",
    "views._markdown": "views.tables.markdown",
    "views._overview": "views.plots.bars",
    "views._stacked": "views.tables.stacked",
    "views._summary": "views.summary",
    "views._text": "views.tables.text",
    "views._warnings": "views.warnings",
    "views.against": "papers.against_published",
    "views.audit": "views.tables.released_scripts",
    "views.compare": "views.comparison.page",
    "views.extended": "views.tables.extended",
    "views.no_gui": "views.plots.no_gui",
    "views.plot_overview": "views.plots.bars",
    "views.plot_style": "views.plots.style",
    "views.released_scripts": "views.tables.released_scripts",
    "views.stacked_table": "views.tables.stacked",
    "views.table_html": "views.tables.html",
    "views.table_latex": "views.tables.latex",
    "views.table_layout": "views.tables.layout",
    "views.table_markdown": "views.tables.markdown",
    "views.table_text": "views.tables.text",
    "weights": "plan.weights.file",
    "work": "stages.context",
}
"""Module in an older version -> the module that has its content now, both inside `oodbench.benchmark`."""


P = ParamSpec("P")
R = TypeVar("R")


def refuse_old_parameters(function: Callable[P, R]) -> Callable[P, R]:
    """Make a public function refuse parameters of older versions with the sentence that says what replaces them."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, sentence in PARAMETERS.items():
            if name in kwargs:
                raise TypeError(f"{function.__name__}() has no parameter '{name}': {sentence}.")
        return function(*args, **kwargs)

    return checked


class RenamedModules(MetaPathFinder):
    """The last finder in `sys.meta_path`: refuses the import of an old module name with the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise `ModuleNotFoundError` for a module of `MODULES`; None for every other."""
        package, _, name = fullname.partition(f"{PACKAGE}.")
        if package or name not in MODULES:
            return None
        raise ModuleNotFoundError(
            f"'{fullname}' is now '{PACKAGE}.{MODULES[name]}'. Plug-ins import what they need from '{PACKAGE}' itself.",
            name=fullname,
        )


def install() -> None:
    """Add the finder to `sys.meta_path`, once."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.append(RenamedModules())
