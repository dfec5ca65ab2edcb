"""`run(model=...)`: a network and sets in memory make the same tables as their outputs in a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from oodbench.benchmark import Outputs, Run, auroc, run
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.standalone.bundle.export import export
from tests.plugins.networks.networks import D, K, Plain, made, some_images
from tests.support import bench

pytestmark = pytest.mark.usefixtures("one_thread", "undrawn")


def labelled(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose brightness in a corner tells their class."""
    images, labels = some_images(count, seed), torch.arange(count) % K
    images[:, :, :4, :4] += labels[:, None, None, None]
    return images, labels


def sets() -> dict[str, Any]:
    return {
        "id_train": labelled(90, 1),
        "id_test": DataLoader(TensorDataset(*labelled(40, 2)), batch_size=16),
        "ood": {"dark": some_images(30, 3) / 4, "noise": some_images(30, 4) * 3},
    }


def run_on(folder: Path, detectors: str = "msp", **options: Any) -> Run:
    return run(detectors, results=folder, threads=1, **{**sets(), **options})


def test_a_network_in_memory_is_scored(tmp_path: Path) -> None:
    network = made(Plain).train()
    result = run_on(tmp_path, "msp,energy,knn,vim[dim=3]", model=network, near="dark", preprocessing="none at all")
    assert network.training
    records = {(r.detector, r.ood_set.rpartition("/")[2]): r for r in result.records}
    assert len(records) == 8
    assert {r.status for r in records.values()} == {"ok"}
    assert {r.group for (_, name), r in records.items() if name == "dark"} == {"near"}
    network.eval()
    with torch.no_grad():
        id_logits, ood_logits = (network(x).double() for x in (labelled(40, 2)[0], sets()["ood"]["dark"]))
    expected = auroc(*(-z.softmax(1).amax(1).numpy() for z in (id_logits, ood_logits)))
    assert records["msp", "dark"].metrics["auroc"] == pytest.approx(expected, abs=1e-6)
    text = result.table("text")
    assert "none at all" in text
    (folder,) = (tmp_path / "outputs").iterdir()
    assert folder.name.startswith("Plain-")
    assert re.search(r"^Plain +Plain +ID +4 +8 ", bench("list", "runs", "--results", tmp_path).output, re.MULTILINE)
    with pytest.raises(
        UserError, match="'knn' cannot be exported: the run has the outputs of a network, and not the network"
    ):
        export(tmp_path / "runs" / "Plain", "knn", tmp_path / "knn.safetensors", results=tmp_path)
    assert Outputs.load(folder).id["train"].features.shape == (90, D)  # type: ignore[union-attr]


def test_the_same_call_computes_nothing_again_and_other_weights_everything(tmp_path: Path) -> None:
    scores = tmp_path / "cache" / "scores"
    run_on(tmp_path, model=made(Plain))
    before = {path: path.stat().st_mtime_ns for path in scores.glob("*.npy")}
    assert before
    run_on(tmp_path, model=made(Plain))
    assert {path: path.stat().st_mtime_ns for path in scores.glob("*.npy")} == before
    torch.manual_seed(9)
    run_on(tmp_path, model=Plain())
    assert len(list((tmp_path / "outputs").iterdir())) == 2
    assert len(list(scores.glob("*.npy"))) == 2 * len(before)


def test_several_networks_are_seeds_and_functions_are_networks(tmp_path: Path) -> None:
    torch.manual_seed(9)
    networks = [Plain(), Plain()]
    result = run_on(tmp_path, models=[lambda images: networks[0](images), networks[1]])
    assert sorted({r.seed for r in result.records}) == [0, 1]
    alone = run_on(tmp_path / "alone", model=networks[1])
    by_seed = [r.metrics["auroc"] for r in result.records if r.seed == 1]
    assert by_seed == [r.metrics["auroc"] for r in alone.records]


def test_outputs_are_run_as_the_model_itself(tmp_path: Path) -> None:
    network = made(Plain)
    outputs = Outputs.from_model(network, **sets(), near="dark", features="layer2")
    direct = run_on(tmp_path / "direct", "knn", model=network, near="dark", features="layer2")
    given = run("knn", outputs=outputs, results=tmp_path / "given", threads=1)
    assert [r.metrics for r in given.records] == [r.metrics for r in direct.records]
    (folder,) = (tmp_path / "given" / "outputs").iterdir()
    one, other = (one.ood["dark"].features for one in (outputs, Outputs.load(folder)))
    assert one is not None
    assert other is not None
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backbone": "wrn"}, "run got a model and backbone. A model comes with its own weights, images"),
        ({"checkpoint": "a.pt", "suite": "digits"}, "run got a model and suite and checkpoint"),
        ({"models": [1]}, "Both model and models are given"),
        ({"model": None}, "run got id_train and id_test and ood without a model"),
        ({"model": None, "models": []}, "models must be a list of networks"),
        ({"id_test": None}, "There is no id_test"),
        ({"head": "fcc"}, "has no linear layer 'fcc'"),
        ({"far": "nois"}, "far names 'nois', which is not among the OOD sets. Did you mean 'noise'"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_on(tmp_path, **{"model": made(Plain), **options})


def test_outputs_hold_all_that_a_model_brings(tmp_path: Path) -> None:
    outputs = Outputs.from_model(made(Plain), **sets())
    with pytest.raises(UserError, match=r"run got outputs and features\. Outputs hold all of this"):
        run("msp", outputs=outputs, features="layer2", results=tmp_path)
