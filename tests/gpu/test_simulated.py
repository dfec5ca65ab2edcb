"""The simulated GPU refuses what a real one refuses, and computes what the CPU computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.gpu.simulated import simulated_gpu


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    with simulated_gpu():
        yield torch.device("cuda")


WRONG: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda there, here: there + here,
    "product": lambda there, here: here @ there.T,
    "concatenation": lambda there, here: torch.cat([there, here]),
    "choice": lambda there, here: torch.where(there > 0, there, here),
    "a row of the CPU by an index on the GPU": lambda there, here: here[there[0].argsort()[:1]],
    "values of the CPU": lambda there, here: there.index_put_((torch.tensor([0, 1]),), here),
    "in place": lambda there, here: here.add_(there),
    "loss": lambda there, here: F.cross_entropy(there, here.argmax(dim=1)),
    "layer": lambda there, here: nn.Linear(4, 2)(there),
    "generator of the CPU": lambda there, here: torch.rand(2, device=there.device, generator=torch.Generator("cpu")),
    "generator of the GPU": lambda there, here: torch.randperm(2, generator=torch.Generator("cuda")),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG.keys())
def test_two_devices_in_one_operation_are_refused(cuda: torch.device, call: Callable[[Tensor, Tensor], object]) -> None:
    there, here = torch.ones(2, 4, device=cuda), torch.ones(2, 4)
    with pytest.raises(RuntimeError, match=r"same device|a generator on"):
        call(there, here)


@pytest.mark.parametrize("convert", [np.asarray, lambda tensor: tensor.numpy(), lambda tensor: tensor.detach().numpy()])
def test_an_array_needs_a_copy_on_the_cpu(cuda: torch.device, convert: Callable[[Tensor], object]) -> None:
    tensor = torch.ones(2, device=cuda)
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        convert(tensor)
    assert tensor.cpu().numpy().tolist() == [1, 1]


def test_what_torch_allows_works(cuda: torch.device) -> None:
    there = torch.arange(6.0).view(2, 3).to(cuda)
    assert (there * torch.tensor(2.0)).cpu().sum() == 30
    assert there[torch.tensor([1])].tolist() == [[3, 4, 5]]
    assert there.sum().item() == 15
    assert there.to(cuda) is there
    here = torch.zeros(2, 3)
    here.copy_(there)
    there[0] = 7
    assert here[0].tolist() == [0, 1, 2]
    assert there.device.type == there.new_zeros(1).device.type == torch.zeros_like(there).device.type == "cuda"
    assert here.device.type == "cpu"


def trained(device: str) -> list[Tensor]:
    """Weights and statistics after five steps."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    images, labels = torch.rand(8, 3, 9, 9), torch.arange(8) % 3
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
        optimizer.step()
    return [value.detach().cpu() for value in network.state_dict().values()]


def test_a_training_ends_in_the_weights_of_the_cpu(one_thread: None) -> None:
    expected = trained("cpu")
    with simulated_gpu():
        found = trained("cuda")
    assert all(map(torch.equal, found, expected))


def test_gradients_go_back_to_where_a_tensor_was(cuda: torch.device) -> None:
    images = torch.ones(2, 3, device=cuda, requires_grad=True)
    (images.double().cpu() * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert images.grad is not None
    assert images.grad.device.type == "cuda"
    assert images.grad.tolist() == [[1, 2, 3]] * 2


def test_torch_is_as_before_afterwards() -> None:
    names = ("Generator", "autocast"), ("is_available", "manual_seed", "get_rng_state")
    before = [getattr(torch, name) for name in names[0]] + [getattr(torch.cuda, name) for name in names[1]]
    with simulated_gpu():
        assert torch.cuda.is_available()
        assert torch.zeros(1, device="cuda").device.type == "cuda"
    assert [getattr(torch, name) for name in names[0]] + [getattr(torch.cuda, name) for name in names[1]] == before
    assert "to" not in vars(torch.Tensor)
    assert type(torch.zeros(1)) is Tensor
    with torch.inference_mode():
        assert torch.zeros(1).is_inference()
