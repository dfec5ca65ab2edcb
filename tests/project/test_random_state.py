"""Torch's global generators are restored on the device of the work, and no other device is touched."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from oodbench.benchmark.stats.seeds import restored_rng

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_fork_names_its_devices() -> None:
    """Without `devices`, `fork_rng` starts a context on every GPU of the machine."""
    calls = 0
    for folder in ("benchmark", "detectors", "datasets", "figures", "perf"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fork_rng"):
                    calls += 1
                    named = {keyword.arg for keyword in node.keywords}
                    assert "devices" in named, f"{file.relative_to(ROOT)}:{node.lineno}"
    assert calls


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every `fork_rng`, which does nothing."""
    seen: list[dict[str, Any]] = []

    @contextmanager
    def fork_rng(**options: Any) -> Iterator[None]:
        seen.append(options)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    return seen


@pytest.mark.parametrize(
    ("name", "devices"),
    [("cpu", []), ("mps", []), ("cuda", [torch.device("cuda")]), ("cuda:2", [torch.device("cuda:2")])],
)
def test_only_the_device_of_the_work_is_forked(
    name: str, devices: list[torch.device], forks: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[str] = []
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "before")
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    with pytest.raises(KeyError), restored_rng(torch.device(name)):
        raise KeyError
    assert forks == [{"devices": devices, "device_type": "cuda"}]
    assert states == (["before"] if name == "mps" else [])


def test_the_state_on_the_cpu_is_restored_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with suppress(KeyError), restored_rng(torch.device("cpu")):
        torch.manual_seed(7)
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
