"""What detectors may learn and how it survives storage: tensors, arrays, plain and nested values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.stages.detector_state import load_state, save_state


class Probe(Detector):
    """A detector whose state each test sets."""

    name = "probe"
    version = "1"

    def score(self, batch: Batch) -> Tensor:
        """Never called."""
        raise AssertionError("score() must not be called")


def through_a_file(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    saved, loaded = Probe(), Probe()
    saved.load_state(state)
    save_state(saved, folder / "state.safetensors")
    load_state(loaded, folder / "state.safetensors")
    return loaded.state()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 4),
        torch.rand(3, 4, dtype=torch.float64).T,
        torch.tensor(2.5),
        torch.zeros(0, 3),
        torch.tensor([1, 2]),
        torch.tensor([True, False]),
        torch.rand(2, requires_grad=True),
    ],
    ids=["matrix", "transposed", "scalar", "empty", "integers", "booleans", "with gradient"],
)
def test_tensors_survive_storage(tmp_path: Path, tensor: Tensor) -> None:
    back = through_a_file({"t_": tensor}, tmp_path)["t_"]
    assert isinstance(back, Tensor)
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor.detach())


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "uint8", "bool"])
def test_arrays_survive_storage(tmp_path: Path, dtype: str) -> None:
    for array in (np.arange(6).reshape(2, 3).astype(dtype), np.array(1, dtype), np.arange(4).astype(dtype)[::-2]):
        back = through_a_file({"a_": array}, tmp_path)["a_"]
        assert isinstance(back, np.ndarray)
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)


def test_plain_and_nested_values_survive_storage(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "number_": 1 / 3,
        "whole_": 10**20,
        "truth_": False,
        "nothing_": None,
        "word_": "été",
        "numpy_": np.float64(1 / 3),
        "single_": np.float32(0.1),
        "integer_": np.int64(7),
        "list_": [1, [2.5, "x"], []],
        "dict_": {1: "one", "two": {"tensor": [3]}, 0.5: {}, None: 4},
    }
    assert through_a_file(state, tmp_path) == {**state, "single_": float(np.float32(0.1))}


def test_tensors_inside_lists_and_dicts_survive_storage(tmp_path: Path) -> None:
    shared = torch.rand(2)
    state = {"per_class_": {0: shared, 1: [np.arange(3), shared]}, "again_": shared}
    back = through_a_file(state, tmp_path)
    assert torch.equal(back["per_class_"][0], shared)
    assert np.array_equal(back["per_class_"][1][0], np.arange(3))
    assert torch.equal(back["per_class_"][1][1], shared)
    assert torch.equal(back["again_"], shared)


def test_nothing_learned_survives_storage(tmp_path: Path) -> None:
    assert through_a_file({}, tmp_path) == {}


@pytest.mark.parametrize(
    "value",
    [object(), nn.Linear(1, 1), {1, 2}, float("nan"), [np.float64("inf")], np.array(["a"]), lambda: 0, 1j],
    ids=["object", "network", "set", "NaN", "infinity", "strings", "function", "complex"],
)
def test_what_cannot_be_stored_is_named(tmp_path: Path, value: object) -> None:
    detector = Probe()
    detector.load_state({"learned_": value})
    with pytest.raises(PluginError, match=r"What detector 'probe' learned cannot be stored: .*Attributes that end in"):
        save_state(detector, tmp_path / "state.safetensors")
    assert not (tmp_path / "state.safetensors").exists()
