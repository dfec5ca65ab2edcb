"""A user's weights: files that are read or rejected, names that match, and a run without training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from oodbench.benchmark import Backbone, api
from oodbench.benchmark.api import prepare
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import ExtractJob, ImportJob, TrainJob
from oodbench.benchmark.plan.weights.file import read_weights
from oodbench.benchmark.plan.weights.match import match_weights
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.support import TINY_BACKBONE, bench

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 32, 32)
Weights = dict[str, Tensor]
Wrapped = Callable[[Weights], Any]


def network(text: str = TINY_BACKBONE, classes: int = 10) -> tuple[Backbone, nn.Module]:
    backbone: Backbone = create("backbone", parse_spec(text))
    torch.manual_seed(4)
    return backbone, backbone.build(classes, SHAPE)


def prefixed(prefix: str) -> Wrapped:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


WRAPPED: dict[str, Wrapped] = {
    "as it is": lambda weights: weights,
    "module.": prefixed("module."),
    "model.module.": prefixed("model.module."),
    "compiled": prefixed("_orig_mod."),
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 7, "best": 0.9},
    "model, module.": lambda weights: {"model": prefixed("module.")(weights), "optimizer": {"lr": 0.1}},
    "nested": lambda weights: {"checkpoint": 1, "model": {"state_dict": weights}},
    "half": lambda weights: {name: value.to(torch.bfloat16).float() for name, value in weights.items()},
}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("how", WRAPPED)
def test_weights_are_found_however_they_are_wrapped(how: str, tmp_path: Path) -> None:
    backbone, net = network()
    weights = net.state_dict()
    path = saved(tmp_path / "w.pt", WRAPPED[how](weights))
    read = read_weights(path)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = match_weights(read, backbone, net).tensors
    assert list(found) == list(weights)
    assert all(torch.allclose(found[name], weights[name], rtol=0.01) for name in weights)


def test_other_names_of_the_head_and_missing_counters_fit(tmp_path: Path) -> None:
    """As in the published weights of these networks."""
    backbone, net = network("resnet18[width=2]")
    kept = {n.replace("head.", "fc."): v.double() for n, v in net.state_dict().items() if "num_batches" not in n}
    save_file(kept, tmp_path / "w.safetensors")
    found = match_weights(read_weights(tmp_path / "w.safetensors"), backbone, net).tensors
    assert found["head.weight"].dtype == torch.float32
    net.load_state_dict(found)
    other, wrapper = network("torchvision:shufflenet_v2_x0_5")
    names = {"fc" + n[4:] if n.startswith("head.") else n.removeprefix("network."): n for n in wrapper.state_dict()}
    given = {name: wrapper.state_dict()[own] for name, own in names.items()}
    matched = match_weights(read_weights(saved(tmp_path / "t.pt", given)), other, wrapper).tensors
    assert matched.keys() == wrapper.state_dict().keys()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"body.0.bias": None, "body.2.bias": None}, r"small_cnn': it lacks 'body\.0\.bias', 'body\.2\.bias'$"),
        ({f"extra.{k}": torch.ones(1) for k in range(5)}, r"it has beside them 'extra\.0', .*'extra\.2' and 2 more"),
        (
            {"body.0.weight": torch.ones(2, 3)},
            r"of another shape are 'body\.0\.weight' \(2, 3\) in place of \(2, 3, 5, 5\)",
        ),
        ({"head.weight": torch.ones(7, 4), "head.bias": torch.ones(7)}, "is a classifier of 7 classes, .* has 10"),
        ({"head.weight": torch.ones(10, 9)}, r"of another shape are 'head\.weight' \(10, 9\) in place of \(10, 4\)"),
    ],
)
def test_weights_of_another_architecture_are_described(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    backbone, net = network()
    weights = {n: v for n, v in {**net.state_dict(), **change}.items() if v is not None}
    with pytest.raises(UserError, match=message):
        match_weights(read_weights(saved(tmp_path / "w.pt", weights)), backbone, net)


class Anything:
    """An object that a safe reader does not create."""


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    weights = network()[1].state_dict()
    whole = saved(folder / "whole.pt", weights)
    (folder / "cut.pt").write_bytes(whole.read_bytes()[:900])
    (folder / "text.pt").write_text("these are no weights")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "cut.safetensors").write_bytes((50).to_bytes(8, "little") + b'{"a":')
    return {
        "absent": (folder / "absent.pt", "cannot be read: No such file"),
        "folder": (folder, "cannot be read: Is a directory"),
        "text": (folder / "text.pt", "is not a checkpoint: expected a safetensors file or one written by torch.save"),
        "empty": (folder / "empty.pt", "is not a checkpoint"),
        "cut": (folder / "cut.pt", "cannot be read safely: it is damaged or not a torch file"),
        "cut safetensors": (folder / "cut.safetensors", "is damaged or not a safetensors file"),
        "whole network": (saved(folder / "net.pt", network()[1]), "cannot be read safely: it holds more than tensors"),
        "object": (saved(folder / "any.pt", {"a": Anything()}), "cannot be read safely: it holds more than tensors"),
        "no tensors": (saved(folder / "none.pt", {"state_dict": {"a": 1}}), "holds no weights"),
        "a list": (saved(folder / "list.pt", [torch.ones(2)]), "holds no weights"),
        "nan": (
            saved(folder / "nan.pt", {**weights, "head.bias": torch.full((10,), torch.nan)}),
            "first in 'head.bias'",
        ),
    }


def test_files_that_are_not_checkpoints_give_one_sentence(tmp_path: Path) -> None:
    for what, (path, message) in bad_files(tmp_path).items():
        with pytest.raises(UserError) as error:
            read_weights(path)
        assert message in str(error.value), what
        assert str(path) in str(error.value), what
        assert str(error.value).endswith("."), what


def asked(tmp_path: Path, checkpoint: Path, **options: Any) -> dict[str, Any]:
    where = {"results": tmp_path / "results", "data_dir": tmp_path, "threads": 1, "device": "cpu"}
    sets = {"id_sets": "digits", "ood_sets": "greek", "backbone": TINY_BACKBONE}
    return {"checkpoint": checkpoint, **where, **sets, **options}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved(tmp_path / "mine [1].pt", network()[1].state_dict())


def test_a_run_scores_with_the_given_weights_and_trains_nothing(tmp_path: Path, file: Path) -> None:
    prepared = prepare("msp,energy", **asked(tmp_path, file))
    kinds = [type(job) for job in prepared.plan.jobs.values()]
    assert kinds.count(ImportJob) == 1
    assert kinds.count(ExtractJob) == 3  # the third: slightly changed ID test images, for stability
    assert TrainJob not in kinds
    run = prepared.start()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert [record.status for record in run.records] == ["ok", "ok"]
    for record in run.records:
        assert record.recipe == "checkpoint"
        assert record.recipe_settings == {"file": "mine [1].pt", "sha256": sha256} == record.training
        assert record.label == f"{record.detector}@checkpoint[file=mine_1_.pt]"
    context = prepared.context
    (extract,) = (j for j in prepared.plan.jobs.values() if isinstance(j, ExtractJob) and j.outputs.data.set == "greek")
    grey = context.images(extract.outputs.data).images
    assert grey.shape[1] == 1  # and the file's first layer has three channels
    images = torch.from_numpy(np.repeat(grey, 3, axis=1)).float() / 255
    with torch.no_grad():
        expected = network()[1].eval()(images).numpy()
    assert np.allclose(context.store.load_array(extract.outputs.logits), expected, rtol=1e-4, atol=1e-5)
    again = prepare("msp,energy", **asked(tmp_path, file))
    assert not again.work.jobs


def test_the_key_is_the_content_and_the_backbone(tmp_path: Path, file: Path) -> None:
    def key(path: Path, **options: Any) -> str:
        plan = prepare("msp", **asked(tmp_path, path, **options)).plan
        return next(job.id for job in plan.jobs.values() if isinstance(job, ImportJob))

    copy, other = tmp_path / "copy.bin", tmp_path / "other.pt"
    copy.write_bytes(file.read_bytes())
    weights = network()[1].state_dict()
    saved(other, {**weights, "head.bias": weights["head.bias"] + 1})
    assert key(file) == key(copy) == key(file, id_sets="glyphs") == key(file, seeds=[5])
    assert key(file) != key(other)


def test_detectors_that_train_are_skipped_with_the_reason(tmp_path: Path, file: Path) -> None:
    plan = prepare("all", **asked(tmp_path, file)).plan
    skipped = {cell.record.detector: cell.record.reason for cell in plan.cells if cell.record.status == "skipped"}
    assert {"confidence", "gan_confidence", "joint"} <= skipped.keys()
    assert skipped["joint"] == "its classifier is to be trained by recipe 'joint', and --checkpoint trains none"
    assert not any(isinstance(job, TrainJob) for job in plan.jobs.values())
    with pytest.raises(UserError, match=r"Detector 'msp@joint' cannot run: .*--checkpoint trains none"):
        prepare("msp@joint", **asked(tmp_path, file))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"id_sets": "digits[0-3]"}, r"cannot run: with 'digits\[0-3\]': .*is a classifier of 10 classes.* has 4\."),
        ({"backbone": "small_cnn"}, "does not fit backbone 'small_cnn': of another shape are"),
        ({"epochs": 2, "limit_train": 50}, "trains nothing, so leave out --limit-train and --epochs"),
        ({"seeds": 3}, "gives one classifier, so give one seed in place of 3"),
    ],
)
def test_a_mismatch_is_an_error_before_any_work(
    tmp_path: Path, file: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare("msp", **asked(tmp_path, file, **options))
    assert not (tmp_path / "results" / "runs").exists()


def test_a_file_that_changes_during_the_run_fails_its_cells(tmp_path: Path, file: Path) -> None:
    prepared = prepare("msp", **asked(tmp_path, file))
    saved(file, network()[1].double().state_dict())
    (record,) = prepared.start().records
    assert record.status == "failed"
    assert "has changed since the run was planned" in record.reason


def test_imported_weights_give_the_scores_of_the_run_that_trained_them(tmp_path: Path) -> None:
    options = asked(tmp_path, Path())
    del options["checkpoint"]
    run = api.run("msp", **options, epochs=1, limit_train=100)
    stored = tmp_path / "results" / "cache" / run.records[0].artifacts["checkpoint"]
    again = api.run("msp", **asked(tmp_path, stored), name="again")
    assert again.records[0].metrics == run.records[0].metrics
    assert again.records[0].id_accuracy == run.records[0].id_accuracy


def test_the_command_line_imports_a_file(tmp_path: Path, file: Path) -> None:
    given = ["run", "--detectors", "msp", "--id", "digits", "--ood", "greek", "--backbone", TINY_BACKBONE, "--dry-run"]
    given += ["--results", str(tmp_path / "results"), "--checkpoint"]
    done = bench(*given, file)
    assert done.exit_code == 0, done.output
    assert "to do: import mine [1].pt for small_cnn" in done.output
    wrong = bench(*given, tmp_path / "nothing.pt")
    assert wrong.exit_code == 2
    assert "Error: The checkpoint" in wrong.output
