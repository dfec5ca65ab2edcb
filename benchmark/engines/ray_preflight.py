"""Pre-flight check: every Ray node must have the same software, plug-ins and access to the store."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from oodbench.benchmark.data.files.user_folder import adopt_all
from oodbench.benchmark.errors import OodbenchError, StoreError, UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages.worker_config import WorkerConfig

PACKAGES = ("benchmark", "detectors", "datasets")
"""Subpackages of `oodbench` whose source must be the same on all nodes."""


class NodeInfo(NamedTuple):
    """What a node reports about itself."""

    versions: dict[str, str]
    """Versions of the software that must be the same on all nodes, by name."""
    store_error: str = ""
    """Why the node cannot use the store; empty if it can."""
    plugin_error: str = ""
    """Which plug-in or folder of images the node cannot load, and why; empty if it can load all."""


def this_node() -> dict[str, str]:
    """The versions in this process, by name; of Python, only major and minor."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "oodbench": f"{metadata.version('oodbench')} ({_source()})",
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
    }


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


def inspect_node(config: WorkerConfig, mark: str) -> NodeInfo:
    """Called on a node: check its software, its plug-ins and the store, in which there is a file named `mark`."""
    return NodeInfo(this_node(), _store_error(config, mark), _plugin_error(config))


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


def _plugin_error(config: WorkerConfig) -> str:
    try:
        for file in config.plugins:
            registry.load_file(file)
        adopt_all(config.folders)
    except OodbenchError as error:
        return str(error)
    return ""


def check_node(node: str, expected: dict[str, str], info: NodeInfo) -> None:
    """Raise `UserError` or `StoreError` if the node would not do the same work as this one."""
    for name, version in expected.items():
        if info.versions.get(name) != version:
            raise UserError(
                f"{name} is {version} here and {info.versions.get(name, 'absent')} on node {node}. Install the same "
                "version on all machines, so that results do not depend on where they are computed."
            )
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
