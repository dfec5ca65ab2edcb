"""The code that a run was planned with, and what differs from it in another process, on this machine or another."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plan.jobs import Job
from oodbench.benchmark.plan.used_code import PlannedCode, names_of_data, plugins_of
from oodbench.benchmark.plugins.code_check import UsedPlugin, version_here
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import known_version
from oodbench.benchmark.records.environment import ABSENT, COMPUTING, package_version

PACKAGES = ("benchmark", "detectors", "datasets")
"""Subpackages of `oodbench` whose source must be the same everywhere; it covers the plug-ins in them."""

OWN = "oodbench."
"""Begins the names of the modules of oodbench."""


def planned_code(jobs: Iterable[Job]) -> PlannedCode:
    """The software of this process and the plug-ins of the jobs; those of oodbench itself are covered by its source."""
    jobs = list(jobs)
    reductions = [reduction for job in jobs for reduction in getattr(job, "reductions", ())]
    used = dict.fromkeys(plugin for job in [*jobs, *reductions] for plugin in plugins_of(job))
    for kind, name in names_of_data(jobs):
        with suppress(PluginError):  # its source is not available; its images are compared by their checksums
            used[UsedPlugin(kind, name, version_here(kind, name))] = None
    outside = [one for one in used if not registry.get(one.kind, one.name).__module__.startswith(OWN)]
    owners = {d.name for one in outside for d in known_version(registry.get(one.kind, one.name)).distributions}
    return PlannedCode(tuple(software_here(owners).items()), tuple(sorted(outside)))


def software_here(packages: Iterable[str] = ()) -> dict[str, str]:
    """The versions in this process, by name; of Python, only major and minor. `packages`: further distributions."""
    versions = {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "oodbench": f"{package_version('oodbench')} ({_source()})",
    }
    return versions | {name: package_version(name) for name in [*COMPUTING, *sorted(packages)] if name not in versions}


@cache
def _source() -> str:
    """A short hash of the package's source, since different checkouts may have the same version number."""
    hasher = hashlib.sha256()
    for package in PACKAGES:
        spec = find_spec(f"oodbench.{package}")
        for folder in spec.submodule_search_locations or () if spec else ():
            for file in sorted(Path(folder).rglob("*.py")):
                hasher.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return hasher.hexdigest()[:8]


SAME_VERSION = "Install the same version on all machines, so that results do not depend on where they are computed."

EDITED = "If it was edited or installed during the run, give the same command again; what is finished is kept."


def refuse_other_software(planned: PlannedCode, there: Mapping[str, str], where: str, remedy: str = "") -> None:
    """Raise `UserError` if software has another version there, such as on "node b", than the run was planned with.

    A package that is installed on one side only computes nothing on the other, unless a plug-in needs it, which then
    says so.
    """
    for name, version in planned.software:
        found = there.get(name, ABSENT)
        if found != version and ABSENT not in (found, version):
            raise UserError(f"{name} is {version} here and {found} on {where}. {SAME_VERSION}{remedy}")


def refuse_worker(planned: PlannedCode) -> None:
    """Raise `UserError` if this process, which is to run jobs, has other software than the run was planned with.

    Its plug-ins are compared job by job (`refuse_other_code`), so that a changed file fails only what needs it.
    """
    there = software_here(name for name, _ in planned.software)
    refuse_other_software(planned, there, f"{platform.node()}, in a worker process that has just started", f" {EDITED}")
