"""Which cells of earlier commands stay in a run, and what a run says of cells that it does not have yet."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.api import prepare
from oodbench.benchmark.cli.run import run as run_command
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.options import Options
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.runner.command_line import FLAGS, UNSAID, command_line
from oodbench.benchmark.verify.repeat import EXACT, prepare_repetition
from oodbench.benchmark.views.run import public
from oodbench.benchmark.views.tables.files import write_tables
from oodbench.benchmark.views.tables.html import table_html
from oodbench.benchmark.views.tables.latex import table_latex
from oodbench.benchmark.views.tables.markdown import table_markdown
from oodbench.benchmark.views.tables.text import text_table
from tests.support import TINY_BACKBONE, bench, draw_no_plots, run_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "uniform", group = "far" }, { set = "digits[2-3]", group = "near" }]
"""
PLUGIN = """
from oodbench.benchmark import Detector, detector

@detector("stays_or_goes")
class Mine(Detector):
    def score(self, batch):
        return {sign}batch.logits.amax(dim=1)
"""
Run = Callable[..., StoredRun]


@pytest.fixture
def run_tiny(tmp_path: Path) -> Run:
    return partial(run_suite, write_suite(tmp_path, MATRIX))


def detectors(run: StoredRun) -> list[str]:
    return sorted({record.label for record in run.records})


