"""Every row of the tables in docs/guides/your_own_network.md: what a file of weights may look like, and what not."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from oodbench.benchmark import Backbone
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.weights.file import read_weights
from oodbench.benchmark.plan.weights.match import Match, match_weights
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.support import TINY_BACKBONE

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your_own_network.md"
SHAPE = (3, 32, 32)
Tensors = dict[str, Tensor]
Content = Callable[[Tensors], Any]


class Net(nn.Module):
    """Two linear layers in an attribute named like a wrapper's prefix."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 4), nn.Linear(4, num_classes))


class NetBackbone(Backbone):
    """A backbone of which every weight's name starts with a wrapper's prefix."""

    name = "net_attribute"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """The two layers."""
        return Net(num_classes)


def named(text: str) -> Callable[[], Backbone]:
    return lambda: create("backbone", parse_spec(text))


def built(backbone: Backbone, seed: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return backbone.build(10, SHAPE)


def prefixed(prefix: str, weights: Tensors) -> Tensors:
    return {prefix + name: value for name, value in weights.items()}


def others(weights: Tensors) -> Tensors:
    """Weights of the same shapes that must not be taken."""
    return {name: value + 1 for name, value in weights.items()}


def head_unwrapped(weights: Tensors) -> Tensors:
    return {name if name.startswith("head.") else f"module.{name}": value for name, value in weights.items()}


def renamed_head(head: str) -> Content:
    return lambda weights: {name.replace("head.", head): value for name, value in weights.items()}


def reference_script(weights: Tensors) -> dict[str, Any]:
    """As in references/classification/train.py of torchvision."""
    return {
        "model": weights,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": argparse.Namespace(model="resnet18", lr=0.1, output_dir="."),
        "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", others(weights))},
        "scaler": {"scale": 65536.0},
    }


class AttributeDict(dict[str, Any]):
    """Named like the class that Lightning stores hyperparameters in."""


AttributeDict.__module__, AttributeDict.__qualname__ = "lightning.fabric.utilities.data", "AttributeDict"


def lightning(weights: Tensors) -> dict[str, Any]:
    state = {**prefixed("model.", weights), "criterion.weight": torch.ones(10)}
    return {"epoch": 1, "state_dict": state, "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "loops": {"a": {}}}


def objects_beside(weights: Tensors) -> dict[str, Any]:
    odd = {"best": np.float64(0.9), "epoch": np.int64(3), "out": Path("runs"), "args": argparse.Namespace(lr=0.1)}
    return {"state_dict": weights, **odd}


def stored(weights: Tensors) -> Tensors:
    """A checkpoint of the store, of a recipe that trains three networks."""
    return {**prefixed("classifier.", weights), "generator.0.weight": torch.ones(3), "discriminator.b": torch.ones(2)}


SMALL, TORCHVISION = named(TINY_BACKBONE), named("torchvision:shufflenet_v2_x0_5")
RESIDUAL, MOBILENET = named("resnet18[width=2]"), named("torchvision:mobilenet_v2")

ACCEPTED: dict[str, list[tuple[Callable[[], Backbone], Content, str]]] = {
    "the state dict alone": [(SMALL, dict, ""), (NetBackbone, dict, ""), (TORCHVISION, dict, "")],
    "the state dict under `state_dict`, `model_state_dict`, `model`, `net` or `network`": [
        (SMALL, lambda weights, key=key: {key: weights, "loss": torch.tensor(torch.nan), "epoch": 2}, "")
        for key in ("state_dict", "model_state_dict", "model", "net", "network")
    ]
    + [(SMALL, lambda weights: {"model": weights, "epoch": torch.tensor(7), "mean": torch.ones(3)}, "")],
    "the state dict under another key, or a key inside another": [
        (SMALL, lambda weights: {"weights": weights, "t": torch.ones(1)}, ""),
        (SMALL, lambda weights: {"a": {"state": weights, "t": torch.ones(1)}}, ""),
        (SMALL, lambda weights: {"student": weights, "copy": weights}, ""),
    ],
    "a prefix before all names (`module.`, `_orig_mod.`, any other)": [
        (SMALL, lambda weights, prefix=prefix: prefixed(prefix, weights), "")
        for prefix in ("module.", "_orig_mod.", "model._orig_mod.module.", "backbone.", "encoder.q.", "net.")
    ]
    + [(NetBackbone, lambda weights: prefixed("module.", weights), "")],
    "a prefix before most names": [
        (SMALL, head_unwrapped, ""),
        (SMALL, lambda weights: {"state_dict": head_unwrapped(weights), "t": torch.ones(1)}, ""),
    ],
    "a prefix, and tensors of something else without it (`n_averaged`, `criterion.weight`)": [
        (SMALL, lambda weights: {"n_averaged": torch.tensor(3), **prefixed("module.", weights)}, ""),
        (
            SMALL,
            lambda weights: {**prefixed("model.", weights), "criterion.weight": torch.ones(10)},
            "Of 'w.pt', the weights 'model' are evaluated; 'criterion.weight' is not used.",
        ),
    ],
    "integers of no dimension among the weights (`epoch`)": [
        (SMALL, lambda weights: {**weights, "epoch": torch.tensor(7)}, "")
    ],
    "what torchvision's reference scripts write, with averaged weights": [
        (
            backbone,
            reference_script,
            "Of 'w.pt', the weights 'model' are evaluated; 'model_ema.module' would fit as well (to evaluate those, "
            "save those alone in a file).",
        )
        for backbone in (SMALL, TORCHVISION, MOBILENET)
    ],
    "what Lightning writes, with hyperparameters": [(SMALL, lightning, "'criterion.weight' is not used")],
    "NumPy numbers, paths or parsed arguments beside the weights": [(SMALL, objects_beside, "")],
    "weights of a network whose own attribute is named like a prefix (`net.0.weight`)": [
        (NetBackbone, dict, ""),
        (NetBackbone, lambda weights: prefixed("model.", weights), ""),
        (NetBackbone, stored, "are not used"),
    ],
    "a checkpoint of this package, `results/cache/checkpoint/*.safetensors`": [
        (SMALL, stored, "'generator.0.weight', 'discriminator.b' are not used"),
        (SMALL, lambda weights: prefixed("classifier.", weights), ""),
        (MOBILENET, stored, "are not used"),
        (RESIDUAL, stored, "are not used"),
    ],
    "another name of the last layer (`fc`, `linear`, `classifier`)": [
        (RESIDUAL, renamed_head(head), "") for head in ("fc.", "linear.", "classifier.")
    ],
    "no counters of batch norm (`num_batches_tracked`)": [
        (
            RESIDUAL,
            lambda weights: prefixed("module.", {n: v for n, v in weights.items() if "num_batches" not in n}),
            "",
        )
    ],
}

REFUSED: dict[str, tuple[Content, str]] = {
    "two networks that fit, neither in a usual place (`student.`, `teacher.`)": (
        lambda weights: {**prefixed("student.", weights), **prefixed("teacher.", others(weights))},
        "holds several networks that fit backbone 'small_cnn', 'student' and 'teacher'. Save the one that is meant",
    ),
    "a whole network, or any other Python object": (
        lambda weights: {"model": built(SMALL()), "state_dict": weights},
        "cannot be read safely: it holds more than tensors (oodbench.benchmark.backbones.small_cnn",
    ),
    "a TorchScript program": (
        lambda weights: torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)),
        "cannot be read safely: it is a TorchScript program",
    ),
    "layers that the backbone lacks, or other shapes": (
        lambda weights: {"model": {**weights, "body.9.weight": torch.ones(2)}, "t": torch.ones(1)},
        "does not fit backbone 'small_cnn': it has beside them 'body.9.weight'",
    ),
    "another number of classes than the ID set has": (
        lambda weights: prefixed("module.", {**weights, "head.weight": torch.ones(7, 4), "head.bias": torch.ones(7)}),
        "is a classifier of 7 classes, and the ID set has 10",
    ),
    "weights that are not finite": (
        lambda weights: {"model": {**weights, "head.bias": torch.full((10,), torch.inf)}, "t": torch.ones(1)},
        "holds weights that are not finite, first in 'head.bias'",
    ),
}


