"""The name of a run identifies it: different names never share a folder, and each command finds a run by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark import read_run
from tests.support import bench, write_suite

MATRIX = '[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek" }]'

GROUPS = [["模型", "модель", "🐈"], ["a/b", "a b", "a_b"], ["k>5", "k<5"], ["x" * 101, "x" * 102]]


def run(folder: Path, name: str, detectors: str, suite: Path | None = None) -> None:
    options: list[str | Path] = ["--suite", suite or write_suite(folder, MATRIX), "--results", folder / "results"]
    result = bench("run", *options, "--detectors", detectors, "--quiet", *(["--name", name] if name else []))
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("names", GROUPS)
def test_each_name_is_its_own_run(tmp_path: Path, names: list[str]) -> None:
    detectors = ["msp", "energy", "max_logit"][: len(names)]
    for name, detector in zip(names, detectors, strict=True):
        run(tmp_path, name, detector)
    results = tmp_path / "results"
    assert len(list((results / "runs").iterdir())) == len(names)
    listed = bench("list", "runs", "--results", results).output
    for name, detector in zip(names, detectors, strict=True):
        assert name in listed
        table = bench("table", name, "--results", results, "--format", "csv")
        assert detector in table.output
        assert table.output.count("digits[0-2]") == 1
        assert bench("verify", name, "--results", results).exit_code == 0
        found = read_run(name, results=results)
        assert found.info["name"] == name
        assert bench("show", found.path.name, "--results", results).exit_code == 0
        assert bench("table", found.path.name, "--results", results, "--format", "csv").output == table.output


@pytest.mark.usefixtures("undrawn")
def test_plain_names_are_the_folders_names(tmp_path: Path) -> None:
    run(tmp_path, "my_run-2.b", "msp")
    assert (tmp_path / "results" / "runs" / "my_run-2.b" / "run.json").is_file()


@pytest.mark.usefixtures("undrawn")
def test_a_suite_files_name_in_another_script_names_the_run(tmp_path: Path) -> None:
    for name, detector in (("набор", "msp"), ("套件", "energy")):
        run(tmp_path, "", detector, write_suite(tmp_path, MATRIX, name=name))
    assert "msp" in bench("table", "набор", "--results", tmp_path / "results").output
    assert "energy" in bench("table", "套件", "--results", tmp_path / "results").output


def test_a_name_of_no_run_is_unknown_though_another_has_its_slug(tmp_path: Path) -> None:
    (tmp_path / "results" / "runs" / "a_b").mkdir(parents=True)
    (tmp_path / "results" / "runs" / "a_b" / "run.json").write_text("{}")
    result = bench("table", "a b", "--results", tmp_path / "results")
    assert result.exit_code == 2
    assert "Unknown run 'a b'. Did you mean 'a_b'?" in result.stderr
