"""`bench run --outputs`: detectors on logits and features that the user gives, without images and networks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark.api import prepare
from oodbench.benchmark.data.outputs import GivenArrays
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.npy import load_array
from tests.support import artifact_files, bench, csv_rows, give_outputs, given_arrays

pytestmark = [pytest.mark.usefixtures("unchanged_registry", "one_thread", "undrawn")]


def run(tmp_path: Path, detectors: str = "msp,energy,knn", outputs: str = "mine", **options: Any) -> StoredRun:
    paths = [tmp_path / name for name in outputs.split(",")]
    asked = {"outputs": paths, "results": tmp_path / "results", "threads": 1, **options}
    return prepare(detectors, **asked).start()


def cells(stored: StoredRun) -> dict[tuple[str, str, int], Record]:
    return {(record.label, record.ood_set, record.seed): record for record in stored.records}


def scores(tmp_path: Path, record: Record, side: str = "id") -> np.ndarray:
    return np.array(load_array(tmp_path / "results" / "cache" / record.artifacts[f"{side}_scores"]))


def in_reverse(arrays: GivenArrays) -> GivenArrays:
    assert arrays.logits is not None
    assert arrays.features is not None
    return replace(arrays, logits=arrays.logits[::-1], features=arrays.features[::-1])


def test_scores_are_those_of_the_arrays_and_metrics_those_of_the_scores(tmp_path: Path) -> None:
    given = give_outputs(tmp_path / "mine", network="tiny net, mine")
    stored = run(tmp_path)
    found = cells(stored)
    assert {name for _, name, _ in found} == {"svhn", "Places 365 (crop)"}
    assert {record.id_set for record in stored.records} == {"photos"}
    assert all(record.status == OK and record.backbone == "tiny net, mine" for record in stored.records)
    record = found["energy", "Places 365 (crop)", 0]
    expected = [
        -np.log(np.exp(np.asarray(arrays.logits, np.float64)).sum(axis=1))
        for arrays in (given.id["test"], given.ood["Places 365 (crop)"])
    ]
    for side, values in zip(("id", "ood"), expected, strict=True):
        np.testing.assert_allclose(scores(tmp_path, record, side), values, rtol=1e-12)
    own = evaluate(scores(tmp_path, record), scores(tmp_path, record, "ood"))
    assert {name: record.metrics[name] for name in record.metrics} == {n: own[n] for n in record.metrics}
    assert record.id_accuracy == np.mean(given.id["test"].logits.argmax(axis=1) == given.id["test"].labels)  # type: ignore[union-attr]
    assert found["knn", "svhn", 0].group == "far"
    assert found["knn", "Places 365 (crop)", 0].group == ""


def test_tables_and_commands_show_the_names_that_the_user_gives(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine")
    results = ["--results", str(tmp_path / "results")]
    printed = bench(
        "run", "--outputs", tmp_path / "mine", "--detectors", "msp,knn", "--threads", 1, "--quiet", *results
    )
    assert printed.exit_code == 0, printed.output
    assert "ID set photos" in printed.output
    assert "Places 365 (crop)" in printed.output
    assert "outputs:" not in printed.output.replace("outputs given", "")
    shown = bench("show", "mine", "--cell", "photos/svhn/knn", *results)
    assert "score             svhn (test), 60 images" in shown.output
    rows = csv_rows(bench("show", "mine", "--cell", "photos/svhn/knn", "--scores", "-", *results).output)
    assert [(row["image"], row["label"]) for row in rows[:2]] == [("test/0.png", "cat"), ("test/1.png", "dog")]
    assert rows[-1]["image"] == "svhn/59.png"
    checked = bench("verify", "mine", *results)
    assert checked.output == "mine: No problems: 4 cells, 36 metrics, 36 intervals, 18 artifacts (0.0 MB).\n"
    compared = bench("compare", "mine", *results)
    assert compared.exit_code == 0
    assert "msp - knn" in compared.output
    for form in ("text", "md", "csv", "tex"):
        assert bench("table", "mine", "--format", form, *results).exit_code == 0


def test_what_detectors_need_and_is_not_given_is_the_reason_why_they_are_skipped(tmp_path: Path) -> None:
    without = {"svhn": given_arrays(60, "svhn", ood=True), "dtd": given_arrays(60, "dtd", ood=True)}
    give_outputs(tmp_path / "mine", head=None, ood={**without, "svhn": replace(without["svhn"], features=None)})
    prepared = prepare("all", outputs=tmp_path / "mine", results=tmp_path / "results", threads=1)
    reasons = dict(prepared.plan.skipped)
    assert reasons["odin"] == "it needs images, and --outputs has arrays only"
    assert reasons["gram"] == "it needs the feature maps of the network's blocks, and --outputs has arrays only"
    assert reasons["joint"] == "its classifier is to be trained by recipe 'joint', and --outputs trains none"
    assert "msp" not in reasons
    found = cells(run(tmp_path, "knn"))
    assert found["knn", "dtd", 0].status == OK
    assert found["knn", "svhn", 0].reason == "it needs features, and --outputs has none of 'svhn'"
    with pytest.raises(UserError, match="'odin' cannot run: it needs images, and --outputs has arrays only"):
        run(tmp_path, "odin")


def test_without_training_images_and_labels_what_remains_runs(tmp_path: Path) -> None:
    arrays = given_arrays(50, "test", labels=False)
    give_outputs(tmp_path / "mine", id={"test": arrays}, classes=(), labels=False)
    stored = run(tmp_path, "all", metrics="extended")
    found = cells(stored)
    assert found["msp", "svhn", 0].status == OK
    assert found["msp", "svhn", 0].id_accuracy is None
    assert "aurc" not in found["msp", "svhn", 0].extended
    assert "tnr_at_tpr99" in found["msp", "svhn", 0].extended
    reasons = {one["what"]: one["reason"] for one in stored.info["skipped"]}
    assert reasons["knn"].startswith("it learns from training images, and 'photos' has none")
    results = ["--results", str(tmp_path / "results")]
    assert "No problems" in bench("verify", "mine", *results).output
    assert bench("table", "mine", "--metrics", "extended", *results).exit_code == 0


def test_detectors_that_read_labels_are_skipped_where_there_are_none(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine", labels=False)
    detectors = "knn[k=5],knn,mahalanobis,msp"  # without k, knn follows the sizes of classes
    found = cells(run(tmp_path, detectors))
    assert found["knn[k=5]", "svhn", 0].status == OK
    assert found["knn", "svhn", 0].status == "skipped"
    assert found["mahalanobis", "svhn", 0].status == "skipped"
    assert "it needs labels, and --outputs has none" in found["mahalanobis", "svhn", 0].reason
    options: dict[str, Any] = {"outputs": tmp_path / "mine", "results": tmp_path / "results", "threads": 1}
    assert prepare(detectors, **options).work.jobs == []


def test_a_head_is_checked_and_recovered_if_it_is_not_given(tmp_path: Path) -> None:
    given = give_outputs(tmp_path / "mine")
    known = cells(run(tmp_path, "react,vim"))
    give_outputs(tmp_path / "headless", head=None)
    stored = run(tmp_path, "react,vim", outputs="headless")
    assert any("head is not given; it was recovered" in note for note in stored.info["notes"])
    for place, record in cells(stored).items():
        assert record.status == OK
        np.testing.assert_allclose(scores(tmp_path, record), scores(tmp_path, known[place]), rtol=1e-4, atol=1e-4)
    assert given.head is not None
    give_outputs(tmp_path / "mine", head=given.head._replace(bias=given.head.bias + 3))
    with pytest.raises(UserError, match="The head does not belong to the features and logits"):
        run(tmp_path, "react")


def test_folders_are_seeds_of_one_row(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b", "c")):
        give_outputs(tmp_path / name, seed=seed)
    stored = run(tmp_path, outputs="a,b,c")
    found = cells(stored)
    assert sorted({seed for _, _, seed in found}) == [0, 1, 2]
    assert {label for label, _, _ in found} == {"msp", "energy", "knn"}
    assert len({scores(tmp_path, found["msp", "svhn", seed]).tobytes() for seed in range(3)}) == 3
    with pytest.raises(UserError, match="--outputs gives 3 folders, one for each seed, so leave out --seeds or give 3"):
        run(tmp_path, outputs="a,b,c", seeds=2)
    give_outputs(tmp_path / "d", id={"test": given_arrays(30, "test")})
    with pytest.raises(UserError, match="count as seeds of one network, so they must have the same sets"):
        run(tmp_path, outputs="a,d")


@pytest.mark.slow
def test_another_network_on_the_same_images_is_added_in_rows_of_its_own(tmp_path: Path) -> None:
    give_outputs(tmp_path / "a", seed=1, network="first net")
    give_outputs(tmp_path / "b", seed=2, network="second net")
    run(tmp_path, "msp,knn", outputs="a", name="both")
    stored = run(tmp_path, "msp,knn", outputs="b", name="both", add=True)
    assert {record.label for record in stored.records} == {
        f"{name} ({network})" for name in ("msp", "knn") for network in ("first net", "second net")
    }
    assert {record.ood_set for record in stored.records} == {"svhn", "Places 365 (crop)"}
    compared = bench("compare", "both", "--results", tmp_path / "results").output
    assert "knn (first net) - knn (second net)" in compared
    assert "No problems" in bench("verify", "both", "--results", tmp_path / "results").output


def test_a_second_run_computes_nothing_and_a_changed_file_only_what_depends_on_it(tmp_path: Path) -> None:
    given = give_outputs(tmp_path / "mine")
    options: dict[str, Any] = {"outputs": tmp_path / "mine", "results": tmp_path / "results", "threads": 1}
    prepare("msp,knn", **options).start()
    before = artifact_files(tmp_path / "results" / "cache")
    assert prepare("msp,knn", **options).work.jobs == []
    give_outputs(tmp_path / "mine", ood={**given.ood, "svhn": in_reverse(given.ood["svhn"])})
    again = prepare("msp,knn", **options)
    assert {job.title for job in again.work.jobs} == {
        "import logits and features of svhn (test)",
        "score svhn (test) with msp (ID photos, seed 0)",
        "score svhn (test) with knn (ID photos, seed 0)",
    }
    again.start()
    assert set(before) < set(artifact_files(tmp_path / "results" / "cache"))


def test_a_changed_file_is_found_by_verify(tmp_path: Path) -> None:
    given = give_outputs(tmp_path / "mine")
    run(tmp_path)
    give_outputs(tmp_path / "mine", ood={**given.ood, "svhn": in_reverse(given.ood["svhn"])})
    checked = bench("verify", "mine", "--results", tmp_path / "results")
    assert checked.exit_code == 1
    assert "logits of 'svhn' (test)" in checked.output
    assert "changed since the run" in checked.output


def test_values_that_are_not_finite_are_named_by_row(tmp_path: Path) -> None:
    given = give_outputs(tmp_path / "mine")
    logits = np.array(given.ood["svhn"].logits)
    logits[7, 1] = np.nan
    give_outputs(tmp_path / "mine", ood={**given.ood, "svhn": replace(given.ood["svhn"], logits=logits)})
    with pytest.raises(UserError, match=r"logits of 'svhn' contain nan in row 7, image 'svhn/7\.png'"):
        run(tmp_path)


def test_features_beyond_float32_are_refused_and_logits_stay_float64(tmp_path: Path) -> None:
    given = give_outputs(tmp_path / "mine")
    precise = np.asarray(given.id["test"].logits, np.float64) + 1e-12
    wide = np.asarray(given.ood["svhn"].features, np.float64)
    wide[3, 2] = 1e300
    give_outputs(
        tmp_path / "mine",
        id={**given.id, "test": replace(given.id["test"], logits=precise)},
        ood={**given.ood, "svhn": replace(given.ood["svhn"], features=wide, logits=None)},
    )
    found = cells(run(tmp_path, "max_logit,knn"))
    assert np.array_equal(scores(tmp_path, found["max_logit", "Places 365 (crop)", 0]), -precise.max(axis=1))
    assert "reach 1e+300 in row 3 ('svhn/3.png'), more than float32 can hold" in found["knn", "svhn", 0].reason


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"backbone": "resnet18"}, "--backbone"),
        ({"checkpoint": "a.pt"}, "--checkpoint"),
        ({"recipe": "cross_entropy", "epochs": 2}, "--recipe and --epochs"),
        ({"limit_train": 10}, "--limit-train"),
        ({"resize": "224"}, "--resize"),
        ({"suite": "digits"}, "--suite"),
    ],
)
def test_options_about_networks_and_images_are_refused(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    give_outputs(tmp_path / "mine")
    with pytest.raises(UserError, match=f"no images or weights, so leave out {expected}"):
        run(tmp_path, **options)


def test_what_several_folders_and_protocols_need_is_said_in_a_sentence(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine")
    with pytest.raises(UserError, match="--protocol val_id chooses settings on transformed ID validation images"):
        run(tmp_path, protocol="val_id")
    with pytest.raises(UserError, match="--protocol val_ood chooses settings on images of a further OOD set"):
        run(tmp_path, protocol="val_ood")
    with pytest.raises(UserError, match="--outputs gives a folder twice"):
        run(tmp_path, outputs="mine,mine")
    with pytest.raises(UserError, match="--outputs gives one network, so give one seed in place of 3"):
        run(tmp_path, seeds=3)
    with pytest.raises(UserError, match="so leave out '@cross_entropy' of 'msp@cross_entropy'"):
        run(tmp_path, "msp@cross_entropy")
    with pytest.raises(UserError, match="--higher says what higher scores mean, so it needs --scores or --outputs"):
        prepare("msp", higher="id", results=tmp_path / "results")


def test_sets_are_chosen_by_the_users_names(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine")
    stored = run(tmp_path, "msp", ood_sets="svhn", near="Places 365 (crop)", id_sets="photos", limit_test=30)
    found = cells(stored)
    assert [(name, record.group, record.n_ood) for (_, name, _), record in found.items()] == [
        ("svhn", "far", 30),
        ("Places 365 (crop)", "near", 30),
    ]
    with pytest.raises(UserError, match=r"Unknown OOD set of the given arrays: 'svnh'\. Did you mean 'svhn'"):
        run(tmp_path, "msp", ood_sets="svnh")
    with pytest.raises(UserError, match="Unknown ID set of the given arrays"):
        run(tmp_path, "msp", id_sets="digits")


@pytest.mark.parametrize("options", [{"fit_from": 0.3}, {"fit_per_class": 10}, {"fit_from": "val"}])
def test_what_detectors_learn_from_can_be_chosen(tmp_path: Path, options: dict[str, Any]) -> None:
    give_outputs(tmp_path / "mine")
    record = cells(run(tmp_path, "knn", **options))["knn", "svhn", 0]
    assert record.status == OK
    assert record.fitted_on["images"] < 120


def test_settings_are_chosen_on_the_other_ood_sets(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine")
    record = cells(run(tmp_path, "knn", protocol="leave_one_out"))["knn", "svhn", 0]
    assert record.status == OK, record.reason
    assert record.tuned["on"] != []
    assert record.n_ood == 30


def test_a_run_is_repeated_from_its_files(tmp_path: Path) -> None:
    given = give_outputs(tmp_path / "mine")
    run(tmp_path, "msp,knn")
    source = tmp_path / "results" / "runs" / "mine" / "run.json"
    assert json.loads(source.read_text())["commands"][0]["outputs"] == [str(tmp_path / "mine")]
    again = bench("run", "--from", source, "--quiet")
    assert again.exit_code == 0, again.output
    assert "4 cells" in again.output
    assert "4 exactly" in again.output
    give_outputs(tmp_path / "mine", ood={**given.ood, "svhn": in_reverse(given.ood["svhn"])})
    other = bench("run", "--from", source, "--quiet", "--name", "other")
    assert other.exit_code == 1
    assert "given sha256" in other.output


def test_notes_of_the_folder_and_what_is_not_known_are_under_the_table(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine", notes=("Trained for 90 epochs.",), preprocessing="centre crop of 224")
    notes = run(tmp_path, "msp").info["notes"]
    assert "Trained for 90 epochs." in notes
    assert "Images became the network's input outside of oodbench, as stated: centre crop of 224." in notes
    assert any(note.startswith("Only arrays are given, so images were not searched for copies") for note in notes)


def test_a_dry_run_says_what_is_imported_and_how_much_it_takes(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine")
    asked = ["--outputs", tmp_path / "mine", "--results", tmp_path / "results", "--detectors", "knn", "--threads", 1]
    printed = bench("run", *asked, "--dry-run").output
    assert "to do: import logits and features of Places 365 (crop) (test) (60 images)" in printed
    assert "features 0.0 MB" in printed
    assert "not counted: networks" in printed
    assert not (tmp_path / "results" / "runs").exists()


@pytest.mark.slow
def test_workers_find_the_arrays(tmp_path: Path) -> None:
    give_outputs(tmp_path / "mine")
    alone = run(tmp_path, "msp,knn", name="alone")
    give_outputs(tmp_path / "gone")
    run(tmp_path, "msp", outputs="gone")
    shutil.rmtree(tmp_path / "gone")  # what an earlier run of this process was given
    several = run(tmp_path, "msp,knn", name="several", jobs=2, rerun="all")
    for one, other in zip(alone.records, several.records, strict=True):
        assert (one.status, one.metrics) == (OK, other.metrics)
