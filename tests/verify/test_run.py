"""`bench verify` finds what is wrong and nothing else; `bench show RUN --cell` tells from what a cell was made."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from oodbench.benchmark.cli import main
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.cell_names import cell_name, find_cell
from oodbench.benchmark.records.run import Run, read_run

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }, { set = "uniform" }]
"""


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_suite: Callable[[str], str], tiny_run: Callable[..., Run]
) -> Path:
    """A results folder with one finished run of four cells, called 'tiny'."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "tiny.toml").write_text(tiny_suite(MATRIX))
    tiny_run(folder / "tiny.toml", "msp,knn[k=3]", results=folder / "results")
    return folder / "results"


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy: Path = shutil.copytree(finished, tmp_path / "results")
    return copy


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def record_file(results: Path, detector: str, ood: str) -> Path:
    return next((results / "runs/tiny/cells").glob(f"{detector}*--{ood}--*.json"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def artifact(results: Path, detector: str, ood: str, which: str) -> Path:
    path: str = json.loads(record_file(results, detector, ood).read_text())["artifacts"][which]
    return results / "cache" / path


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_all_is_well_and_nothing_changes(results: Path) -> None:
    before = files(results)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("tiny: All is well: 4 cells, 36 metrics, 36 intervals, ")
    assert done.output.count("\n") == 1
    after = {path: content for path, content in files(results).items() if "cache/data" not in path.as_posix()}
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


def scores_made_anew(results: Path) -> None:
    """Another array, with a side file that fits it: only the record knows that it is another."""
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
    "spoil, told",
    [
        (wrong_metric, [MSP.format("greek") + ": auroc is 0.75 in the record and 0."]),
        (wrong_accuracy, [MSP.format("greek") + ": id_accuracy is 0.125 in the record and 0."]),
        (
            wrong_interval,
            [MSP.format("greek") + ": the interval's high end of aupr_in is 0.9990001 in the record and 0."],
        ),
        (other_best, ["best.json: who may be the best of digits[0-1] against greek is not what the scores give"]),
        (wrong_count, [KNN.format("uniform") + ": n_ood is 7 in the record and 1000 from its artifacts"]),
        (wrong_key, [KNN.format("uniform") + ": its key is not that of its scores and metrics"]),
        (damaged_scores, [": damaged: its SHA-256 is ", "; 1 cell on it: " + MSP.format("greek")]),
        (
            damaged_checkpoint,
            ["checkpoint/cross_entropy", ": damaged: its SHA-256 is ", "; 4 cells on it: ", " and 1 more"],
        ),
        (checkpoint_gone, [": not there; 4 cells on it: "]),
        (side_file_gone, [": damaged: it has no side file that can be read; 1 cell on it"]),
        (side_file_of_another_key, [": damaged: its side file is that of another key; 1 cell on it"]),
        (scores_made_anew, [": made anew since: its SHA-256 is ", "; 1 cell on it: " + KNN.format("greek")]),
        (other_table, ["table.csv: its bytes are not what the scores give; 'bench table tiny' writes it anew"]),
        (table_gone, ["table.tex: not there; 'bench table tiny' writes it"]),
        (damaged_record, ["cells/knn", "cannot be read as JSON"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_told_and_nothing_else(results: Path, spoil: Callable[[Path], None], told: list[str]) -> None:
    spoil(results)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1, done.output
    problem, summary = done.output.splitlines()
    for text in told:
        assert text in problem
    assert summary.startswith("tiny: 1 problems in ")


def test_a_cell_without_a_record_is_told(results: Path) -> None:
    record_gone(results)
    done = bench("verify", results / "runs/tiny", "--results", results)
    assert done.exit_code == 1
    assert "--greek--s0" in done.output.splitlines()[0]
    assert ": not there; the run was stopped before it" in done.output.splitlines()[0]


def forget_provenance(results: Path) -> None:
    """Make the records what an older version wrote."""
    for path in (results / "runs/tiny/cells").iterdir():
        edit(path, lambda record: [record.pop(name) for name in ("provenance", "peak_memory")])


def test_older_records_verify_as_well(results: Path) -> None:
    forget_provenance(results)
    assert all(record.provenance == {} for record in read_run(results / "runs/tiny").records)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0, done.output
    damaged_checkpoint(results)
    path = next((results / "cache/features").glob("*train*.npy"))  # what only the fit hangs on
    path.write_bytes(path.read_bytes() + b" ")
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    assert [line.partition("/")[0] for line in done.output.splitlines()[:-1]] == ["checkpoint", "features"]
    assert "2 cells on it: " + KNN.format("greek") in done.output


def test_what_cannot_be_checked_here_is_told(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from oodbench.benchmark.data.library import Library
    from oodbench.benchmark.errors import DataError

    def absent(*_: object) -> None:
        raise DataError("it is not here")

    monkeypatch.setattr(Library, "part", absent)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0
    assert "not checked for 4 cells: ID accuracy, whose images are not in --data-dir" in done.output
    assert "not checked for 4 cells: confidence intervals, whose images are not in --data-dir" in done.output
    assert "not checked for 4 cells: who may be the best, whose images are not in --data-dir" in done.output


def test_an_unknown_run_is_exit_code_two(results: Path) -> None:
    done = bench("verify", "tinny", "--results", results)
    assert (done.exit_code, "Did you mean 'tiny'?" in done.output) == (2, True)


def test_a_record_tells_from_what_it_was_made(finished: Path) -> None:
    run = read_run(finished / "runs/tiny")
    record = find_cell(run.records, "digits[0-1]/greek/knn")
    told = record.provenance
    assert told["needs"] == ["features", "similarities"]
    assert {(used["use"], used["set"], used["part"]) for used in told["data"]} == {
        ("train", "digits[0-1]", "train"),
        ("fit", "digits[0-1]", "train"),
        ("fit", "digits[0-1]", "validation"),
        ("score", "digits[0-1]", "test"),
        ("score", "greek", "test"),
    }
    assert told["resolved"]["detector"]["settings"]["k"] == 3
    assert told["resolved"]["schedule"]["epochs"] == 1
    assert told["made"]["threads"] == run.info["threads"] == 1
    kinds = [made["kind"] for made in told["artifacts"]]
    assert kinds[0] == "checkpoint"
    assert kinds.count("scores") == 2
    assert kinds.count("fit") == 1
    assert kinds.count("features") == kinds.count("logits") == 4  # ID test, OOD test, train, validation
    for made in told["artifacts"]:
        content = (finished / "cache" / made["path"]).read_bytes()
        assert made["sha256"] == hashlib.sha256(content).hexdigest()
        assert made["seconds"] >= 0
        assert made["written"] <= told["made"]["written"]
    if peaks := [made["peak_memory"] for made in told["artifacts"] if "peak_memory" in made]:
        assert record.peak_memory == max(peaks)
        assert 1e7 < max(peaks) < 1e11


def test_a_cell_is_shown_back_to_its_images_and_weights(results: Path) -> None:
    done = bench("show", "tiny", "--results", results, "--cell", "*/greek/knn")
    assert done.exit_code == 0, done.output
    record = find_cell(read_run(results / "runs/tiny").records, "*/greek/knn")
    assert f"auroc                {record.metrics['auroc']}" in done.output
    for made in record.provenance["artifacts"]:
        assert made["path"] in done.output
        assert made["sha256"] in done.output
    assert "NOT THERE" not in done.output
    checkpoint_gone(results)
    assert bench("show", "tiny", "--results", results, "--cell", "*/greek/knn").output.count("NOT THERE") == 1
    forget_provenance(results)
    older = bench("show", "tiny", "--results", results, "--cell", "*/greek/knn").output
    assert "not recorded by the version that made it" in older
    assert all(made["sha256"] in older for made in record.provenance["artifacts"])


def test_cells_are_found_by_name(finished: Path) -> None:
    records = read_run(finished / "runs/tiny").records
    for record in records:
        assert find_cell(records, cell_name(record)) is record
        assert find_cell(records, cell_name(record).removesuffix("/0")) is record
    assert find_cell(records, "*/uniform/msp/*").label == "msp"
    with pytest.raises(UserError, match=r"'\*/greek' names 2 cells: .*greek/msp/0, .*greek/knn.k=3./0\. Name one"):
        find_cell(records, "*/greek")
    with pytest.raises(UserError, match=r"no cell 'digits.0-1./grek/msp'\. Did you mean 'digits.0-1./greek/msp'\?"):
        find_cell(records, "digits[0-1]/grek/msp")
    with pytest.raises(UserError, match=r"Write ID_SET/OOD_SET/DETECTOR"):
        find_cell(records, "zzz/zzz")


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


def test_settings_that_a_run_was_resolved_to_are_in_run_json(finished: Path, tiny_suite: Callable[[str], str]) -> None:
    run: Run = read_run(finished / "runs/tiny")
    (options,) = run.info["commands"]
    assert options["threads"] == 1
    assert options["precision"] in ("float32", "bfloat16")
    assert options["suite_toml"] == tiny_suite(MATRIX)
    assert Path(options["suite"]).is_absolute()


def test_a_judgement_of_other_records_is_told(results: Path) -> None:
    edit(results / "runs/tiny/best.json", lambda best: best.update(inputs="0" * 64))
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    problems = done.output.splitlines()
    assert problems[0].startswith("best.json: it cannot be read, or judges other records")
    # Views do not show it, so that the tables are others as well; the command that made the run mends all of it.
    assert [line.partition(":")[0] for line in problems[1:-1]] == ["table.csv", "table.md", "table.tex"]


EXTENDED = """
[[id]]
set = "digits[0-1]"
shifted = ["digits[0-1]+faded"]
ood = [{ set = "greek" }]
"""


@pytest.fixture(scope="module")
def with_extended(
    tmp_path_factory: pytest.TempPathFactory, tiny_suite: Callable[[str], str], tiny_run: Callable[..., Run]
) -> Path:
    folder = tmp_path_factory.mktemp("extended")
    (folder / "tiny.toml").write_text(tiny_suite(EXTENDED))
    tiny_run(folder / "tiny.toml", "msp,energy", results=folder / "results", metrics="extended")
    return folder / "results"


@pytest.mark.parametrize("name", ["nll", "oscr", "tnr_validation", "fs_auroc", "shifted_accuracy"])
def test_extended_metrics_are_computed_anew(with_extended: Path, name: str, tmp_path: Path) -> None:
    results: Path = shutil.copytree(with_extended, tmp_path / "results")
    done = bench("verify", "tiny", "--results", results)
    assert (done.exit_code, "not checked" in done.output) == (0, False), done.output
    edit(record_file(results, "msp", "greek"), lambda r: r["extended"].update({name: r["extended"][name] + 1e-6}))
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    told = [line for line in done.output.splitlines() if line.startswith("digits")]
    assert len(told) == 1
    assert told[0].startswith(f"digits[0-1]/greek/msp/0: {name} is ")


def test_extended_metrics_of_which_too_little_is_told_are_not_checked(with_extended: Path, tmp_path: Path) -> None:
    results: Path = shutil.copytree(with_extended, tmp_path / "results")
    for path in (results / "runs/tiny/cells").iterdir():
        edit(path, lambda record: record.pop("provenance"))
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 0, done.output
    assert "not checked for 2 cells: extended metrics, which another version made" in done.output
