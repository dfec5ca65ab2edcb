"""Before any work, every node of a cluster says who it is: the same work needs the same software and the same store."""

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


class NodeInfo(NamedTuple):
    """Who a node is."""

    versions: dict[str, str]
    """Of what must be the same everywhere, by name."""
    store: str = ""
    """What is wrong with the store from there; empty if nothing is."""
    plugin: str = ""
    """Which plug-in, or folder of images, cannot be loaded there, and why; empty if all can."""


def this_node() -> dict[str, str]:
    """Versions in this process. Python's counts without its last number."""
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "oodbench": f"{metadata.version('oodbench')} ({_source()})",
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
    }


@cache
def _source() -> str:
    """A short hash of the package's source: two checkouts may have one version number."""
    hasher = hashlib.sha256()
    for package in PACKAGES:
        spec = find_spec(f"oodbench.{package}")
        for folder in spec.submodule_search_locations or () if spec else ():
            for file in sorted(Path(folder).rglob("*.py")):
                hasher.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return hasher.hexdigest()[:8]


def inspect_node(config: WorkerConfig, mark: str) -> NodeInfo:
    """On a node: look at software, plug-ins and the store, in which there is a file `mark`."""
    return NodeInfo(this_node(), _store_trouble(config, mark), _plugin_trouble(config))


def _store_trouble(config: WorkerConfig, mark: str) -> str:
    if config.store:
        from oodbench.benchmark.store.remote import Remote

        try:
            Remote(config.store).refuse_unwritable()
        except OodbenchError as error:
            return f"cannot use the store: {error}"
        return ""
    if not (config.cache / mark).is_file():
        return f"does not see the results folder '{config.cache}'"
    probe = config.cache / f"{mark}-{platform.node()}"
    try:
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        return f"cannot write '{config.cache}' ({error.strerror})"
    return ""


def _plugin_trouble(config: WorkerConfig) -> str:
    try:
        for file in config.plugins:
            registry.load_file(file)
        adopt_all(config.folders)
    except OodbenchError as error:
        return str(error)
    return ""


def check_node(node: str, ours: dict[str, str], theirs: NodeInfo, config: WorkerConfig) -> None:
    """Raise where a node could not do the same work."""
    for what, version in ours.items():
        if theirs.versions.get(what) != version:
            raise UserError(
                f"{what} is {version} here and {theirs.versions.get(what, 'absent')} on node {node}. Install the same "
                "version on all machines: results are to be the same wherever they are made."
            )
    if theirs.store:
        raise StoreError(
            f"Node {node} {theirs.store.rstrip('.')}. Give a folder that all nodes can write, at the same path, with "
            "--results, or a URL with --store."
        )
    if theirs.plugin:
        raise UserError(
            f"Node {node} lacks a file that was named: {theirs.plugin} Put it where all nodes see it at the same path; "
            "a plug-in can also be installed on all of them, as a package with an entry point."
        )
