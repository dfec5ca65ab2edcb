"""`bench run --from`: a run done again from nothing, and what counts as reproduced where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oodbench.benchmark import Record
from oodbench.benchmark.cli import main
from oodbench.benchmark.records.record import FAILED
from oodbench.benchmark.records.run import Run, read_run
from oodbench.benchmark.verify.repeat import DIFFERENT, EXACT, NOTHING, RETRAINED, WITHIN, _commands, _outcome

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }]
"""


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_suite: Callable[[str], str], tiny_run: Callable[..., Run]
) -> Path:
    """A folder with a suite, and a run of it that took two commands."""
    folder = tmp_path_factory.mktemp("again")
    suite, options = folder / "tiny.toml", {"results": folder / "results", "limit_train": 64}
    suite.write_text(tiny_suite(MATRIX))
    tiny_run(suite, "msp", **options)
    tiny_run(suite, "energy", add=True, **options)
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    copy: Path = shutil.copytree(finished, tmp_path / "copy")
    return copy


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_run_comes_out_again_from_nothing(place: Path) -> None:
    shutil.rmtree(place / "results/cache")  # nothing of it may be needed
    before = {p: p.read_bytes() for p in (place / "results").rglob("*") if p.is_file()}
    suite = place / "tiny.toml"
    suite.write_text(suite.read_text().replace("epochs = 1", "epochs = 2"))  # nor the suite as it is now
    edited = read_run(place / "results/runs/tiny")
    edited.info["commands"] = [{**one, "suite": str(place / "tiny.toml")} for one in edited.info["commands"]]
    (place / "results/runs/tiny/run.json").write_text(json.dumps(edited.info))
    done = bench("run", "--from", place / "results/runs/tiny/run.json", "--quiet")
    assert done.exit_code == 0, done.output
    assert "is not what it was: the run's own text is used" in done.output
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
    assert "repeats another with a store of its own" in refused.output


def test_another_number_is_told(place: Path) -> None:
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
        (["--name", "taken"], "is there already and does not repeat"),
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


def test_what_is_no_run_is_refused(place: Path) -> None:
    for source, sentence in (("tinny", "Did you mean 'tiny'?"), (str(place / "run.json"), "is no run")):
        done = bench("run", "--from", source, "--results", place / "results")
        assert done.exit_code == 2
        assert sentence in done.stderr


def test_a_dry_run_plans_every_command_and_does_nothing(place: Path) -> None:
    done = bench("run", "--from", place / "results/runs/tiny", "--dry-run")
    assert done.exit_code == 0, done.output
    assert done.output.count("train        1 jobs, 0 cached or done, 1 to do") == 2
    assert not (place / "results/runs/tiny-again").exists()


def test_runs_of_older_versions_are_repeated_as_far_as_they_tell(finished: Path) -> None:
    run = read_run(finished / "results/runs/tiny")
    assert [one["detectors"] for one in _commands(run)] == [["msp"], ["energy"]]
    older = Run(run.path, {name: value for name, value in run.info.items() if name != "commands"}, run.records)
    older.info["asked"]["detectors"] = ["all"]
    (options,) = _commands(older)
    assert options["detectors"] == ["energy"]  # of the last command, which is all that it tells
    assert (options["threads"], options["device"], options["limit_train"]) == (1, "cpu", 64)
    assert options["precision"] == run.records[0].training["precision"]


# What counts as reproduced


def made(record: Record, threads: int = 1, weights: str = "a", scores: str = "b", **more: Any) -> Record:
    """A record as of another run."""
    artifacts = [
        {"path": record.artifacts[which], "sha256": weights if which == "checkpoint" else scores}
        for which in record.artifacts
    ]
    told = {**record.provenance, "artifacts": artifacts, "made": {"threads": threads, "torch": "2"}}
    return replace(record, provenance=told, **more)


def verdict(ours: Record, theirs: Record | None) -> str:
    run = Run(Path(), {}, [])
    return _outcome(ours, theirs, run, run).verdict


def test_the_same_machine_must_give_the_same_bytes(finished: Path) -> None:
    ours = made(read_run(finished / "results/runs/tiny").records[0])
    close = {**ours.metrics, "auroc": ours.metrics["auroc"] + 1e-12}
    assert verdict(ours, made(ours)) == EXACT
    assert verdict(ours, made(ours, scores="c")) == DIFFERENT
    assert verdict(ours, made(ours, metrics=close)) == DIFFERENT
    assert verdict(ours, None) == DIFFERENT
    assert verdict(ours, made(ours, status=FAILED, reason="no luck")) == DIFFERENT
    assert verdict(replace(ours, status=FAILED), made(ours)) == NOTHING


def test_elsewhere_the_tolerance_depends_on_the_weights(finished: Path) -> None:
    ours = made(read_run(finished / "results/runs/tiny").records[0])

    def elsewhere(weights: str, metric: str, off: float, **more: Any) -> str:
        metrics = {**ours.metrics, metric: ours.metrics[metric] + off}
        return verdict(ours, made(ours, threads=2, weights=weights, scores="c", metrics=metrics, **more))

    assert ours.n_id is not None
    assert ours.n_ood is not None
    one_image = 1 / min(ours.n_id, ours.n_ood)
    assert elsewhere("a", "tnr_at_tpr95", one_image) == WITHIN
    assert elsewhere("a", "tnr_at_tpr95", 3 * one_image) == DIFFERENT
    assert elsewhere("z", "tnr_at_tpr95", 0.4) == WITHIN  # one threshold of another network: told, not judged
    assert elsewhere("z", "auroc", 0.9 * RETRAINED) == WITHIN
    assert elsewhere("z", "auroc", -1.1 * RETRAINED) == DIFFERENT
    assert elsewhere("z", "auroc", 0.0, id_accuracy=(ours.id_accuracy or 0) - 1.1 * RETRAINED) == DIFFERENT
    assert elsewhere("z", "auroc", 0.0, n_ood=ours.n_ood - 1) == DIFFERENT  # not the same images


def test_what_has_changed_since_is_told(finished: Path) -> None:
    ours = made(read_run(finished / "results/runs/tiny").records[0])
    resolved = {**ours.provenance["resolved"], "scoring": "99"}
    theirs = made(ours, key="other", scores="c")
    theirs = replace(theirs, provenance={**theirs.provenance, "resolved": resolved})
    run = Run(Path(), {}, [])
    outcome = _outcome(ours, theirs, run, run)
    assert outcome.verdict == DIFFERENT
    assert "since then: scoring 99 in place of 1" in outcome.told
