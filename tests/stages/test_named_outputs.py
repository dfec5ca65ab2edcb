"""Named outputs of networks: computed in the shared pass, stored, and read by the detectors that declare them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import ImageSet, OodbenchError, WithOutputs
from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.engines.tasks import divided
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plan.jobs import ExtractJob, SetRef
from oodbench.benchmark.plan.recipes.declared import outputs_of_pass
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.runner.store_estimate import estimate
from oodbench.benchmark.stages import extract_parts
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.extract import extract
from oodbench.benchmark.stages.networks import build_networks
from tests.named_recipes import Measured, OwnShort, Short
from tests.stages.extracted_sets import ContextWith, checkpoint, no_tick, noise, store_network
from tests.stages.planted_sets import PLANTED_MATRIX, PLANTED_TRAINING, register_planted
from tests.support import bench, prepare_suite, run_suite, write_suite

Register = Callable[[str, type[Plugin]], None]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def measured(register: Register) -> Register:
    """The recipe and its detectors, registered; `register` for more."""
    register("measured", Measured)
    register("short", Short)
    register("own_short", OwnShort)
    return register


@pytest.fixture
def suite(tmp_path: Path, measured: Register) -> Path:
    """A suite of small sets."""
    register_planted(measured, (3, 8, 8))
    return write_suite(tmp_path, PLANTED_MATRIX, training=PLANTED_TRAINING)


def pass_job(images: int, named: dict[str, int] | None = None) -> ExtractJob:
    """A pass of the set 'set' through a network of the recipe 'measured'."""
    trained = replace(checkpoint(), recipe="measured", named=tuple((named or Measured.outputs).items()))
    outputs = outputs_of_pass(SetRef("set", "test", images), trained, "set", {"images": images}, {})
    return ExtractJob(title="", makes=outputs.arrays, checkpoint=trained, outputs=outputs)


def stored(context: JobContext, job: ExtractJob) -> WithOutputs:
    """The network of a pass, stored as its checkpoint."""
    torch.manual_seed(0)
    network = build_networks(job.checkpoint, torch.device("cpu"))[1]["classifier"]
    assert isinstance(network, WithOutputs)
    store_network(context, network, job.checkpoint)
    return network


def test_they_are_stored_side_by_side_in_the_order_of_their_declaration(
    context_with: ContextWith, measured: Register
) -> None:
    images = noise(BLOCK + 30)
    context, job = context_with({"set": ImageSet(images)}), pass_job(len(images))
    network = stored(context, job)
    extract(context, job, no_tick)
    assert job.outputs.named is not None
    named, features = (np.array(context.store.load_array(key)) for key in (job.outputs.named, job.outputs.features))
    assert named.dtype == np.float32
    assert named.shape == (BLOCK + 30, 4)
    assert named[:, 0] == pytest.approx(np.linalg.norm(features.astype(np.float64), axis=1), rel=1e-5)
    with torch.no_grad():
        expected = network.branches["turned"](torch.from_numpy(features))
    assert named[:, 1:] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


def test_a_divided_pass_gives_the_same_bits(context_with: ContextWith, measured: Register) -> None:
    images = noise(2 * BLOCK + 7)
    whole, parted = (context_with({"set": ImageSet(images)}) for _ in range(2))
    job = pass_job(len(images))
    for context in (whole, parted):
        stored(context, job)
    extract(whole, job, no_tick)
    assert job.outputs.named is not None
    expected = np.array(whole.store.load_array(job.outputs.named))
    job = divided(job, BLOCK)
    assert len(job.parts) == 3
    for key in job.makes:
        parted.store.remove(key)
    for part in job.parts:
        assert len(part.makes) == 3
        extract_parts.extract(parted, part, no_tick)
    extract_parts.extract(parted, job, no_tick)
    assert job.outputs.named is not None
    assert np.array_equal(parted.store.load_array(job.outputs.named), expected)
    assert not any(parted.store.has(key, now=True) for part in job.parts for key in part.makes)


@pytest.mark.parametrize(
    ("named", "given", "message"),
    [
        ({"length": 1}, None, r"returned \['length', 'turned'\], and its recipe declares \['length'\]"),
        ({"length": 2, "turned": 3}, None, r"returned \(256, 1\) as 'length', expected \(256, 2\)"),
        (None, torch.tensor(float("nan")), "returned NaN or infinite values as 'length'"),
        (None, "many", r"returned str as 'length', expected \(256, 1\)"),
    ],
    ids=["other names", "other width", "not finite", "no tensor"],
)
def test_outputs_that_are_not_as_declared_fail(
    context_with: ContextWith,
    measured: Register,
    monkeypatch: pytest.MonkeyPatch,
    named: dict[str, int] | None,
    given: object,
    message: str,
) -> None:
    context, job = context_with({"set": ImageSet(noise(20))}), pass_job(20, named)
    stored(context, job)
    if given is not None:
        value = given.expand(256, 1) if isinstance(given, Tensor) else given
        right = WithOutputs.outputs
        monkeypatch.setattr(WithOutputs, "outputs", lambda self, features: {**right(self, features), "length": value})
    with pytest.raises(PluginError, match=message):
        extract(context, job, no_tick)
    assert not any(context.store.has(key, now=True) for key in job.makes), "nothing of a bad pass is stored"


def test_padding_need_not_have_finite_outputs(
    context_with: ContextWith, measured: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, job = context_with({"set": ImageSet(noise(20))}), pass_job(20)
    stored(context, job)
    right = WithOutputs.outputs

    def outputs(self: WithOutputs, features: Tensor) -> dict[str, Tensor]:
        return {name: value / features.abs().sum(dim=1, keepdim=True) for name, value in right(self, features).items()}

    monkeypatch.setattr(WithOutputs, "outputs", outputs)
    extract(context, job, no_tick)
    assert job.outputs.named is not None
    assert np.isfinite(context.store.load_array(job.outputs.named)).all()


# Runs


def by_label(run: StoredRun) -> dict[str, list[tuple[str, str]]]:
    """Status and reason of all cells, by the label of their row."""
    found: dict[str, list[tuple[str, str]]] = {}
    for record in run.records:
        found.setdefault(record.label, []).append((record.status, record.reason))
    return found


def test_a_run_gives_them_to_detectors_that_declare_them(suite: Path) -> None:
    run = run_suite(suite, ["own_short", "short@measured", "vim@measured", "msp"])
    assert {status for cells in by_label(run).values() for status, _ in cells} == {"ok"}
    scores: dict[str, np.ndarray] = {}
    for record in run.records:
        path = run.path.parents[1] / "cache" / record.artifacts["ood_scores"]
        scores[f"{record.label} on {record.ood_set}"] = np.load(path)
    for ood in ("planted-near", "planted-far"):
        assert np.array_equal(scores[f"own_short on {ood}"], scores[f"short@measured on {ood}"])
    (record, *_) = (record for record in run.records if record.label == "own_short")
    cache = run.path.parents[1] / "cache"
    paths = {one["kind"]: one["path"] for one in record.provenance["artifacts"]}
    assert set(paths) >= {"named_outputs", "features", "fit"}
    train = [path for path in (cache / "features").glob("measured*train-*.npy") if "planted-train" in path.name]
    assert len(train) == 1
    mean = np.linalg.norm(np.load(train[0]).astype(np.float64), axis=1).mean()
    own = record.artifacts["ood_scores"]
    (features,) = (cache / "features").glob(f"measured*--{record.ood_set}-test-*.npy")
    expected = mean - np.linalg.norm(np.load(features).astype(np.float64), axis=1)
    assert np.load(cache / own) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_second_run_computes_nothing(suite: Path) -> None:
    run_suite(suite, ["own_short"])
    assert prepare_suite(suite, ["own_short", "vim@measured"]).work.jobs
    assert not prepare_suite(suite, ["own_short"]).work.jobs


def test_a_missing_array_is_computed_again(suite: Path) -> None:
    run = run_suite(suite, ["own_short"])
    (lost, *_) = sorted((run.path.parents[1] / "cache" / "named_outputs").glob("*.npy"))
    before = lost.read_bytes()
    for path in lost.parent.glob(f"{lost.stem}*"):
        path.unlink()
    run_suite(suite, ["short@measured"])
    assert lost.read_bytes() == before


def test_the_size_of_the_store_counts_them(suite: Path) -> None:
    prepared = prepare_suite(suite, ["own_short"])
    context = prepared.context
    found = estimate(prepared.plan, context.store, context.library)
    images = sum(job.size for job in prepared.plan.jobs.values() if isinstance(job, ExtractJob))
    assert found.sizes["named_outputs"] == images * 4 * 4
    assert "named outputs" in found.text()


def test_they_move_no_key_of_other_recipes(suite: Path) -> None:
    alone = prepare_suite(suite, ["vim", "mahalanobis_ensemble"]).plan.jobs
    beside = prepare_suite(suite, ["vim", "mahalanobis_ensemble", "own_short"]).plan.jobs
    assert set(alone) < set(beside)
    assert all("named" not in key.content for job in alone.values() for key in job.makes)


def test_blocks_of_the_wrapped_network_are_found(suite: Path) -> None:
    cells = by_label(run_suite(suite, ["mahalanobis_ensemble@measured", "odin@measured"]))
    assert cells["mahalanobis_ensemble@measured"] == [("ok", "")] * 2
    assert cells["odin@measured"] == [("ok", "")] * 2


REASON = "it reads output 'length', which recipe 'cross_entropy' does not give"


def test_without_the_output_a_detector_of_all_is_left_out_with_the_reason(suite: Path) -> None:
    plan = prepare_suite(suite, ["all"]).plan
    assert [one.reason for one in plan.skipped if one.what == "short"] == [REASON]
    assert "own_short" in {cell.record.label for cell in plan.cells}


def test_without_the_output_a_detector_named_is_an_error(suite: Path) -> None:
    with pytest.raises(UserError, match=REASON):
        prepare_suite(suite, ["short", "msp"])
    result = bench("run", "--suite", suite, "--detectors", "short", "--results", suite.parent / "results", "--dry-run")
    assert result.exit_code == 2
    assert REASON in result.stderr


def test_a_declaration_that_cannot_be_stored_skips_the_cells(suite: Path, measured: Register) -> None:
    measured("wrong", type("Wrong", (Measured,), {"outputs": {"length": 0}, "__module__": __name__}))
    with pytest.raises(OodbenchError, match="the width of 'length' must be a positive integer, got 0"):
        prepare_suite(suite, ["short@wrong"])
    plan = prepare_suite(suite, ["msp", "short@wrong", "all"]).plan
    assert all(cell.record.status == "skipped" for cell in plan.cells if cell.record.label == "short@wrong")
