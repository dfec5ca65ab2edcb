"""Networks that are not trained to tell classes apart: no logits, no accuracy, and ID sets of a single class."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from oodbench.benchmark import Classifier, bundle, read_bundle, read_run
from oodbench.benchmark.backbones.small_cnn import SmallCNN
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.plan import Plan
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.inputs import UndeclaredInputError
from oodbench.benchmark.plugins.networks.without_logits import WithoutLogits
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.verify.plugin_checks import run_checks
from oodbench.benchmark.verify.run import verify
from oodbench.benchmark.views.marks import DASH
from tests.named_recipes import Centred, Distance
from tests.support import bench, csv_rows, prepare_suite, run_suite, write_suite

Register = Callable[[str, type[Plugin]], None]

BACKBONE = "small_cnn[hidden=16,width=4]"
ONE_CLASS = """
[[id]]
set = "digits[3]"
ood = [{ set = "digits[0-2,4-9]", group = "near" }, { set = "greek" }]
"""
SEVERAL = """
[[id]]
set = "digits[0-3]"
ood = [{ set = "digits[4-9]", group = "near" }, { set = "greek" }]
shifted = ["digits[0-3]+faded"]
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def centred(register: Register) -> Register:
    """The recipe and its detector, registered; `register` for more."""
    register("centred", Centred)
    register("distance", Distance)
    return register


@pytest.fixture
def one_class(tmp_path: Path, centred: Register) -> Path:
    """A suite with one class as ID."""
    return write_suite(tmp_path, ONE_CLASS, backbone=BACKBONE)


def reasons(plan: Plan) -> dict[str, str]:
    """Why detectors are left out of a plan."""
    return {one.what: one.reason for one in plan.skipped}


DETECTORS = ["distance", "knn@centred", "mahalanobis@centred", "ssd@centred", "random@centred"]


def test_cells_of_a_single_class_have_numbers_and_no_accuracy(one_class: Path) -> None:
    run = run_suite(one_class, DETECTORS, metrics="extended")
    assert {(record.label, record.status) for record in run.records} == {(label, "ok") for label in DETECTORS}
    for record in run.records:
        assert record.id_accuracy is None
        assert 0 <= record.metrics["auroc"] <= 1
        assert {"tpr_validation", "tnr_at_tpr99"} <= record.extended.keys()
        assert not {"ece", "nll", "aurc", "oscr", "auroc_errors"} & record.extended.keys()
    assert not list((run.path.parents[1] / "cache").glob("logits/*"))


def test_scores_are_the_named_output(one_class: Path) -> None:
    run = run_suite(one_class, ["distance"])
    cache = run.path.parents[1] / "cache"
    record = next(record for record in run.records if record.ood_set == "greek")
    (features,) = (cache / "features").glob("centred*greek*.npy")
    expected = np.linalg.norm(np.load(features).astype(np.float64), axis=1)
    assert np.load(cache / record.artifacts["ood_scores"]) == pytest.approx(expected, rel=1e-5)


def test_tables_reports_comparisons_and_checks_work_without_accuracy(one_class: Path) -> None:
    run = run_suite(one_class, ["distance", "knn@centred"])
    rows = csv_rows((run.path / "records.csv").read_text(encoding="utf-8"))
    assert {row["id_accuracy"] for row in rows} == {""}
    (row, *_) = csv_rows((run.path / "table.csv").read_text(encoding="utf-8"))
    assert row["id_accuracy/mean"] == ""
    assert f"| `distance` | {DASH} |" in (run.path / "table.md").read_text(encoding="utf-8")
    assert json.loads((run.path / "best.json").read_text(encoding="utf-8"))["columns"][0]["compete"]
    assert all(record.id_accuracy is None for record in read_run(run.path).records)
    for command in (["verify"], ["table"], ["compare"], ["report"]):
        result = bench(*command, run.path)
        assert result.exit_code == 0, result.output
    assert not verify(run.path, run.path.parents[1], Path("data")).problems


def test_a_run_can_be_bundled_and_checked_without_its_store(one_class: Path) -> None:
    run = run_suite(one_class, ["distance"], metrics="extended")
    path = run.path.parent / "one.zip"
    bundle(run.path, path)
    assert not read_bundle(path).problems()
    assert all(record.id_accuracy is None for record in read_bundle(path).records)


def test_several_classes_keep_shifted_sets_out_of_the_extended_metrics(tmp_path: Path, centred: Register) -> None:
    suite = write_suite(tmp_path, SEVERAL, backbone=BACKBONE)
    run = run_suite(suite, ["distance", "msp", "mahalanobis@centred"], metrics="extended")
    of = {record.label: record for record in run.records if record.ood_set == "greek"}
    assert of["msp"].id_accuracy is not None
    assert "shifted_accuracy" in of["msp"].extended
    for label in ("distance", "mahalanobis@centred"):
        assert of[label].id_accuracy is None
        assert "shifted_accuracy" not in of[label].extended
        assert not math.isnan(of[label].extended["tnr_validation"])
    assert not verify(run.path, run.path.parents[1], Path("data")).problems


NO_LOGITS = "it needs logits, and recipe 'centred' trains no classifier"
NEEDS_TWO = "has one class, and a classifier needs two or more"
NO_HEAD = "it needs the head, and recipe 'centred' trains no classifier"


