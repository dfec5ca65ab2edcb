"""The DCGAN against the released network: sizes, layers, initialisation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import DataError, Task
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._dcgan import discriminator, gan_networks, generator
from tests.detectors.recipe_setups import (
    CLASSES,
    classifier,
    make,
)

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")


def test_dcgan_has_the_released_number_of_parameters() -> None:
    networks = registry.get("recipe", "gan")().networks(Task(10, (3, 32, 32), classifier))
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert counts == {"generator": 3_448_576, "discriminator": 2_637_312}


@pytest.mark.parametrize("channels", [1, 3])
def test_dcgan_shapes_and_range(channels: int) -> None:
    networks = gan_networks(4, (channels, 32, 32))
    images = networks["generator"](100 * torch.randn(5, 100, 1, 1))
    assert images.shape == (5, channels, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.max() - images.min() > 0.1
    logits = networks["discriminator"](images)
    assert logits.shape == (5, 1, 1, 1)
    assert logits.min() < 0  # a logit, not a probability


def test_generator_computes_the_released_network() -> None:
    network = generator(4, 3)
    w1, g1, b1, w2, g2, b2, w3, g3, b3, w4 = network.parameters()
    z = torch.randn(5, 100, 1, 1)
    x = z
    for weight, gain, bias, stride, padding in ((w1, g1, b1, 1, 0), (w2, g2, b2, 2, 1), (w3, g3, b3, 2, 1)):
        x = F.conv_transpose2d(x, weight, stride=stride, padding=padding)
        x = F.relu(F.batch_norm(x, None, None, gain, bias, training=True))
    expected = torch.sigmoid(F.conv_transpose2d(x, w4, stride=2, padding=1))
    assert torch.allclose(network(z), expected, rtol=0, atol=1e-12)


def test_discriminator_computes_the_released_network() -> None:
    network = discriminator(4, 3)
    w1, w2, g2, b2, w3, g3, b3, w4 = network.parameters()
    images = torch.rand(5, 3, 32, 32)
    x = F.leaky_relu(F.conv2d(images, w1, stride=2, padding=1), 0.2)
    for weight, gain, bias in ((w2, g2, b2), (w3, g3, b3)):
        x = F.conv2d(x, weight, stride=2, padding=1)
        x = F.leaky_relu(F.batch_norm(x, None, None, gain, bias, training=True), 0.2)
    assert torch.allclose(network(images), F.conv2d(x, w4), rtol=0, atol=1e-12)


def test_dcgan_weights_are_drawn_as_released() -> None:
    for network in gan_networks(32, (3, 32, 32)).values():
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert module.bias is None
                assert_normal(module.weight, 0.0, name)
            elif isinstance(module, nn.BatchNorm2d):
                assert_normal(module.weight, 1.0, name)
                assert not module.bias.any()


def assert_normal(weight: Tensor, mean: float, name: str) -> None:
    """Mean and standard deviation of 0.02 hold within five standard errors."""
    count, weight = weight.numel(), weight.detach()
    assert float(weight.mean()) == pytest.approx(mean, abs=5 * 0.02 / math.sqrt(count)), name
    assert float(weight.std()) == pytest.approx(0.02, abs=5 * 0.02 / math.sqrt(2 * count)), name


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 32, 64), (1, 8, 32)])
@pytest.mark.parametrize("name", ["gan", "joint"])
def test_dcgan_refuses_other_sizes(name: str, shape: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match=rf"32 x 32 images; these are {shape[1]} x {shape[2]}\. Use a recipe without"):
        make(name).networks(Task(CLASSES, shape, classifier))
