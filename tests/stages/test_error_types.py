"""Errors of torch are told apart by their type: a plug-in's error with the same words is the plug-in's own."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData
from oodbench.benchmark.stages import memory
from tests.support import run_suite, write_suite

MATRIX = """
[[id]]
set = "digits"
ood = [{ set = "greek", group = "near" }]
"""


def error_of(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("no error was raised")


def allocate(count: int) -> Tensor:
    return torch.empty(count)


RAN_OUT: dict[str, Callable[[], BaseException]] = {
    "torch on the CPU": lambda: error_of(lambda: allocate(1 << 50)),
    "numpy": lambda: error_of(lambda: np.empty(1 << 50)),
    "Python": lambda: MemoryError(),
    "the system": lambda: OSError(errno.ENOMEM, "Nicht genügend Hauptspeicher verfügbar"),
    "torch on a GPU": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "torch on a GPU, in other words": lambda: torch.cuda.OutOfMemoryError("no room"),
    "a library on a GPU": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "Apple": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 1.00 GB)"),
}


class SlotsError(RuntimeError):
    """An error of a plug-in."""


OTHER: dict[str, Callable[[], BaseException]] = {
    "a plug-in's words": lambda: RuntimeError("the bank is out of memory slots: give a larger one"),
    "a plug-in's words in its own type": lambda: SlotsError("CUDA error: out of memory, or so"),
    "a file's name": lambda: OSError(errno.ENOENT, "No such file", "out of memory.txt"),
    "a size that overflows": lambda: error_of(lambda: allocate(1 << 62)),
    "shapes": lambda: error_of(lambda: torch.ones(2) @ torch.ones(3)),
}


@pytest.mark.parametrize("what", RAN_OUT)
def test_memory_ran_out(what: str) -> None:
    assert memory.ran_out(RAN_OUT[what]())


@pytest.mark.parametrize("what", OTHER)
def test_memory_did_not_run_out(what: str) -> None:
    assert not memory.ran_out(OTHER[what]())


class Loads(Detector):
    """A detector that loads weights of its own, which do not fit."""

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fail as `load_state_dict` fails."""
        nn.Linear(2, 2).load_state_dict({"weight": torch.ones(3, 3)})

    def score(self, batch: Batch) -> Tensor:
        """Never called."""
        raise AssertionError("fit failed")


def test_a_plugin_that_loads_wrong_weights_fails_alone(
    tmp_path: Path, one_thread: None, register: Callable[..., None]
) -> None:
    """The classifier's checkpoint is not set aside for it, and the run goes on."""
    register("loads", Loads)
    run = run_suite(write_suite(tmp_path, MATRIX), "loads,msp", limit_train=40)
    status = {record.detector: record for record in run.records}
    assert status["msp"].status == "ok"
    assert status["loads"].status == "failed"
    assert "Error(s) in loading state_dict for Linear" in status["loads"].reason
    assert not (tmp_path / "results" / "cache" / "damaged").exists()