def changed(run: StoredRun, detector: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the records of a detector on the disk."""
    for path in (run.path / "cells").glob(f"{detector}--*.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def test_fewer_detectors_sets_or_seeds_leave_the_table_as_it_is(run_tiny: Run) -> None:
    whole = run_tiny("msp,energy", seeds=2)
    table = (whole.path / "records.csv").read_bytes()
    for options in ({"detectors": "msp"}, {"ood_sets": "uniform"}, {"seeds": 1}):
        again = run_tiny(**{"detectors": "msp,energy", "seeds": 2, **options})
        assert [r.key for r in again.records] == [r.key for r in whole.records], options
        assert (whole.path / "records.csv").read_bytes() == table, options
        assert again.info["seeds"] == [0, 1]
        assert again.info["detectors"] == ["msp", "energy"]
    assert {r.seed for r in run_tiny("msp", only=True).records} == {0}


@pytest.mark.slow
def test_cells_of_other_options_leave_the_table_and_a_message_names_the_options(
    run_tiny: Run, logged: list[str]
) -> None:
    run_tiny("msp,energy", ood_sets="uniform")
    shorter = run_tiny("msp", ood_sets="uniform", limit_train=40)
    assert detectors(shorter) == ["msp"]
    named = "1 earlier cell of the run 'tiny' is no longer in its tables (other options: limit-train none -> 40)"
    assert [message for message in logged if named in message]
    assert len(shorter.info["commands"]) == 1
    assert detectors(run_tiny("energy", ood_sets="uniform", add=True)) == ["energy", "msp"]  # made unlike, by --add
    logged.clear()
    assert detectors(run_tiny("knn", ood_sets="uniform")) == ["energy", "knn"]
    assert "limit-train 40 -> none" in "\n".join(logged)


def test_what_the_suite_says_anyway_is_no_other_option(run_tiny: Run) -> None:
    run_tiny("msp", ood_sets="uniform", protocol="")
    stated = {"backbone": TINY_BACKBONE, "protocol": "defaults", "recipe": "cross_entropy", "stability": True}
    assert detectors(run_tiny("energy", ood_sets="uniform", **stated)) == ["energy", "msp"]


@pytest.mark.slow
def test_cells_of_changed_code_leave_the_table(tmp_path: Path, run_tiny: Run, logged: list[str]) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(sign="-"))
    run_tiny("msp,stays_or_goes", ood_sets="uniform", plugins=[plugin])
    assert detectors(run_tiny("energy", ood_sets="uniform", plugins=[plugin])) == ["energy", "msp", "stays_or_goes"]
    plugin.write_text(PLUGIN.format(sign="2 * -"))
    assert detectors(run_tiny("energy", ood_sets="uniform", plugins=[plugin])) == ["energy", "msp"]
    assert "the code of detector 'stays_or_goes' has changed" in "\n".join(logged)


def other_logits(record: dict[str, Any]) -> None:
    """As if the arrays of given outputs had been exchanged under the same names."""
    for artifact in record["provenance"]["artifacts"]:
        if artifact["kind"] == "logits":
            label, _, rest = artifact["path"].rpartition("-")
            artifact["path"] = f"{label}-{'0' * 12}{rest[12:]}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["origin"]["images"]["id"].update(checksum="other"), "other images of 'digits[0-1]'"),
        (lambda r: r["origin"]["images"]["ood"].update(images=7), "other images of 'uniform'"),
        (lambda r: r["artifacts"].update(checkpoint="checkpoint/a.safetensors"), "another training on 'digits[0-1]'"),
        (lambda r: r["provenance"]["resolved"].update(extraction="0"), "an older version of oodbench made them"),
        (lambda r: r["provenance"].clear(), "did not record what made them"),
        (other_logits, "other logits of the network on 'digits[0-1]'"),
    ],
    ids=["ID images", "OOD images", "training", "stage", "no provenance", "outputs"],
)  # fmt: skip
def test_cells_that_the_plan_would_make_otherwise_leave_the_table(
    run_tiny: Run, logged: list[str], change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    run = run_tiny("msp,energy", ood_sets="uniform")
    changed(run, "energy", change)
    assert detectors(run_tiny("msp", ood_sets="uniform")) == ["msp"]
    assert reason in "\n".join(logged)


def test_arrays_that_were_exchanged_under_the_same_names_are_not_mixed_with_earlier_ones(
    tmp_path: Path, logged: list[str]
) -> None:
    (tmp_path / "given" / "ood").mkdir(parents=True)
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    for name in ("id_train", "id_test"):
        np.savez(tmp_path / "given" / f"{name}.npz", logits=random.normal(size=(60, 3)), labels=labels)
    np.savez(tmp_path / "given" / "ood" / "far.npz", logits=random.normal(size=(60, 3)))
    options = {"outputs": tmp_path / "given", "results": tmp_path / "results", "name": "given"}
    prepare("msp,energy", **options).start()
    assert detectors(prepare("msp", **options).start()) == ["energy", "msp"]
    np.savez(tmp_path / "given" / "ood" / "far.npz", logits=random.normal(size=(60, 3)))
    assert detectors(prepare("msp", **options).start()) == ["msp"]
    assert "other logits of the network" in "\n".join(logged)


def test_a_group_that_a_later_command_states_holds_for_cells_that_stay(run_tiny: Run) -> None:
    run_tiny("msp,energy", ood_sets="uniform")
    again = run_tiny("msp", near="uniform")
    assert {(r.label, r.group) for r in again.records} == {("msp", "near"), ("energy", "near")}


@pytest.mark.slow
def test_commands_stay_as_long_as_cells_are_theirs_and_the_run_can_be_repeated(run_tiny: Run) -> None:
    run_tiny("msp,energy", ood_sets="uniform")
    run_tiny("msp", ood_sets="uniform")
    run_tiny("knn", ood_sets="uniform")
    run = run_tiny("msp", ood_sets="uniform")
    assert [command["detectors"] for command in run.info["commands"]] == [["msp", "energy"], ["knn"], ["msp"]]
    assert [len(part.get("cells", "-")) for part in run.info["parts"]] == [1, 1, 1]
    assert len(run_tiny("msp,energy,knn", ood_sets="uniform").info["commands"]) == 1
    run_tiny("max_logit", ood_sets="uniform")
    repetition = prepare_repetition(run.path)
    for prepared in repetition.commands():
        again = prepared.start()
    assert [cell.verdict for cell in repetition.compare().cells] == [EXACT] * 4
    assert f"--from {run.path}" in again.info["parts"][-1]["line"]


def test_a_run_of_a_version_without_parts_is_judged_by_its_commands(run_tiny: Run) -> None:
    run = run_tiny("msp,energy", ood_sets="uniform")
    info = json.loads((run.path / "run.json").read_text())
    del info["parts"]
    (run.path / "run.json").write_text(json.dumps(info))
    assert detectors(run_tiny("msp", ood_sets="uniform")) == ["energy", "msp"]
    assert detectors(run_tiny("msp", ood_sets="uniform", limit_train=40)) == ["msp"]


def test_add_and_only_exclude_each_other() -> None:
    with pytest.raises(UserError, match="Choose one of the two"):
        Options(add=True, only=True).check()


# Missing cells


def test_an_unfinished_run_says_in_every_format_what_is_missing_and_the_command_continues_it(
    run_tiny: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_no_plots(monkeypatch)
    run = run_tiny("msp,energy")
    assert run.missing == {}
    assert "Unfinished" not in text_table(run)
    for path in (run.path / "cells").glob("energy--*.json"):
        path.unlink()
    stopped = read_stored_run(run.path)
    [(line, count)] = stopped.missing.items()
    assert count == 2
    sentence = "Unfinished: 2 of 4 cells are missing. Continue with 'bench run --detectors msp,energy"
    assert sentence in text_table(stopped, 2000)
    assert sentence.replace("_", "\\_") in table_markdown(stopped)
    assert "Unfinished: 2 of 4 cells are missing." in table_html(stopped)
    assert "Unfinished: 2 of 4 cells are missing." in table_latex(stopped)
    assert "2 ok, 2 missing" in repr(public(stopped))
    write_tables(stopped)
    assert "Unfinished" in (run.path / "table.md").read_text()
    printed = bench("table", run.path)
    assert "Unfinished: 2 of 4 cells are missing." in printed.stdout
    assert "Unfinished: 2 of 4 cells are missing." in bench("plot", run.path).stderr
    assert bench(*shlex.split(line)[1:]).exit_code == 0
    done = read_stored_run(run.path)
    assert (done.missing, len(done.records)) == ({}, 4)
    assert "Unfinished" not in (run.path / "table.md").read_text()


def test_missing_cells_of_an_earlier_command_are_continued_with_that_command(run_tiny: Run) -> None:
    run = run_tiny("msp,energy", ood_sets="uniform")
    next((run.path / "cells").glob("energy--*.json")).unlink()
    later = run_tiny("knn", ood_sets="uniform")
    [(line, count)] = later.missing.items()
    assert count == 1
    assert "--detectors msp,energy " in line
    assert "1 of 3 cells is missing" in later.unfinished[0]


def test_a_run_without_any_record_says_what_is_missing(run_tiny: Run) -> None:
    run = run_tiny("msp", ood_sets="uniform")
    next((run.path / "cells").glob("*.json")).unlink()
    for write in (text_table, table_markdown, table_html, table_latex):
        text = " ".join(write(read_stored_run(run.path)).split())
        assert "No cells to show" in text
        assert "Unfinished: 1 of 1 cells is missing." in text


def test_every_option_has_the_flag_that_the_line_gives_it() -> None:
    flags = {flag for parameter in run_command.params for flag in parameter.opts}
    for one in fields(Options):
        if one.name not in UNSAID:
            assert FLAGS.get(one.name, "--" + one.name.replace("_", "-")) in flags, one.name


def test_a_line_has_what_is_not_the_default_quoted_for_the_shell() -> None:
    assert command_line(Options(seeds=(0,), results=Path("results"), gpus=None)) == "bench run"
    asked = Options(
        ["odin[epsilon=0.1]", "msp"], seeds=(3,), plugins=["a b.py", "c.py"], stability=False, add=True, rerun="all"
    )
    assert command_line(asked) == (
        "bench run --detectors 'odin[epsilon=0.1],msp' --seeds 3, --no-stability --plugin 'a b.py' --plugin c.py --add"
    )
    assert command_line(Options(seeds=(0, 1, 2))) == "bench run --seeds 3"
    assert command_line(Options(seeds=(0, 5))) == "bench run --seeds 0,5"
    assert command_line(Options(store="s3://key:secret@bucket/folder")) == "bench run --store URL"
