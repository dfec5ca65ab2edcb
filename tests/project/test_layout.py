"""The layout: few names at the top, small packages, short files, short functions, and guards for what a move breaks."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark import Batch, Detector, Run
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import source_version
from oodbench.benchmark.records import environment
from oodbench.benchmark.runner import write_views
from oodbench.benchmark.store.store import Key
from tests.support import ROOT, folders, in_repository, syntax

BENCHMARK = ROOT / "benchmark"
SOURCES = sorted(BENCHMARK.rglob("*.py"))
PACKAGES = sorted({path.parent for path in SOURCES})
BESIDE = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}


def test_the_top_folder_has_at_most_20_names() -> None:
    names = {path.name for path in BENCHMARK.iterdir()} - BESIDE
    assert len(names) <= 20, sorted(names)


@pytest.mark.parametrize("package", PACKAGES, ids=in_repository)
def test_a_package_has_at_most_20_files(package: Path) -> None:
    assert len(list(package.glob("*.py"))) <= 20


@pytest.mark.parametrize("package", PACKAGES, ids=in_repository)
def test_a_package_says_what_it_is_for(package: Path) -> None:
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    assert len(text) > 20


@pytest.mark.parametrize("folder", folders(SOURCES), ids=in_repository)
def test_files_and_functions_are_short(folder: Path) -> None:
    for path in folder.glob("*.py"):
        assert path.read_text(encoding="utf-8").count("\n") <= 350, path
        for node in ast.walk(syntax(path)):
            if (
                isinstance(node, ast.FunctionDef) and node.name != "run"
            ):  # its signature and docstring are the API's page
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body and body[-1].end_lineno else 0
                assert lines <= 70, f"{path}: {node.name} has {lines} lines"


# What a move breaks without a sound


def test_the_commit_is_that_of_the_checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = environment.made_now()["commit"]
    assert commit is not None
    assert commit["id"] == head.stdout.strip()


def test_views_are_redrawn_when_any_of_their_sources_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = write_views.view_sources()
    assert {path.relative_to(BENCHMARK.resolve()).parts[0] for path in map(Path.resolve, sources)} == set(
        write_views.VIEW_PACKAGES
    )
    for name in ("views/tables/files.py", "views/plots/draw.py", "records/csv_file.py", "metrics/exact.py"):
        assert (BENCHMARK / name).resolve() in map(Path.resolve, sources)
    run = Run(tmp_path, {"name": "empty"}, [])
    copies = []
    for place, path in enumerate(sources):
        copies.append(tmp_path / f"{place}.py")
        copies[-1].write_bytes(path.read_bytes())
    monkeypatch.setattr(write_views, "view_sources", lambda: copies)
    before = write_views._view_inputs(run)
    assert write_views._view_inputs(run) == before
    copies[-1].write_bytes(copies[-1].read_bytes() + b"MORE = 1\n")
    assert write_views._view_inputs(run) != before


def test_suites_are_found() -> None:
    files = {path.stem for path in (BENCHMARK / "suites").glob("*.toml")}
    assert files
    assert {name for name, entry in registry.entries("suite").items() if entry.origin == "built-in"} == files


class Pinned(Detector):
    """A detector whose version is pinned."""

    version = "1"
    factor: float = 2.0

    def score(self, batch: Batch) -> Any:
        return batch.logits[:, 0]


def test_a_key_follows_from_its_content_alone() -> None:
    """The digest of these keys was written down before the modules moved: stores made then are still valid."""
    key = Key("scores", ".npy", "pinned--digits", {"detector": {"name": "pinned", "version": "1"}, "seed": 0})
    assert key.digest == "d530068c140dff8ae377892f177ec97f0a27974c6923ff0ece567764c1d547c9"
    assert key.path == "scores/pinned--digits-d530068c140d.npy"
    assert source_version(Pinned) == "1"


def test_one_module_reads_toml() -> None:
    """Bounds, byte-order marks and line ends are its business."""
    code = [
        path for path in (ROOT / "benchmark").rglob("*.py") if re.search(r"import tom(llib|li)\b", path.read_text())
    ]
    assert [path.relative_to(ROOT / "benchmark").as_posix() for path in code] == ["store/toml_file.py"]
