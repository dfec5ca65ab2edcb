"""What `run.json` says for papers: names and citations of the plug-ins of a run, and what each of its rows costs.

Views read it, so that they need neither the plug-ins nor torch.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.jobs import Job, ScoreJob, TrainJob
from oodbench.benchmark.plan.plan import Cell, Plan
from oodbench.benchmark.plan.recipes.declared import task_of
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.citations.bibtex import cited, entries_beside
from oodbench.benchmark.plugins.networks.outline import outlines
from oodbench.benchmark.plugins.recipe import Recipe
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_detector, parse_set, parse_spec
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.records.record import SKIPPED

logger = logging.getLogger(__name__)

POSTHOC, TRAINED = "posthoc", "trained"
"""Kinds of rows: a detector on the classifier of the suite's recipe, and one whose recipe trains its own."""


def described(plan: Plan) -> dict[str, Any]:
    """Names, titles, papers and citations by kind of plug-in and name; the cited entries; and the costs of rows."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    entries: dict[str, str] = {}
    for kind, name in dict.fromkeys(_used(plan)):
        with suppress(OodbenchError):  # sets and scores of the user, and what older plans name
            plugin: type[Plugin] = registry.get(kind, name)
            cite = _cited(plugin, kind)
            known = {"display_name": plugin.display_name, "title": plugin.title, "paper": plugin.paper}
            found.setdefault(kind, {})[name] = {**known, "cite": ",".join(cite)}
            entries |= cite
    return {"described": found, "references": entries, "costs": _costs(plan)}


def _used(plan: Plan) -> Iterator[tuple[str, str]]:
    """Kind and name of the plug-ins that a plan's cells name."""
    for cell in plan.cells:
        record = cell.record
        for kind, text in (("detector", record.detector), ("recipe", record.recipe), ("backbone", record.backbone)):
            if text:
                with suppress(OodbenchError):
                    yield kind, parse_spec(text).name
        for name in (record.id_set, record.ood_set):
            if plain_name(name) == name:
                with suppress(OodbenchError):
                    spec = parse_set(name)
                    yield "dataset", spec.name
                    yield from (("form", form) for form in spec.forms)


def _cited(plugin: type[Plugin], kind: str) -> dict[str, str]:
    """The BibTeX entries that a plug-in cites; none, with a message, if what it declares is not sound."""
    try:
        return cited(plugin.cite, entries_beside(Path(inspect.getfile(plugin)))) if plugin.cite else {}
    except (OodbenchError, OSError, TypeError) as error:  # a class of a notebook is in no file
        logger.warning(f"The {kind} '{plugin.name}' is not cited in tables for papers: {error}")
        return {}


def _costs(plan: Plan) -> dict[str, dict[str, Any]]:
    """Label -> its kind, the network passes per image beyond the shared one (fewest, most), and networks trained."""
    found: dict[str, dict[str, Any]] = {}
    networks: dict[str, int | None] = {}
    for cell in plan.cells:
        label = cell.record.label
        if label not in found and cell.record.status != SKIPPED:
            jobs = plan.jobs_for([cell])
            found[label] = {"kind": _kind(cell), "passes": _passes(jobs), "networks": _networks(jobs, networks)}
    return found


def _kind(cell: Cell) -> str:
    """Whether the detector or its label names a recipe; what only the suite or an option names, all rows share."""
    with suppress(OodbenchError):
        if parse_detector(cell.record.label).recipe or registry.get("detector", cell.record.detector).recipe:
            return TRAINED
    return POSTHOC


def _passes(jobs: Iterable[Job]) -> list[int] | None:
    """Passes per image that scoring makes itself; None where no detector scores, but the user gives scores."""
    scoring = [job for job in jobs if isinstance(job, ScoreJob) and job.outputs.data.images]
    if not scoring:
        return None
    counts = [passes / job.outputs.data.images for job in scoring for passes in (job.passes_if or (job.passes,))]
    return [round(min(counts)), round(max(counts))]


def _networks(jobs: Sequence[Job], known: dict[str, int | None]) -> int | None:
    """How many networks training has, all recipes that build on each other together; None if nothing is trained.

    `known`: recipe -> its number of networks, filled here.
    """
    for job in jobs:
        if isinstance(job, TrainJob) and job.checkpoint.recipe not in known:
            known[job.checkpoint.recipe] = _network_count(job)
    counts = [known[recipe] for recipe in {job.checkpoint.recipe for job in jobs if isinstance(job, TrainJob)}]
    return sum(count or 0 for count in counts) if counts and all(counts) else None


def _network_count(job: TrainJob) -> int | None:
    """The number of networks of a recipe; None if they cannot be built without memory for their numbers."""
    try:
        with outlines():
            recipe: Recipe = create("recipe", parse_spec(job.checkpoint.recipe))
            return recipe.trained_networks(recipe.networks(task_of(job.checkpoint)))
    except Exception:  # a plug-in that is only asked; it may compute while it builds
        return None


def with_earlier(earlier: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """What `described` found for this command and, of other plug-ins and rows, for earlier ones."""
    before, now = earlier.get("described") or {}, info["described"]
    return {
        "described": {kind: {**before.get(kind, {}), **now.get(kind, {})} for kind in {**before, **now}},
        "references": {**(earlier.get("references") or {}), **info["references"]},
        "costs": {**(earlier.get("costs") or {}), **info["costs"]},
    }