def test_detectors_of_logits_and_head_are_left_out_with_the_reason(one_class: Path) -> None:
    plan = prepare_suite(one_class, ["all"], recipe="centred").plan
    found = reasons(plan)
    assert found["msp@centred"] == found["energy@centred"] == NO_LOGITS
    assert found["residual@centred"] == found["dice@centred"] == NO_HEAD
    assert (
        found["confidence"]
        == "'digits[3]' has one class, and a classifier needs two or more; recipe 'confidence' trains one"
    )
    assert {cell.record.status for cell in plan.cells if cell.record.label == "ssd@centred"} == {"ok"}


@pytest.mark.parametrize(
    ("detectors", "message"),
    [
        (["msp@centred"], NO_LOGITS),
        (["residual@centred"], NO_HEAD),
        (
            ["knn"],
            rf"'digits\[3\]' {NEEDS_TWO}; recipe 'cross_entropy' trains one",
        ),
    ],
    ids=["logits", "head", "one class"],
)
def test_what_was_named_and_cannot_run_is_an_error(one_class: Path, detectors: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare_suite(one_class, detectors)


def test_detectors_that_turn_out_to_read_logits_are_skipped(one_class: Path) -> None:
    run = run_suite(one_class, ["odin@centred", "gram@centred", "mahalanobis_ensemble@centred", "distance"])
    for record in run.records:
        assert record.status == ("ok" if record.label == "distance" else "skipped"), record
        assert record.label == "distance" or "recipe 'centred' trains no classifier" in record.reason
    assert "failed" not in bench("table", run.path).output


def test_given_weights_need_several_classes(one_class: Path, tmp_path: Path) -> None:
    network = SmallCNN(width=2, hidden=4).build(1, (1, 32, 32))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"'digits\[3\]' has one class, and a classifier needs two or more"):
        prepare_suite(one_class, ["knn"], checkpoint=str(tmp_path / "weights.pt"))


def test_the_recipe_passes_its_checks(centred: Register) -> None:
    for name in ("centred", "distance"):
        found = {result.check: (result.status, result.reason) for result in run_checks([name], Path("data"))}
        assert {status for status, _ in found.values()} <= {"ok", "skipped"}, found
        assert found.get("check_run", ("ok", ""))[0] == "ok"


def test_whether_it_classifies_may_depend_on_settings(tmp_path: Path, centred: Register) -> None:
    class Either(Centred):
        labelled: bool = False

        def gives_logits(self) -> bool:
            return self.labelled

    centred("either", Either)
    suite = write_suite(tmp_path, SEVERAL, backbone=BACKBONE)
    plan = prepare_suite(suite, ["knn@either[labelled=true]", "knn@either", "msp"]).plan
    logits = {cell.record.label: cell.id_outputs is not None for cell in plan.cells}
    assert logits == {"knn@either[labelled=True]": True, "knn@either": False, "msp": True}


def test_nothing_can_be_done_with_logits_that_are_not_there() -> None:
    network = SmallCNN(width=2, hidden=5).build(4, (3, 8, 8))
    classifier: Classifier = WithoutLogits(network, 4, SmallCNN(width=2, hidden=5).blocks, "toy")
    images = torch.rand(3, 3, 8, 8)
    output = classifier.forward_with_maps(images)
    assert torch.equal(output.features, network.features(images))  # type: ignore[operator]
    assert (len(output.logits), len(output.logits[:2]), output.logits.device) == (3, 2, images.device)
    tries: list[Callable[[], object]] = [
        lambda: output.logits.argmax(dim=1),
        lambda: output.logits.shape,
        lambda: torch.softmax(output.logits, dim=1),
        lambda: torch.cat([output.logits, output.logits]),
        lambda: classifier(images),
        lambda: classifier.head(output.features),
        lambda: classifier.weight,
        lambda: classifier.bias,
    ]
    for attempt in tries:
        with pytest.raises(UndeclaredInputError, match="recipe 'toy' trains no classifier"):
            attempt()


# In service


def test_an_exported_detector_scores_as_in_the_run_and_names_no_class(one_class: Path, tmp_path: Path) -> None:
    from oodbench.benchmark.standalone.bundle.export import export
    from oodbench.benchmark.standalone.bundle.load import load_monitor

    run: StoredRun = run_suite(one_class, ["distance", "knn@centred"])
    record = next(record for record in run.records if record.label == "distance" and record.ood_set == "greek")
    scores = np.load(run.path.parents[1] / "cache" / record.artifacts["ood_scores"])
    library = prepare_suite(one_class, ["distance"]).context.library
    images = np.asarray(library.split(parse_set("greek"), "test").images)
    for label in ("distance", "knn@centred"):
        path = tmp_path / f"{label}.safetensors"
        export(run.path, label, path)
        monitor = load_monitor(path)
        found = monitor(images[:70])
        assert (found.classes == -1).all()
        if label == "distance":
            assert np.array_equal(monitor.as_in_run(images), scores)
            assert np.array_equal(found.scores, scores[:70])
        with pytest.raises(UserError, match="a graph gives predicted classes, and recipe 'centred'"):
            monitor.to_onnx(tmp_path / "graph.onnx")
