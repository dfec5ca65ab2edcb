"""Runs on a network that a function in a user's file builds, named in a suite, by an option and in another folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark import Outputs
from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.suite_file import read_suite, text_elsewhere
from oodbench.benchmark.plugins.specs import parse_set
from tests.support import draw_no_plots, prepare_suite, run_suite, tables_of, write_suite

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))

def make(num_classes):
    return Net(num_classes)
"""

MATRIX = '[[id]]\nset = "digits[0-1]"\nood = [{ set = "uniform" }]\n'


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite beside the file of its network."""
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "net.py").write_text(NET)
    return write_suite(tmp_path / "suites", MATRIX, backbone="net.py:make")


@pytest.mark.slow
def test_a_network_of_a_file_is_trained_and_evaluated_with_weights(suite: Path, tmp_path: Path) -> None:
    trained = run_suite(suite, ["msp", "gram"], results=tmp_path / "results")
    assert {(r.backbone, r.status) for r in trained.records} == {("net.py:make", "ok")}
    (checkpoint,) = (tmp_path / "results" / "cache" / "checkpoint").glob("*.safetensors")
    from safetensors.torch import load_file

    names = {"classifier.head.": "fc.", "classifier.network.": ""}
    weights = {
        next(new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)): value
        for name, value in load_file(checkpoint).items()
    }
    assert set(weights) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
    torch.save(weights, tmp_path / "mine.pt")
    given = run_suite(
        suite, ["msp", "gram"], results=tmp_path / "results", checkpoint=str(tmp_path / "mine.pt"), name="given"
    )
    assert [r.metrics for r in given.records] == [r.metrics for r in trained.records]


def test_the_same_command_computes_nothing_and_an_edited_file_everything(suite: Path, tmp_path: Path) -> None:
    backbone = f"{suite.parent / 'net.py'}:make"
    first = run_suite(suite, backbone=backbone)
    before = tables_of(first.path)
    checkpoints = suite.parent / "results" / "cache" / "checkpoint"
    made = {path.name for path in checkpoints.glob("*.safetensors")}
    run_suite(suite)
    assert {path.name for path in checkpoints.glob("*.safetensors")} == made
    assert tables_of(first.path) == before
    (suite.parent / "net.py").write_text(NET.replace("relu()", "sigmoid()"))
    run_suite(suite)
    assert len({path.name for path in checkpoints.glob("*.safetensors")}) == 2


def test_a_run_knows_the_file_by_its_absolute_path(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(suite.parent)
    run = run_suite(suite, backbone="net.py:make")
    (command,) = run.info["commands"]
    assert command["backbone"] == f"{suite.parent / 'net.py'}:make"
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(text_elsewhere(suite.read_text(), suite.parent))
    monkeypatch.chdir(tmp_path)
    assert read_suite(str(elsewhere)).backbone == f"{suite.parent / 'net.py'}:make"


def test_classes_that_do_not_fit_and_files_that_are_gone_are_one_sentence(suite: Path) -> None:
    with (suite.parent / "net.py").open("a") as file:
        file.write("\ndef three():\n    return Net(3)\n")
    with pytest.raises(UserError, match=r"'digits.0-1.' does not fit: 'net.py:three' returns a network of 3 outputs"):
        run_suite(suite, backbone=f"{suite.parent / 'net.py'}:three")
    (suite.parent / "net.py").unlink()
    with pytest.raises(
        UserError, match=r"tiny.toml': The file '.*net.py' of the backbone 'net.py:make' does not exist"
    ):
        run_suite(suite)


@pytest.mark.slow
def test_worker_processes_build_it(suite: Path, tmp_path: Path) -> None:
    alone = run_suite(suite, ["msp", "energy"], results=tmp_path / "alone")
    several = run_suite(suite, ["msp", "energy"], results=tmp_path / "several", jobs=2)
    assert tables_of(alone.path) == tables_of(several.path)


@pytest.mark.usefixtures("one_thread")
def test_the_network_has_the_same_features_in_memory(suite: Path, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(NET, scope)
    torch.manual_seed(1)
    network = scope["make"](2)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    prepared = prepare_suite(suite, ["vim[dim=2]"], checkpoint=str(tmp_path / "mine.pt"))
    with pytest.MonkeyPatch.context() as patch:
        draw_no_plots(patch)
        prepared.start()
    images = in_channels(np.asarray(prepared.context.library.part(parse_set("uniform"), "test").images[:]), 1)
    (stored,) = (suite.parent / "results" / "cache" / "features").glob("*uniform*.npy")
    ours = Outputs.from_model(network, torch.from_numpy(images).float() / 255, batch_size=256)
    np.testing.assert_allclose(ours.features, np.load(stored), rtol=1e-5, atol=1e-6)
