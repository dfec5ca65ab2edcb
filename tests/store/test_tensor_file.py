"""What detectors learned, as stored in tensor files: values and types survive, and unsuitable ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oodbench.benchmark import Batch, Detector
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.stages.detector_state import load_state, save_state


class Learner(Detector):
    def score(self, batch: Batch) -> Any:
        return batch.logits[:, 0]


def through_a_file(value: Any, folder: Path) -> Any:
    detector, fresh = Learner(), Learner()
    detector.load_state({"learned_": value})
    save_state(detector, folder / "state.safetensors")
    load_state(fresh, folder / "state.safetensors")
    assert set(fresh.state()) == {"learned_"}
    return fresh.state()["learned_"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -0.25,
        "wörd",
        [1, [2.5, "x"], []],
        (1, (2,), [3]),
        {"a": 1, 2: "b", (3, "c"): {"d": None}},
        {"tensor": 1, "array": 2, "dict": 3, "tuple": 4},
    ],
)
def test_plain_data_is_restored(tmp_path: Path, value: Any) -> None:
    assert through_a_file(value, tmp_path) == value
    assert repr(through_a_file(value, tmp_path)) == repr(value), "including types"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"])
def test_arrays_and_tensors_are_restored(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    for value in (array, array[:, ::-1], array.T, array[:0], np.array(array[1, 1])):
        loaded = through_a_file(value, tmp_path)
        assert isinstance(loaded, np.ndarray)
        assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape)
        assert np.array_equal(loaded, value)
        as_tensor = torch.from_numpy(value.copy())
        back = through_a_file({"means": [as_tensor, as_tensor]}, tmp_path)["means"]
        assert all(
            isinstance(t, torch.Tensor) and t.dtype == as_tensor.dtype and torch.equal(t, as_tensor) for t in back
        )


def test_state_is_copied_not_shared(tmp_path: Path) -> None:
    weights = torch.nn.Parameter(torch.ones(3))
    loaded = through_a_file(weights[1:], tmp_path)
    assert not loaded.requires_grad
    assert loaded.tolist() == [1, 1]


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    for _ in range(2):
        through_a_file({"b": torch.ones(3), "a": [np.zeros(2), "x"]}, tmp_path)
        (tmp_path / "state.safetensors").replace(tmp_path / f"{len(list(tmp_path.iterdir()))}")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        object(),
        lambda: None,
        float("nan"),
        np.array([{}], dtype=object),
        np.array(["a"]),
        np.array([1 + 2j]),
        torch.nn.Linear(2, 2),
        torch.eye(3).to_sparse(),
        [torch.ones(2), Path("x")],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_cannot_be_stored_are_reported(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        PluginError, match=r"^What detector '' learned cannot be stored: .* Attributes that end in '_' "
    ):
        through_a_file(value, tmp_path)
    assert list(tmp_path.iterdir()) == []
