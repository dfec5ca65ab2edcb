"""`bench verify` finds what is wrong and nothing else; `bench show RUN --cell` shows what a cell was computed from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.records.cell_names import find_cell
from oodbench.benchmark.records.run import read_stored_run
from tests.support import bench, run_suite, write_suite


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy that tests may damage."""
    copy: Path = shutil.copytree(finished, tmp_path / "results")
    return copy


def record_file(results: Path, detector: str, ood: str) -> Path:
    return next((results / "runs/tiny/cells").glob(f"{detector}*--{ood}--*.json"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def artifact(results: Path, detector: str, ood: str, which: str) -> Path:
    path: str = json.loads(record_file(results, detector, ood).read_text())["artifacts"][which]
    return results / "cache" / path


def files_and_times(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_all_is_well_and_nothing_changes(results: Path) -> None:
    before = files_and_times(results)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("tiny: No problems: 4 cells, 36 metrics, 36 intervals, ")
    assert done.output.count("\n") == 1
    after = {path: content for path, content in files_and_times(results).items() if "cache/data" not in path.as_posix()}
    assert {path: content for path, content in before.items() if path in after} == after


def wrong_metric(results: Path) -> None:
    edit(record_file(results, "msp", "greek"), lambda r: r["metrics"].update(auroc=0.75))


def wrong_accuracy(results: Path) -> None:
    edit(record_file(results, "msp", "greek"), lambda r: r.update(id_accuracy=0.125))


def wrong_interval(results: Path) -> None:
    edit(record_file(results, "msp", "greek"), lambda r: r["intervals"]["aupr_in"].__setitem__(1, 0.9990001))


def other_best(results: Path) -> None:
    edit(results / "runs/tiny/best.json", lambda best: best["columns"][0].update(units=[797, 1000]))


def wrong_count(results: Path) -> None:
    edit(record_file(results, "knn", "uniform"), lambda r: r.update(n_ood=7))


def wrong_key(results: Path) -> None:
    edit(record_file(results, "knn", "uniform"), lambda r: r.update(key="0" * 64))


def damaged_scores(results: Path) -> None:
    path = artifact(results, "msp", "greek", "ood_scores")
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))


def damaged_checkpoint(results: Path) -> None:
    path = artifact(results, "msp", "greek", "checkpoint")
    path.write_bytes(path.read_bytes() + b" ")


def checkpoint_gone(results: Path) -> None:
    artifact(results, "msp", "greek", "checkpoint").unlink()


def side_file_gone(results: Path) -> None:
    path = artifact(results, "knn", "greek", "ood_scores")
    path.with_name(path.name + ".json").unlink()


def side_file_of_another_key(results: Path) -> None:
    path = artifact(results, "knn", "greek", "ood_scores")
    edit(path.with_name(path.name + ".json"), lambda side: side["key"].update(scoring="0"))


def scores_recomputed(results: Path) -> None:
    """Another array with a matching side file: only the record shows that it has changed."""
    path = artifact(results, "knn", "greek", "ood_scores")
    np.save(path, np.load(path)[::-1])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(path.with_name(path.name + ".json"), lambda side: side.update(sha256=sha256))


def other_table(results: Path) -> None:
    path = results / "runs/tiny/table.csv"
    path.write_bytes(path.read_bytes() + b"\n")


def table_gone(results: Path) -> None:
    (results / "runs/tiny/table.tex").unlink()


def record_gone(results: Path) -> None:
    record_file(results, "knn", "greek").unlink()


def damaged_record(results: Path) -> None:
    record_file(results, "knn", "greek").write_text("{")


KNN, MSP = "digits[0-1]/{}/knn[k=3]/0", "digits[0-1]/{}/msp/0"


@pytest.mark.parametrize(
    "damage, expected",
    [
        (wrong_metric, [MSP.format("greek") + ": auroc is 0.75 in the record, but 0."]),
        (wrong_accuracy, [MSP.format("greek") + ": id_accuracy is 0.125 in the record, but 0."]),
        (
            wrong_interval,
            [
                MSP.format("greek")
                + ": the high end of the interval of aupr_in is 0.9990001 in the record, but 1.0 from its artifacts"
            ],
        ),
        (other_best, ["best.json: the best detectors of digits[0-1] against greek are not what the scores give"]),
        (wrong_count, [KNN.format("uniform") + ": n_ood is 7 in the record, but 1000 from its artifacts"]),
        (wrong_key, [KNN.format("uniform") + ": its key does not match its scores and metrics"]),
        (damaged_scores, [": damaged: its SHA-256 is ", "; 1 cell depends on it: " + MSP.format("greek")]),
        (
            damaged_checkpoint,
            ["checkpoint/cross_entropy", ": damaged: its SHA-256 is ", "; 4 cells depend on it: ", " and 1 more"],
        ),
        (checkpoint_gone, [": missing; 4 cells depend on it: "]),
        (side_file_gone, [": damaged: its side file is missing or cannot be read; 1 cell depends on it"]),
        (side_file_of_another_key, [": damaged: its side file has another key; 1 cell depends on it"]),
        (scores_recomputed, [": recomputed since: its SHA-256 is ", "; 1 cell depends on it: " + KNN.format("greek")]),
        (other_table, ["table.csv: its bytes are not what the scores give; 'bench table tiny' writes it again"]),
        (table_gone, ["table.tex: missing; 'bench table tiny' writes it"]),
        (damaged_record, ["cells/knn", "cannot be read as JSON"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_problem_is_reported_alone(results: Path, damage: Callable[[Path], None], expected: list[str]) -> None:
    damage(results)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1, done.output
    problem, summary = done.output.splitlines()
    for text in expected:
        assert text in problem
    assert summary.startswith("tiny: 1 problem in ")


def test_a_cell_without_a_record_is_reported(results: Path) -> None:
    record_gone(results)
    done = bench("verify", results / "runs/tiny", "--results", results)
    assert done.exit_code == 1
    assert "--greek--s0" in done.output.splitlines()[0]
    assert ": missing; the run was stopped before it" in done.output.splitlines()[0]


def forget_provenance(results: Path) -> None:
    """Make the records look like those of an older version, with tables that say nothing on the machine."""
    for path in (results / "runs/tiny/cells").iterdir():
        edit(path, lambda record: [record.pop(name) for name in ("provenance", "peak_memory")])
    assert bench("table", "tiny", "--results", results).exit_code == 0


def test_older_records_verify_as_well(results: Path) -> None:
    forget_provenance(results)
    assert all(record.provenance == {} for record in read_stored_run(results / "runs/tiny").records)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0, done.output
    damaged_checkpoint(results)
    path = next((results / "cache/features").glob("*train*.npy"))  # only the fit depends on it
    path.write_bytes(path.read_bytes() + b" ")
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    assert [line.partition("/")[0] for line in done.output.splitlines()[:-1]] == ["checkpoint", "features"]
    assert "2 cells depend on it: " + KNN.format("greek") in done.output


def test_what_cannot_be_checked_is_reported(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench.benchmark.data.library import Library
    from oodbench.benchmark.errors import DataError

    def absent(*_: object) -> None:
        raise DataError("it is not here")

    monkeypatch.setattr(Library, "part", absent)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0
    assert "not checked for 4 cells: ID accuracy, whose images are not in --data-dir" in done.output
    assert "not checked for 4 cells: confidence intervals, whose images are not in --data-dir" in done.output
    assert "not checked for 4 cells: the best detectors, whose images are not in --data-dir" in done.output


def test_an_unknown_run_is_exit_code_two(results: Path) -> None:
    done = bench("verify", "tinny", "--results", results)
    assert (done.exit_code, "Did you mean 'tiny'?" in done.output) == (2, True)


def test_a_cell_is_shown_with_its_images_and_weights(results: Path) -> None:
    done = bench("show", "tiny", "--results", results, "--cell", "*/greek/knn")
    assert done.exit_code == 0, done.output
    record = find_cell(read_stored_run(results / "runs/tiny").records, "*/greek/knn")
    assert f"auroc                {record.metrics['auroc']}" in done.output
    for made in record.provenance["artifacts"]:
        assert made["path"] in done.output
        assert made["sha256"] in done.output
    assert "MISSING" not in done.output
    checkpoint_gone(results)
    assert bench("show", "tiny", "--results", results, "--cell", "*/greek/knn").output.count("MISSING") == 1
    forget_provenance(results)
    older = bench("show", "tiny", "--results", results, "--cell", "*/greek/knn").output
    assert "not recorded by the version that made it" in older
    assert all(made["sha256"] in older for made in record.provenance["artifacts"])


@pytest.mark.slow
def test_verify_and_show_import_no_torch(results: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom oodbench.benchmark.cli import main\n"
        f"where = ['--results', {str(results)!r}]\n"
        "main(['verify', 'tiny', *where], standalone_mode=False)\n"
        "main(['show', 'tiny', '--cell', '*/greek/msp', *where], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith("False")


def test_best_detectors_of_other_records_are_reported(results: Path) -> None:
    edit(results / "runs/tiny/best.json", lambda best: best.update(inputs="0" * 64))
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    problems = done.output.splitlines()
    assert problems[0].startswith("best.json: it cannot be read or is from other records")
    # Views do not show an outdated file, so the tables differ, too; the run's command repairs everything.
    assert [line.partition(":")[0] for line in problems[1:-1]] == ["table.csv", "table.md", "table.tex"]


EXTENDED = """
[[id]]
set = "digits[0-1]"
shifted = ["digits[0-1]+faded"]
ood = [{ set = "greek" }]
"""


@pytest.fixture(scope="module")
def with_extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suite = write_suite(tmp_path_factory.mktemp("extended"), EXTENDED)
    run_suite(suite, "msp,energy", metrics="extended")
    return suite.parent / "results"


@pytest.mark.parametrize("name", ["nll", "oscr", "tnr_validation", "fs_auroc", "shifted_accuracy"])
def test_extended_metrics_are_recomputed(with_extended: Path, name: str, tmp_path: Path) -> None:
    results: Path = shutil.copytree(with_extended, tmp_path / "results")
    done = bench("verify", "tiny", "--results", results)
    assert (done.exit_code, "not checked" in done.output) == (0, False), done.output
    edit(record_file(results, "msp", "greek"), lambda r: r["extended"].update({name: r["extended"][name] + 1e-6}))
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    problems = [line for line in done.output.splitlines() if line.startswith("digits")]
    assert len(problems) == 1
    assert problems[0].startswith(f"digits[0-1]/greek/msp/0: {name} is ")


def test_extended_metrics_without_provenance_are_not_checked(with_extended: Path, tmp_path: Path) -> None:
    results: Path = shutil.copytree(with_extended, tmp_path / "results")
    for path in (results / "runs/tiny/cells").iterdir():
        edit(path, lambda record: record.pop("provenance"))
    assert bench("table", "tiny", "--results", results).exit_code == 0  # without the line on the machine
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0, done.output
    assert "not checked for 2 cells: extended metrics, which another version computed" in done.output
    assert "not checked for 2 cells: AUROC by class, which another version computed" in done.output


def of_class(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda record: change(record["by_class"])


FORGED_CLASSES = {
    "an AUROC": (
        of_class(lambda c: c["ood"][3].update(auroc=0.75)),
        "AUROC of the OOD class 'mu' is 0.75 in the record",
    ),
    "an interval": (
        of_class(lambda c: c["id"][0].update(low=0.01)),
        "the low end of the interval of AUROC of the ID class '0' is 0.01 in the record",
    ),
    "a pair": (of_class(lambda c: c["pairs"][1].__setitem__(2, 0.125)), "the AUROCs of its pairs of classes are not"),
    "no pairs": (of_class(lambda c: c.update(pairs=[])), "the AUROCs of its pairs of classes are not those of"),
    "a class": (of_class(lambda c: c["ood"][3].update(images=61)), "its OOD classes are not those of its images"),
    "nothing": (of_class(lambda c: c.update(id=[], ood=[], pairs=[])), "its ID classes are not those of its images"),
}


@pytest.mark.parametrize("case", FORGED_CLASSES)
def test_auroc_by_class_is_recomputed(with_extended: Path, case: str, tmp_path: Path) -> None:
    results: Path = shutil.copytree(with_extended, tmp_path / "results")
    change, sentence = FORGED_CLASSES[case]
    record = json.loads(record_file(results, "msp", "greek").read_text())["by_class"]
    assert [len(record["id"]), len(record["ood"]), len(record["pairs"])] == [2, 10, 2]
    edit(record_file(results, "msp", "greek"), change)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    (problem,) = [line for line in done.output.splitlines() if line.startswith("digits")]
    assert problem.startswith(f"digits[0-1]/greek/msp/0: {sentence}"), problem


def test_a_matrix_of_other_classes_is_not_a_record(with_extended: Path, tmp_path: Path) -> None:
    results: Path = shutil.copytree(with_extended, tmp_path / "results")
    edit(record_file(results, "msp", "greek"), of_class(lambda c: c["pairs"].pop()))
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    assert "is not a cell record: 'by_class' is" in done.output
    assert "expected 2 rows of 10 pairs of classes" in done.output
