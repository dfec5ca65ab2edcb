"""What an error advises works: commands that are named exist and accept what is advised."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import bench, run_suite, write_suite

MATRIX = '[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek" }]'


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advice")
    run_suite(write_suite(folder, MATRIX))
    return folder / "results"


@pytest.mark.parametrize("metric", ["fpr_at_tpr95", "auroc", "ece", "top_bin_id"])
def test_a_metric_is_no_set_of_metrics(results: Path, metric: str) -> None:
    for command in (["table", "tiny"], ["run"]):
        result = bench(*command, "--metrics", metric, "--results", results)
        assert result.exit_code == 2
        assert f"'{metric}' is one metric; --metrics takes a set of metrics: exact, lee2018, extended." in result.stderr


def test_unknown_rules_are_refused_by_both_commands(results: Path) -> None:
    for command in (["table", "tiny"], ["run"]):
        result = bench(*command, "--metrics", "extendet", "--results", results)
        assert result.exit_code == 2
        assert "Unknown metric rules 'extendet'. Did you mean 'extended'?" in result.stderr


@pytest.mark.parametrize("rules", ["lee2018", "extended"])
def test_the_advised_command_works(results: Path, rules: str) -> None:
    result = bench("table", "tiny", "--metrics", rules, "--results", results)
    assert result.exit_code == 2
    assert f"--metrics {rules}" in result.stderr
    suite = results.parent / "tiny.toml"
    again = bench("run", "--suite", suite, "--detectors", "msp", "--metrics", rules, "--results", results, "--dry-run")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    "option, value, listing",
    [
        ("--id", "digits+no_such_form", "forms"),
        ("--ood", "greek+no_such_form", "forms"),
        ("--ood", "no_such_set", "datasets"),
        ("--detectors", "no_such_detector", "detectors"),
        ("--detectors", "msp@no_such_recipe", "recipes"),
        ("--backbone", "no_such_backbone", "backbones"),
        ("--suite", "no_such_suite", "suites"),
    ],
)
def test_unknown_names_point_to_their_own_list(tmp_path: Path, option: str, value: str, listing: str) -> None:
    result = bench("run", option, value, "--results", tmp_path)
    assert result.exit_code == 2
    assert f"'bench list {listing}' shows all" in result.stderr
    assert bench("list", listing, "--results", tmp_path).exit_code == 0
