"""Pre-flight check: every Ray node must have the same software, plug-ins and access to the store."""

from __future__ import annotations

import platform
from typing import NamedTuple

from oodbench.benchmark.data.own_sets import adopt_all
from oodbench.benchmark.engines.same_code import refuse_other_software, software_here
from oodbench.benchmark.errors import OodbenchError, StoreError, UserError
from oodbench.benchmark.plan.used_code import PlannedCode
from oodbench.benchmark.plugins.code_check import UsedPlugin, version_here
from oodbench.benchmark.plugins.networks.places import adopt_backbones
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages.worker_config import WorkerConfig


class NodeInfo(NamedTuple):
    """What a node reports about itself."""

    versions: dict[str, str]
    """Versions of the software that must be the same on all nodes, by name."""
    store_error: str = ""
    """Why the node cannot use the store; empty if it can."""
    plugin_error: str = ""
    """Which plug-in or folder of images the node cannot load, and why; empty if it can load all."""
    plugins: tuple[UsedPlugin, ...] = ()
    """The plug-ins of the run with the versions of their code there."""


def inspect_node(config: WorkerConfig, mark: str) -> NodeInfo:
    """Called on a node: check its software, its plug-ins and the store, in which there is a file named `mark`."""
    versions = software_here(name for name, _ in config.code.software)
    error = _store_error(config, mark)
    try:
        for file in config.plugins:
            registry.load_file(file)
        adopt_all(config.folders)
        adopt_backbones(config.networks)
        plugins = tuple(one._replace(version=version_here(one.kind, one.name)) for one in config.code.plugins)
    except OodbenchError as problem:
        return NodeInfo(versions, error, str(problem))
    return NodeInfo(versions, error, "", plugins)


def _store_error(config: WorkerConfig, mark: str) -> str:
    if config.store:
        from oodbench.benchmark.store.remote import Remote

        try:
            Remote(config.store).refuse_unwritable()
        except OodbenchError as error:
            return f"cannot use the store: {error}"
        return ""
    if not (config.cache / mark).is_file():
        return f"cannot access the results folder '{config.cache}'"
    probe = config.cache / f"{mark}-{platform.node()}"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        return f"cannot write '{config.cache}' ({error.strerror})"
    return ""


def check_node(node: str, planned: PlannedCode, info: NodeInfo) -> None:
    """Raise `UserError` or `StoreError` if the node would not do the same work as this one."""
    refuse_other_software(planned, info.versions, f"node {node}")
    if info.store_error:
        raise StoreError(
            f"Node {node} {info.store_error.rstrip('.')}. Give a folder that all nodes can write to, at the same path, "
            "with --results, or a URL with --store."
        )
    if info.plugin_error:
        raise UserError(
            f"Node {node} cannot load a plug-in or folder of this run: {info.plugin_error} Make it available to all "
            "nodes at the same path; a plug-in can also be installed on all of them, as a package with an entry point."
        )
    for here, there in zip(planned.plugins, info.plugins, strict=True):
        if there.version != here.version:
            raise UserError(
                f"The code of {here.title} has version {here.version} here and {there.version} on "
                f"node {node}. Copy its file, and those that it imports, to all nodes, or install one version of its "
                "package on all of them, so that results do not depend on where they are computed."
            )
