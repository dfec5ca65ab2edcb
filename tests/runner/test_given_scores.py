"""`bench run --scores`: rows of tables for scores by methods of the user's, alone and beside detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.api import prepare
from oodbench.benchmark.data.outputs import GivenArrays, GivenOutputs, write_outputs
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.npy import load_array
from tests.support import bench, csv_rows, give_outputs, prepare_suite, run_suite, write_suite

pytestmark = [pytest.mark.usefixtures("unchanged_registry", "one_thread", "undrawn")]

METHODS: Mapping[str, tuple[int, ...]] = {"my method (v2)": (0,), "msp": (0,), "several, seeds": (0, 1, 2)}

SIZES = {"svhn": 60, "Places 365 (crop)": 60}


def scored(name: str, count: int, ood: bool, methods: Mapping[str, tuple[int, ...]] = METHODS) -> GivenArrays:
    def draw(method: str, seed: int) -> np.ndarray:
        return np.random.default_rng([seed, count, *f"{name}{method}".encode()]).normal(size=count) + ood

    scores = {method: {seed: draw(method, seed) for seed in seeds} for method, seeds in methods.items()}
    return GivenArrays(count, names=tuple(f"{name}/{row}.png" for row in range(count)), scores=scores)


def give_scores(folder: Path, **changes: Any) -> GivenOutputs:
    """Scores of the images of `give_outputs`."""
    ood = {name: scored(name, count, True) for name, count in SIZES.items()}
    given = GivenOutputs(folder, folder.name, "photos", {"test": scored("test", 80, False)}, ood, {"svhn": "far"})
    given = replace(given, **changes)
    write_outputs(folder, given)
    return given


def run(tmp_path: Path, detectors: str = "all", **options: Any) -> StoredRun:
    asked = {"scores": tmp_path / "theirs", "results": tmp_path / "results", "threads": 1, **options}
    return prepare(detectors, **asked).start()


def cells(stored: StoredRun) -> dict[tuple[str, str, int], Record]:
    return {(record.label, record.ood_set, record.seed): record for record in stored.records}


def test_every_method_is_a_row_with_its_seeds(tmp_path: Path) -> None:
    given = give_scores(tmp_path / "theirs")
    found = cells(run(tmp_path))
    assert set(found) == {(m, name, seed) for m, seeds in METHODS.items() for seed in seeds for name in SIZES}
    for (method, name, seed), record in found.items():
        values = [arrays.scores[method][seed] for arrays in (given.id["test"], given.ood[name])]
        assert (record.status, record.metrics["auroc"]) == (OK, auroc(*values))
        assert (record.id_accuracy, record.recipe, record.forward_images) == (None, "scores", 0)
        for side, expected in zip(("id", "ood"), values, strict=True):
            path = tmp_path / "results" / "cache" / record.artifacts[f"{side}_scores"]
            assert np.array_equal(load_array(path), expected)
    resolved = found["my method (v2)", "svhn", 0].provenance["resolved"]["given"]
    assert (resolved["method"], resolved["source"], len(resolved["sha256"])) == ("my method (v2)", "theirs", 64)


@pytest.mark.slow
def test_their_rows_stand_beside_ours_and_are_told_from_them(tmp_path: Path) -> None:
    give_scores(tmp_path / "theirs")
    give_outputs(tmp_path / "mine", network="tiny net")
    stored = run(tmp_path, "msp,knn", outputs=tmp_path / "mine", metrics="extended")
    assert {record.label for record in stored.records} == {
        *("msp", "knn", "my method (v2)", "msp (given scores)", "several, seeds")
    }
    results = ["--results", str(tmp_path / "results")]
    assert bench("verify", "mine", *results).output.startswith("mine: No problems: 14 cells")
    assert "not checked" not in bench("verify", "mine", *results).output
    compared = bench("compare", "mine", *results).output
    assert "my method (v2)" in compared
    shown = bench("show", "mine", "--cell", "photos/svhn/my method (v2)", *results).output
    assert '"source": "theirs"' in shown
    rows = csv_rows(bench("show", "mine", "--cell", "photos/svhn/my method (v2)", "--scores", "-", *results).output)
    assert (rows[0]["image"], rows[-1]["image"]) == ("test/0.png", "svhn/59.png")
    extended = bench("table", "mine", "--metrics", "extended", *results)
    assert extended.exit_code == 0
    for form in ("text", "md", "csv", "tex"):
        printed = bench("table", "mine", "--format", form, *results)
        assert printed.exit_code == 0
        assert "several" in printed.output


def test_scores_added_later_are_of_the_same_images(tmp_path: Path) -> None:
    give_scores(tmp_path / "theirs")
    give_outputs(tmp_path / "mine")
    prepare("msp", outputs=tmp_path / "mine", results=tmp_path / "results", threads=1, name="both").start()
    stored = run(tmp_path, name="both", add=True)
    assert {record.ood_set for record in stored.records} == set(SIZES)
    assert {record.id_set for record in stored.records} == {"photos"}
    compared = bench("compare", "both", "--detectors", "msp,my method (v2)", "--results", tmp_path / "results").output
    assert "msp - my method (v2)" in compared


@pytest.mark.slow
def test_lower_scores_can_mean_ood(tmp_path: Path) -> None:
    give_scores(tmp_path / "theirs")
    ours, turned = cells(run(tmp_path)), cells(run(tmp_path, higher="id", name="turned"))
    for place, record in ours.items():
        assert turned[place].metrics["auroc"] == pytest.approx(1 - record.metrics["auroc"], abs=1e-12)
    with pytest.raises(UserError, match="Unknown meaning of higher scores, 'up'"):
        run(tmp_path, higher="up")


def test_two_commands_make_a_latex_row_of_a_csv_file(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    lines = ["# higher = id", "set,energy of mine"]
    lines += [f"id,{score:.6f}" for score in draw.normal(size=50) + 2]
    lines += [f"svhn,{score:.6f}" for score in draw.normal(size=40)]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    results = ["--results", tmp_path / "results"]
    printed = bench("run", "--scores", path, "--name", "paper", "--threads", 1, "--quiet", *results)
    assert printed.exit_code == 0, printed.output
    (record,) = run(tmp_path, scores=path, name="paper").records
    assert record.metrics["auroc"] > 0.8
    tex = bench("table", "paper", "--format", "tex", *results).output
    low, high = (f"{100 * end:.1f}" for end in record.intervals["auroc"])
    (row,) = (line for line in tex.splitlines() if line.startswith("energy of mine &") and f"{low}--{high}" in line)
    assert f"{100 * record.metrics['auroc']:.1f}" in row


def test_a_changed_file_is_found_by_verify_and_a_repetition_says_so(tmp_path: Path) -> None:
    given = give_scores(tmp_path / "theirs")
    run(tmp_path)
    results = ["--results", str(tmp_path / "results")]
    again = bench("run", "--from", tmp_path / "results" / "runs" / "theirs" / "run.json", "--quiet")
    assert again.exit_code == 0, again.output
    assert "10 exactly" in again.output
    turned = {m: {s: -v for s, v in by_seed.items()} for m, by_seed in given.ood["svhn"].scores.items()}
    give_scores(tmp_path / "theirs", ood={**given.ood, "svhn": replace(given.ood["svhn"], scores=turned)})
    checked = bench("verify", "theirs", *results)
    assert checked.exit_code == 1
    assert "scores by 'my method (v2)' of 'svhn' (test): the user's file has changed since the run" in checked.output


def test_a_method_without_scores_of_a_set_has_no_cell_there(tmp_path: Path) -> None:
    given = give_scores(tmp_path / "theirs")
    few = scored("svhn", 60, True, {"msp": (0,)})
    give_scores(tmp_path / "theirs", ood={**given.ood, "svhn": few})
    found = cells(run(tmp_path))
    assert ("msp", "svhn", 0) in found
    assert ("my method (v2)", "svhn", 0) not in found
    assert ("my method (v2)", "Places 365 (crop)", 0) in found


def test_options_that_scores_have_no_use_for_are_refused(tmp_path: Path) -> None:
    give_scores(tmp_path / "theirs")
    with pytest.raises(UserError, match="--scores gives scores, and no images or weights, so leave out --fit-from"):
        run(tmp_path, fit_from=0.2)
    with pytest.raises(UserError, match="it needs a network's outputs, and only scores are given"):
        run(tmp_path, "knn")


MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "digits[2-3]" }, { set = "greek" }]
"""


