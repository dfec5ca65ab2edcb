"""`bench run --from`: a run repeated from nothing, and what counts as reproduced on which machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark import Record
from oodbench.benchmark.records.record import FAILED
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.verify.repeat import (
    DIFFERENT,
    EXACT,
    LISTED,
    NOTHING,
    RETRAINED,
    WITHIN,
    CellOutcome,
    RepetitionOutcome,
    _commands,
    _outcome,
)
from tests.support import bench, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }]
"""


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite, and a run of it by two commands."""
    folder = tmp_path_factory.mktemp("again")
    suite = write_suite(folder, MATRIX)
    run_suite(suite, "msp", limit_train=64)
    run_suite(suite, "energy", add=True, limit_train=64)
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    copy: Path = shutil.copytree(finished, tmp_path / "copy")
    return copy


def test_a_run_is_reproduced_from_nothing(place: Path) -> None:
    shutil.rmtree(place / "results/cache")  # nothing in it may be needed
    before = {p: p.read_bytes() for p in (place / "results").rglob("*") if p.is_file()}
    suite = place / "tiny.toml"
    suite.write_text(suite.read_text().replace("epochs = 1", "epochs = 2"))  # nor the present text of the suite
    edited = read_stored_run(place / "results/runs/tiny")
    edited.info["commands"] = [{**one, "suite": str(place / "tiny.toml")} for one in edited.info["commands"]]
    (place / "results/runs/tiny/run.json").write_text(json.dumps(edited.info))
    done = bench("run", "--from", place / "results/runs/tiny/run.json", "--quiet")
    assert done.exit_code == 0, done.output
    assert "has changed since the run: the text in run.json is used" in done.output
    assert "digits[0-1]/greek/msp/0: exactly\ndigits[0-1]/greek/energy/0: exactly\n" in done.stdout
    assert "2 exactly. The repetition: " in done.stdout
    again = place / "results/runs/tiny-again"
    assert (again / "cache/checkpoint").is_dir()
    assert not (place / "results/cache").exists()
    for path, content in before.items():
        assert path.name == "run.json" or path.read_bytes() == content
    assert {cell["verdict"] for cell in json.loads((again / "again.json").read_text())["cells"]} == {"exactly"}
    assert (again / "table.csv").read_bytes() == (place / "results/runs/tiny/table.csv").read_bytes()
    assert bench("verify", again).exit_code == 0
    refused = bench("run", "--name", "tiny-again", "--results", place / "results", "--suite", place / "tiny.toml")
    assert refused.exit_code == 2
    assert "repeats another run and has a store of its own" in refused.output


def test_a_different_number_is_reported(place: Path) -> None:
    for path in (place / "results/runs/tiny/cells").glob("msp*"):
        record = json.loads(path.read_text())
        record["metrics"]["auroc"] -= 1e-9
        path.write_text(json.dumps(record))
    done = bench("run", "--from", place / "results/runs/tiny", "--name", "other", "--results", place / "new", "--quiet")
    assert done.exit_code == 1
    assert "digits[0-1]/greek/msp/0: not reproduced: auroc 0." in done.stdout
    assert "digits[0-1]/greek/energy/0: exactly" in done.stdout
    assert (place / "new/runs/other/cache").is_dir()


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--seeds", "3", "--epochs", "2"], "leave out --epochs and --seeds."),
        (["--add"], "--from repeats a run with its own options, so leave out --add."),
        (["--detectors", "all"], "leave out --detectors."),
        (["--name", "tiny"], "is the run itself. Choose another --name"),
        (["--name", "taken"], "already exists and is not a repetition of"),
        (["--device", "abacus"], "Unknown device 'abacus'"),
    ],
)
def test_conflicting_options_are_one_sentence(place: Path, options: list[str], sentence: str) -> None:
    runs = place / "results/runs"
    shutil.copytree(runs / "tiny", runs / "taken")
    done = bench("run", "--from", runs / "tiny/run.json", *options)
    assert done.exit_code == 2, done.output
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (runs / "tiny-again").exists()


def test_what_is_not_a_run_is_refused(place: Path) -> None:
    for source, sentence in (
        ("tinny", "Did you mean 'tiny'?"),
        (str(place / "run.json"), "is not a run: it has no run.json"),
    ):
        done = bench("run", "--from", source, "--results", place / "results")
        assert done.exit_code == 2
        assert sentence in done.stderr


def test_a_dry_run_plans_every_command_and_does_nothing(place: Path) -> None:
    done = bench("run", "--from", place / "results/runs/tiny", "--dry-run")
    assert done.exit_code == 0, done.output
    assert done.output.count("train        1 job, 0 cached or done, 1 to do") == 2
    assert not (place / "results/runs/tiny-again").exists()


def test_runs_of_older_versions_are_repeated_as_far_as_recorded(finished: Path) -> None:
    run = read_stored_run(finished / "results/runs/tiny")
    assert [one["detectors"] for one in _commands(run)] == [["msp"], ["energy"]]
    older = StoredRun(run.path, {name: value for name, value in run.info.items() if name != "commands"}, run.records)
    older.info["asked"]["detectors"] = ["all"]
    older.info["detectors"] = ["energy"]  # such versions recorded those of the last command
    (options,) = _commands(older)
    assert options["detectors"] == ["energy"]  # of the last command, the only one recorded
    assert (options["threads"], options["device"], options["limit_train"]) == (1, "cpu", 64)
    assert options["precision"] == run.records[0].training["precision"]


# What counts as reproduced


def of_another_run(record: Record, threads: int = 1, weights: str = "a", scores: str = "b", **more: Any) -> Record:
    """A record as another run would have it."""
    artifacts = [
        {"path": record.artifacts[which], "sha256": weights if which == "checkpoint" else scores}
        for which in record.artifacts
    ]
    provenance = {**record.provenance, "artifacts": artifacts, "made": {"threads": threads, "torch": "2"}}
    return replace(record, provenance=provenance, **more)


def verdict(recorded: Record, repeated: Record | None) -> str:
    run = StoredRun(Path(), {}, [])
    return _outcome(recorded, repeated, run, run).verdict


def test_the_same_machine_must_give_the_same_bytes(finished: Path) -> None:
    recorded = of_another_run(read_stored_run(finished / "results/runs/tiny").records[0])
    close = {**recorded.metrics, "auroc": recorded.metrics["auroc"] + 1e-12}
    assert verdict(recorded, of_another_run(recorded)) == EXACT
    assert verdict(recorded, of_another_run(recorded, scores="c")) == DIFFERENT
    assert verdict(recorded, of_another_run(recorded, metrics=close)) == DIFFERENT
    assert verdict(recorded, None) == DIFFERENT
    assert verdict(recorded, of_another_run(recorded, status=FAILED, reason="no luck")) == DIFFERENT
    assert verdict(replace(recorded, status=FAILED), of_another_run(recorded)) == NOTHING


def test_elsewhere_the_tolerance_depends_on_the_weights(finished: Path) -> None:
    recorded = of_another_run(read_stored_run(finished / "results/runs/tiny").records[0])

    def elsewhere(weights: str, metric: str, off: float, **more: Any) -> str:
        metrics = {**recorded.metrics, metric: recorded.metrics[metric] + off}
        return verdict(
            recorded, of_another_run(recorded, threads=2, weights=weights, scores="c", metrics=metrics, **more)
        )

    assert recorded.n_id is not None
    assert recorded.n_ood is not None
    one_image = 1 / min(recorded.n_id, recorded.n_ood)
    assert elsewhere("a", "tnr_at_tpr95", one_image) == WITHIN
    assert elsewhere("a", "tnr_at_tpr95", 3 * one_image) == DIFFERENT
    assert elsewhere("z", "tnr_at_tpr95", 0.4) == WITHIN  # a threshold of another network: reported, not judged
    assert elsewhere("z", "auroc", 0.9 * RETRAINED) == WITHIN
    assert elsewhere("z", "auroc", -1.1 * RETRAINED) == DIFFERENT
    assert elsewhere("z", "auroc", 0.0, id_accuracy=(recorded.id_accuracy or 0) - 1.1 * RETRAINED) == DIFFERENT
    assert elsewhere("z", "auroc", 0.0, n_ood=recorded.n_ood - 1) == DIFFERENT  # not the same images


def test_changes_since_the_run_are_reported(finished: Path) -> None:
    recorded = of_another_run(read_stored_run(finished / "results/runs/tiny").records[0])
    resolved = {**recorded.provenance["resolved"], "scoring": "99"}
    repeated = of_another_run(recorded, key="other", scores="c")
    repeated = replace(repeated, provenance={**repeated.provenance, "resolved": resolved})
    run = StoredRun(Path(), {}, [])
    outcome = _outcome(recorded, repeated, run, run)
    assert outcome.verdict == DIFFERENT
    assert "since then: scoring 99 instead of 1" in outcome.message


def test_of_many_cells_those_that_are_the_same_are_counted(tmp_path: Path) -> None:
    def said(count: int) -> list[str]:
        same = [CellOutcome(f"digits/greek/d{number}/0", EXACT) for number in range(count)]
        other = CellOutcome("digits/greek/other/0", DIFFERENT, "AUROC 0.5")
        return list(RepetitionOutcome(tmp_path, tmp_path, (), (*same, other)).lines())

    assert sum(line.startswith("digits/") for line in said(LISTED - 1)) == LISTED
    many = said(480)
    assert many[:3] == [f"digits/greek/other/0: {DIFFERENT}: AUROC 0.5", f"480 more cells: {EXACT}", ""]
    assert many[-1].startswith(f"481 cells of {tmp_path}: 480 exactly, 1 not reproduced")
