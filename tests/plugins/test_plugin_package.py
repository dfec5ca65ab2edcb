"""Plug-ins of an installed package: listed, checked and run like built-ins; a broken one affects no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from oodbench.benchmark.plan.suite_file import default_suite
from oodbench.benchmark.plugins.registry import registry
from tests.support import bench, csv_rows

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).parents[1] / "plugin_package"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
ORIGIN = f"package {PROJECT['name']} {PROJECT['version']}"
BROKEN = "ImportError: this example is broken on purpose (entry point oodbench_example.broken:Broken)"
NAMES = {
    "detectors": {"class_means": f"Distance to the nearest class mean ({ORIGIN})", "broken": f"unavailable: {BROKEN}"},
    "datasets": {"shapes": f"Four drawn shapes ({ORIGIN})"},
    "backbones": {"one_layer": f"One hidden layer ({ORIGIN})"},
    "suites": {"shapes": f"({ORIGIN})"},
}

Bench = Callable[..., Result]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package as pip would install it, visible to this process only."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE / "oodbench_example", site / "oodbench_example")
    info = site / f"oodbench_example-{PROJECT['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n")
    lines = []
    for group, points in PROJECT["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(site))
    registry.refresh()
    yield site
    for name in [name for name in sys.modules if name.partition(".")[0] == "oodbench_example"]:
        del sys.modules[name]
    keys = [key for key, plugin in registry._objects.items() if plugin.__module__.startswith("oodbench_example.")]
    for key in keys:
        del registry._objects[key]
    registry.refresh()


@pytest.fixture
def bench_installed(installed: Path, tmp_path: Path) -> Bench:
    """The command line, with results in a folder of the test."""

    def invoke(*arguments: str) -> Result:
        command = [*arguments]
        if arguments[0] == "run":
            command += ["--results", str(tmp_path / "results"), "--threads", "1", "--quiet"]
        return bench(*command)

    return invoke


def listed(output: str) -> dict[str, str]:
    rows = [line.partition(" ") for line in output.splitlines()]
    return {name: text.strip() for name, _, text in rows}


@pytest.mark.parametrize("kind", NAMES)
def test_the_package_is_listed(bench_installed: Bench, kind: str) -> None:
    result = bench_installed("list", kind)
    assert result.exit_code == 0
    assert {name: listed(result.stdout).get(name) for name in NAMES[kind]} == NAMES[kind]
    assert len(listed(result.stdout)) > len(NAMES[kind])


def test_ours_are_listed_as_without_it(bench_installed: Bench) -> None:
    lines = [
        line
        for line in bench_installed("list", "detectors").stdout.splitlines()
        if ORIGIN not in line and BROKEN not in line
    ]
    assert [line.split()[0] for line in lines] == [
        name for name, entry in registry.entries("detector").items() if entry.origin.startswith("oodbench.")
    ]
    assert registry.entries("suite")[default_suite()].origin == "built-in"


@pytest.mark.parametrize("name", ["class_means", "shapes", "one_layer"])
def test_the_package_keeps_the_contract(bench_installed: Bench, name: str) -> None:
    result = bench_installed("check", name)
    assert result.exit_code == 0, result.output
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}


def test_what_is_broken_fails_its_check_with_the_reason(bench_installed: Bench) -> None:
    result = bench_installed("check", "broken", "shapes")
    assert result.exit_code == 1
    assert f"failed   detector broken: import: {BROKEN}" in result.stdout
    assert "ok       dataset shapes: check_dataset" in result.stdout


def test_cards_tell_where_a_plugin_comes_from(bench_installed: Bench) -> None:
    text = bench_installed("show", "class_means").stdout
    assert ORIGIN in text
    assert "normalise=false" in text
    assert "unavailable:" in bench_installed("show", "broken").stdout


def test_the_package_runs_and_is_stored_like_ours(bench_installed: Bench, tmp_path: Path) -> None:
    command = ["run", "--suite", "shapes", "--detectors", "class_means[normalise=true],class_means,msp"]
    result = bench_installed(*command)
    assert result.exit_code == 0, result.output
    run = tmp_path / "results" / "runs" / "shapes"
    rows = csv_rows((run / "records.csv").read_text())
    assert {(row["id_set"], row["backbone"], row["recipe"], row["status"]) for row in rows} == {
        ("shapes", "one_layer", "cross_entropy", "ok")
    }
    assert [(row["detector"], json.loads(row["settings"]), row["ood_set"]) for row in rows] == [
        (detector, settings, ood)
        for detector, settings in (("class_means", {"normalise": True}), ("class_means", {}), ("msp", {}))
        for ood in ("shapes+inverted", "uniform")
    ]
    assert "class_means" in (run / "table.csv").read_text()
    again = bench_installed(*command, "--dry-run")
    assert ", 0 to do" in again.stdout
    assert ", 1 to do" not in again.stdout


def test_a_changed_package_is_run_anew(bench_installed: Bench, installed: Path) -> None:
    """Its version is the hash of its source, as for built-ins."""
    command = ["run", "--suite", "shapes", "--detectors", "class_means", "--ood", "uniform"]
    assert bench_installed(*command).exit_code == 0
    module = installed / "oodbench_example" / "class_means.py"
    module.write_text(module.read_text().replace("amin(dim=1)", "amin(dim=1) + 1"))
    again = bench_installed(*command, "--dry-run").stdout
    kinds = {line.split()[0]: line for line in again.splitlines() if re.search(r" jobs?, ", line)}
    assert kinds["train"].endswith(", 0 to do")
    assert kinds["extract"].endswith(", 0 to do")
    assert kinds["fit"].endswith(", 1 to do")
    assert kinds["score"].endswith(", 3 to do")  # ID, OOD, and changed ID images


def test_what_is_broken_is_noted_through_all_and_refused_by_name(bench_installed: Bench) -> None:
    plan = bench_installed("run", "--suite", "shapes", "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert f"  unavailable: broken: {BROKEN}" in plan.stdout.splitlines()
    refused = bench_installed("run", "--suite", "shapes", "--detectors", "broken,msp")
    assert refused.exit_code == 2
    assert refused.stderr == f"Error: {BROKEN}\n"


@pytest.mark.slow
def test_the_package_installs_and_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    """As a user would do it: pip install, then the command line."""
    source, site, results = tmp_path / "source", tmp_path / "site", tmp_path / "results"
    shutil.copytree(PACKAGE, source)  # building writes files next to the sources
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    built = subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(site), str(source)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "2"}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-m", "oodbench.benchmark", *arguments]
        return subprocess.run(whole, env=environment, cwd=tmp_path, capture_output=True, text=True)

    for kind, names in NAMES.items():
        done = command("list", kind)
        assert done.returncode == 0, done.stderr
        assert {name: listed(done.stdout).get(name) for name in names} == names

    done = command("check", "class_means", "shapes", "one_layer")
    assert done.returncode == 0, done.stdout + done.stderr

    done = command("run", "--suite", "shapes", "--results", str(results), "--threads", "2", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    run = results / "runs" / "shapes"
    info = json.loads((run / "run.json").read_text())
    assert {"name": "broken", "reason": BROKEN} in info["unavailable"]
    rows = csv_rows((run / "records.csv").read_text())
    methods = {row["detector"] for row in rows if row["status"] == "ok"}
    assert {"class_means", "msp"} <= methods
    assert "broken" not in methods
    assert "class_means" in (run / "table.csv").read_text()
    assert "this example is broken on purpose" in (run / "table.md").read_text()