def give_scores_of_suite(folder: Path, sizes: Mapping[str, int], **changes: Any) -> GivenOutputs:
    """Scores of the sets of `MATRIX`, without names of images."""
    arrays = {name: replace(scored(name, count, name != "digits[0-1]"), names=None) for name, count in sizes.items()}
    given = GivenOutputs(folder, folder.name, "digits[0-1]", {"test": arrays.pop("digits[0-1]")}, arrays)
    given = replace(given, **changes)
    write_outputs(folder, given)
    return given


def test_scores_of_the_images_of_a_suite_are_rows_of_its_table(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    pairs = prepare_suite(suite).plan.pairs
    sizes = {"digits[0-1]": pairs[0].id.images, "greek": pairs[1].ood.images}
    given = give_scores_of_suite(tmp_path / "theirs", sizes)
    stored = run_suite(suite, "msp", scores=tmp_path / "theirs")
    found = cells(stored)
    assert ("msp", "digits[2-3]", 0) in found
    record = found["my method (v2)", "greek", 0]
    values = [arrays.scores["my method (v2)"][0] for arrays in (given.id["test"], given.ood["greek"])]
    assert record.metrics["auroc"] == auroc(*values)
    assert ("my method (v2)", "digits[2-3]", 0) not in found
    assert {one["reason"] for one in stored.info["skipped"] if one["what"] == "given scores"} == {
        "they have none of 'digits[2-3]', only of greek"
    }
    checked = bench("verify", "tiny", "--results", tmp_path / "results")
    assert "No problems" in checked.output, checked.output


@pytest.mark.slow
def test_a_run_of_a_suite_with_scores_is_repeated(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    pairs = prepare_suite(suite).plan.pairs
    give_scores_of_suite(tmp_path / "theirs", {"digits[0-1]": pairs[0].id.images, "greek": pairs[1].ood.images})
    run_suite(suite, "msp", scores=tmp_path / "theirs")
    again = bench("run", "--from", tmp_path / "results" / "runs" / "tiny" / "run.json", "--quiet")
    assert again.exit_code == 0, again.output
    assert "7 exactly" in again.output


def test_scores_of_other_images_than_the_suites_are_refused(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    give_scores_of_suite(tmp_path / "theirs", {"digits[0-1]": 7, "greek": 11})
    with pytest.raises(UserError, match=r"those of 'digits\[0-1\]' are not of the images that are scored: 7 rows"):
        run_suite(suite, "msp", scores=tmp_path / "theirs")
    give_scores_of_suite(tmp_path / "theirs", {"digits[0-1]": 7, "greek": 11}, id_set="mnist")
    with pytest.raises(UserError, match=r"their ID set is called 'mnist', not 'digits\[0-1\]'"):
        run_suite(suite, "msp", scores=tmp_path / "theirs")


def test_runs_prepared_in_one_process_keep_their_own_scores(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine", network="tiny net")
    give_scores(tmp_path / "theirs")
    other = {name: scored(name, count, True, {"other": (0,)}) for name, count in SIZES.items()}
    give_scores(tmp_path / "others", id={"test": scored("test", 80, False, {"other": (0,)})}, ood=other)
    common: dict[str, Any] = {"outputs": tmp_path / "mine", "results": tmp_path / "results", "threads": 1}
    prepared = [
        prepare("msp", name=name, scores=scores and tmp_path / scores, **common)
        for name, scores in (("theirs", "theirs"), ("others", "others"), ("none", ""))
    ]
    runs = [one.start() for one in prepared]
    assert all(record.status == OK for stored in runs for record in stored.records)
    labels = [{record.label for record in stored.records} for stored in runs]
    assert labels == [{"msp", "msp (given scores)", "my method (v2)", "several, seeds"}, {"msp", "other"}, {"msp"}]
