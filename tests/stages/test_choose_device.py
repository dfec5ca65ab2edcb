"""`--device`: a kind, or a kind and a number; everything else is one sentence."""

from __future__ import annotations

import pytest
import torch

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.stages.open_worker import choose_device
from tests.support import bench


@pytest.fixture(params=[1, 4])
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    count: int = request.param
    return count


@pytest.mark.parametrize(
    "name", ["cuda:x", "cuda:", "cuda:-1", "cuda:4", "cuda:1.5", "cuda:²", "cuda:0:1", "cpu:1", "cpu:x"]
)
def test_numbers_that_no_device_has_are_refused(gpus: int, name: str) -> None:
    count = gpus if name.startswith("cuda") else 1
    known = "0 only" if count == 1 else f"0 to {count - 1}"
    kind = name.partition(":")[0]
    message = f"Device '{name}' is not available: the number of a {kind} device here is {known}. Use --device {kind}."
    with pytest.raises(UserError) as raised:
        choose_device(name)
    assert str(raised.value) == message


def test_devices_by_number(gpus: int) -> None:
    assert choose_device(f"cuda:{gpus - 1}") == torch.device("cuda", gpus - 1)
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu:0").type == choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["auto:0", "gpu:0", "CUDA:0", ":0", " cuda"])
def test_other_kinds_are_unknown(gpus: int, name: str) -> None:
    with pytest.raises(UserError, match=r"^Unknown device '.*'\. Choose auto, cpu, cuda or mps\.$"):
        choose_device(name)


def test_the_command_line_says_so_in_one_sentence(tmp_path: object) -> None:
    result = bench("run", "--detectors", "msp", "--device", "cpu:x", "--results", tmp_path, "--dry-run")
    assert result.exit_code == 2
    assert "the number of a cpu device here is 0 only. Use --device cpu." in result.stderr
    assert "Traceback" not in result.output
