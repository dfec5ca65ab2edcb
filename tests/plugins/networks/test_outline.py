"""Networks that are built to look at their shape: no memory, no random numbers, no import of torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from oodbench.benchmark import Task
from oodbench.benchmark.plugins.networks.outline import outlines
from oodbench.benchmark.plugins.registry import registry


def small() -> nn.Module:
    return nn.Linear(4, 3)


@pytest.mark.parametrize("name", ["joint", "gan_confidence", "cross_entropy"])
def test_networks_have_their_shapes_without_numbers(name: str) -> None:
    recipe = registry.get("recipe", name)()
    task = Task(10, (3, 32, 32), small)
    before = torch.get_rng_state()
    with outlines():
        found = recipe.networks(task)
    assert torch.equal(torch.get_rng_state(), before)
    real = recipe.networks(task)
    for key, network in real.items():
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        assert {name: value.shape for name, value in found[key].state_dict().items()} == shapes
        assert all(value.is_meta for value in found[key].state_dict().values())


def test_tensors_with_memory_are_still_drawn() -> None:
    with outlines():
        real = torch.zeros(100, device="cpu").normal_()
        also = nn.init.uniform_(tensor=torch.zeros(100, device="cpu"))
    assert real.unique().numel() > 90
    assert also.unique().numel() > 90


def test_a_network_that_computes_while_it_is_built_raises() -> None:
    with pytest.raises(RuntimeError), outlines():
        torch.zeros(2).tolist()


@pytest.mark.slow
def test_the_compiler_is_not_imported() -> None:
    code = (
        "import sys, torch\n"
        "from oodbench.benchmark.plugins.networks.outline import outlines\n"
        "with outlines():\n"
        "    torch.nn.init.normal_(torch.nn.Conv2d(3, 4, 3).weight, 0, 0.02)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
