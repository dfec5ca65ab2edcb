"""Fixtures for tests that change the registry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oodbench.benchmark.plugins.registry import registry
from tests.plugins.distributions import Install


@pytest.fixture
def registry_as_before() -> Iterator[None]:
    """Remove what a test registered and imported; built-ins that it imported first stay."""
    objects, files, modules = dict(registry._objects), dict(registry._from_files), set(sys.modules)
    registry.refresh()
    yield
    builtins = {key: plugin for key, plugin in registry._objects.items() if plugin.__module__.startswith("oodbench.")}
    registry._objects = {**builtins, **objects}
    registry._from_files = files
    registry.refresh()
    for name in set(sys.modules) - modules:
        if name.startswith(("oodbench_plugin_", "strange_")):
            del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution as pip does: its modules, and a .dist-info folder with its entry points."""

    def lay_out(project: str, points: dict[str, dict[str, str]], modules: dict[str, str]) -> None:
        site = tmp_path / f"site-{project}"
        info = site / f"{project.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
        lines = [
            f"[oodbench.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points[group].items()) for group in points
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for file, text in modules.items():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text(text)
        monkeypatch.syspath_prepend(str(site))
        registry.refresh()

    return lay_out
