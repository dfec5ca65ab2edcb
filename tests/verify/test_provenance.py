"""Records have their provenance, and cells are found by name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.cell_names import cell_name, find_cell
from oodbench.benchmark.records.run import read_stored_run
from tests.support import TINY_BACKBONE, bench, run_suite


def test_a_record_has_its_provenance(finished: Path) -> None:
    run = read_stored_run(finished / "runs/tiny")
    record = find_cell(run.records, "digits[0-1]/greek/knn")
    provenance = record.provenance
    assert provenance["needs"] == ["features", "similarities"]
    assert {(used["use"], used["set"], used["part"]) for used in provenance["data"]} == {
        ("train", "digits[0-1]", "train"),
        ("fit", "digits[0-1]", "train"),
        ("fit", "digits[0-1]", "validation"),
        ("score", "digits[0-1]", "test"),
        ("score", "greek", "test"),
    }
    assert provenance["resolved"]["detector"]["settings"]["k"] == 3
    assert provenance["resolved"]["schedule"]["epochs"] == 1
    assert provenance["made"]["threads"] == run.info["threads"] == 1
    kinds = [artifact["kind"] for artifact in provenance["artifacts"]]
    assert kinds[0] == "checkpoint"
    assert kinds.count("scores") == 2
    assert kinds.count("fit") == 1
    assert kinds.count("features") == kinds.count("logits") == 4  # ID test, OOD test, train, validation
    for artifact in provenance["artifacts"]:
        content = (finished / "cache" / artifact["path"]).read_bytes()
        assert artifact["sha256"] == hashlib.sha256(content).hexdigest()
        assert artifact["seconds"] >= 0
        assert artifact["written"] <= provenance["made"]["written"]
    if peaks := [artifact["peak_memory"] for artifact in provenance["artifacts"] if "peak_memory" in artifact]:
        assert record.peak_memory == max(peaks)
        assert 1e7 < max(peaks) < 1e11


def test_settings_that_a_rule_chose_are_in_the_record_and_on_its_page(finished: Path, tmp_path: Path) -> None:
    results = shutil.copytree(finished, tmp_path / "results")
    text = (finished.parent / "tiny.toml").read_text().replace(TINY_BACKBONE, "small_cnn[hidden=16,width=8]")
    suite = tmp_path / "rules.toml"
    suite.write_text(text)  # wider, so that its features span some directions
    for _ in range(2):  # fitted, then found in the store
        run = run_suite(suite, "residual,residual[dim=3],ash", results=results)
        chosen = {
            cell_name(record): [made["chosen"] for made in record.provenance["artifacts"] if "chosen" in made]
            for record in run.records
            if record.ood_set == "greek"
        }
        start = "digits[0-1]/greek/"
        assert chosen[f"{start}residual[dim=3]/0"] == []
        ((dim,), (percentile,)) = (chosen[f"{start}{name}/0"] for name in ("residual", "ash"))
        assert 1 <= dim["dim"] <= 64
        assert 50 <= percentile["percentile"] < 90
        page = bench("show", "rules", "--results", results, "--cell", f"{start}residual").output
        assert f'  by rule    {{"dim": {dim["dim"]}}}\n' in page
        assert "by rule" not in bench("show", "rules", "--results", results, "--cell", f"{start}residual[dim=3]").output


def test_cells_are_found_by_name(finished: Path) -> None:
    records = read_stored_run(finished / "runs/tiny").records
    for record in records:
        assert find_cell(records, cell_name(record)) is record
        assert find_cell(records, cell_name(record).removesuffix("/0")) is record
    assert find_cell(records, "*/uniform/msp/*").label == "msp"
    with pytest.raises(UserError, match=r"'\*/greek' matches 2 cells: .*greek/msp/0, .*greek/knn.k=3./0\. Name one"):
        find_cell(records, "*/greek")
    with pytest.raises(UserError, match=r"no cell 'digits.0-1./grek/msp'\. Did you mean 'digits.0-1./greek/msp'\?"):
        find_cell(records, "digits[0-1]/grek/msp")
    with pytest.raises(UserError, match=r"Write ID_SET/OOD_SET/DETECTOR"):
        find_cell(records, "zzz/zzz")


def test_settings_that_a_run_was_resolved_to_are_in_run_json(finished: Path) -> None:
    run = read_stored_run(finished / "runs/tiny")
    (options,) = run.info["commands"]
    assert options["threads"] == 1
    assert options["precision"] in ("float32", "bfloat16")
    assert options["suite_toml"] == (finished.parent / "tiny.toml").read_text()
    assert Path(options["suite"]).is_absolute()
