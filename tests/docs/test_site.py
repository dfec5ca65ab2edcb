"""The documentation site: the Python API is complete, the site builds without a warning and needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from oodbench import benchmark
from tests.docs.pages import ROOT, read


def test_the_api_page_documents_every_public_name() -> None:
    documented = re.findall(r"^::: (oodbench\.benchmark\.\S+)$", read("reference/api.md"), re.MULTILINE)
    expected = [f"oodbench.benchmark.{benchmark._HOME[name]}.{name}" for name in benchmark.__all__]
    assert sorted(documented) == sorted(expected)


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version('oodbench')}\n" in citation
    assert f"version = {{{version('oodbench')}}}" in read("guides/citing.md")
    assert "arXiv:1711.09325" in citation


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason="building the site needs mkdocs-material and mkdocstrings[python]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    lines = [line for line in built.stderr.splitlines() if line.startswith(("WARNING", "ERROR", "INFO    -  Doc file"))]
    assert lines == []
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "in-distribution (ID) and OOD image sets" in " ".join(home.split())
    api = (tmp_path / "site" / "reference" / "api.html").read_text(encoding="utf-8")
    assert 'id="oodbench.benchmark.plugins.detector.Detector.score"' in api
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', home + api)
    assert loaded == [], "pages load nothing from elsewhere"