def rows(title: str) -> list[str]:
    """The first column of the guide's table with this title in its first cell."""
    table = GUIDE.read_text(encoding="utf-8").partition(f"| {title} |")[2].partition("\n\n")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]


def test_the_guide_lists_what_is_tried_here() -> None:
    assert rows("the file holds") == list(ACCEPTED)
    assert rows("refused") == list(REFUSED)


def matched(folder: Path, content: Any, backbone: Backbone) -> Match:
    path = folder / "w.pt"
    if isinstance(content, torch.jit.ScriptModule):
        torch.jit.save(content, path)
    else:
        torch.save(content, path)
    return match_weights(read_weights(path), backbone, built(backbone, seed=5))


@pytest.mark.parametrize("row, case", [(row, case) for row, cases in ACCEPTED.items() for case in range(len(cases))])
def test_files_that_are_accepted(row: str, case: int, tmp_path: Path) -> None:
    make, content, note = ACCEPTED[row][case]
    backbone = make()
    weights = dict(built(backbone).state_dict())
    found = matched(tmp_path, content(weights), backbone)
    assert list(found.tensors) == list(weights)
    for name, value in weights.items():
        assert name.endswith("num_batches_tracked") or torch.equal(found.tensors[name], value), name
    assert note in found.note
    assert bool(note) == bool(found.note)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("row", REFUSED)
def test_files_that_are_refused(row: str, tmp_path: Path) -> None:
    content, message = REFUSED[row]
    with pytest.raises(UserError, match=re.escape(message)):
        matched(tmp_path, content(dict(built(SMALL()).state_dict())), SMALL())


def test_a_stored_checkpoint_in_safetensors_fits(tmp_path: Path) -> None:
    weights = dict(built(SMALL()).state_dict())
    save_file(stored(weights), tmp_path / "s.safetensors")
    found = match_weights(read_weights(tmp_path / "s.safetensors"), SMALL(), built(SMALL(), seed=5)).tensors
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_larger_network_is_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    """Whatever it is wrapped in: layers that the backbone lacks are never left out."""
    weights = dict(built(SMALL()).state_dict())
    larger = {**weights, "body.9.weight": torch.ones(2)}
    for content in (larger, prefixed("module.", larger), {"model": prefixed("net.", larger)}, stored(larger)):
        with pytest.raises(UserError, match="it has beside them"):
            matched(tmp_path, content, SMALL())


def test_objects_beside_the_weights_are_never_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(objects_beside(dict(built(SMALL()).state_dict())), tmp_path / "w.pt")
    before = set(torch.serialization.get_safe_globals())  # torch lists a set: the order means nothing

    def created(*_: Any, **__: Any) -> None:
        raise AssertionError("an object of the file was created")

    monkeypatch.setattr(argparse.Namespace, "__init__", created)
    assert read_weights(tmp_path / "w.pt").tensors
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_dictionary_that_contains_itself_ends_the_search(tmp_path: Path) -> None:
    weights = dict(built(SMALL()).state_dict())
    endless: dict[str, Any] = {"model": weights}
    for key in "abcdefghij":
        endless[key] = endless
    assert matched(tmp_path, endless, SMALL()).tensors.keys() == weights.keys()
