"""Which code the jobs of a plan use: their plug-ins with the versions in their keys, and the software that computes.

Every process that runs a job compares its own plug-ins with the job's.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, HeadJob, Job, ScoreJob, SetRef, TrainJob
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plugins.code_check import UsedPlugin, other_code
from oodbench.benchmark.plugins.source_version import ONLY_IN
from oodbench.benchmark.plugins.specs import Spec, create, parse_set

REMEDY = (
    "Nothing was stored for it. Leave a plug-in's files alone while a run is going on, and keep them the same on all "
    "machines; the same command, given again, computes with the code as it is then."
)


class PlannedCode(NamedTuple):
    """The code that a run was planned with, and that every process that runs its jobs must have."""

    software: tuple[tuple[str, str], ...] = ()
    """Names and versions: Python, oodbench, and installed packages that compute or that plug-ins come from."""
    plugins: tuple[UsedPlugin, ...] = ()


def refuse_other_code(job: Job) -> None:
    """Raise `PluginError` if a plug-in of a job has other code in this process than in the plan.

    It is called before a job starts and before its artifacts are stored, because files that a plug-in declares may
    change between the two.
    """
    for used in plugins_of(job):
        if difference := other_code(used):
            raise PluginError(f"On {platform.node()}, {difference}. {REMEDY}")
    for kind, found in _identities(job):
        if read := found.get("read"):
            now = create(kind, Spec(found["name"], tuple(sorted(found["settings"].items())))).read_from()
            if changed := next((name for name in read if now.get(name) != read[name]), ""):
                what = f"{kind} '{found['name']}[{changed}={found['settings'][changed]}]'"
                raise PluginError(f"On {platform.node()}, what {what} reads has been changed since. {REMEDY}")


def plugins_of(job: Job) -> tuple[UsedPlugin, ...]:
    """The detector, recipes and backbone of a job, with the versions in its keys.

    Of a pass, without the detectors that reduce its maps: each of these is a job of its own.
    """
    return tuple(dict.fromkeys(_used(kind, found) for kind, found in _identities(job)))


def _identities(job: Job) -> list[tuple[str, Mapping[str, Any]]]:
    """The same as kinds of plug-ins, each with its entry in the keys."""
    given = job.given if isinstance(job, TrainJob) else None
    contents = [checkpoint.key.content for checkpoint in (getattr(job, "checkpoint", None), given) if checkpoint]
    content = job.makes[0].content
    detectors = [content.get("detector"), *content.get("candidates", ())[:1]]
    found = [(kind, of[kind]) for of in contents for kind in ("recipe", "backbone") if kind in of]
    found += [("detector", detector) for detector in detectors]
    return [(kind, one) for kind, one in found if _is_plugin(one)]


def _is_plugin(value: Any) -> bool:
    """Whether a part of a key is what `source_version.identity` returns."""
    return isinstance(value, Mapping) and {"name", "version"} <= value.keys()


def _used(kind: str, identity: Mapping[str, Any]) -> UsedPlugin:
    return UsedPlugin(kind, identity["name"], identity["version"].partition(ONLY_IN)[0])


def names_of_data(jobs: Iterable[Job]) -> list[tuple[str, str]]:
    """Kind and name of the data sets and forms whose images the jobs read."""
    specs = {parse_set(ref.set) for job in jobs for ref in sets_of(job)}
    sets = {("dataset", spec.name) for spec in specs}
    return sorted(sets | {("form", form) for spec in specs for form in spec.forms})


def sets_of(job: Job) -> Iterator[SetRef]:
    """The images that a job reads."""
    if isinstance(job, TrainJob):
        yield from (ref for ref in (job.train, job.outliers) if ref)
    elif isinstance(job, HeadJob):
        yield from (outputs.data for outputs in (job.train, job.outliers) if outputs)
    elif isinstance(job, ExtractJob | ScoreJob):
        yield job.outputs.data
    elif isinstance(job, FitJob | TuneJob):
        ood = job.ood if isinstance(job, TuneJob) else ()
        yield from (outputs.data for outputs in (job.train, job.validation, job.outliers, *ood) if outputs)
