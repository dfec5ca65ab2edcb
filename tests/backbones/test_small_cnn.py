"""The small convolutional network: its size, the images it accepts, and its features."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from oodbench.benchmark.backbones.small_cnn import SmallCNN, SmallCNNNetwork
from oodbench.benchmark.plugins.registry import registry

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def build(classes: int = 10, shape: tuple[int, int, int] = (3, 32, 32), **settings: int) -> SmallCNNNetwork:
    network = SmallCNN(**settings).build(classes, shape)
    assert isinstance(network, SmallCNNNetwork)
    return network


def test_it_has_as_many_parameters_as_its_layers_add_up_to() -> None:
    convolutions = (3 * 25 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 64
    linear = (64 * 4 * 4 + 1) * 128 + (128 + 1) * 10
    assert sum(weight.numel() for weight in build().parameters()) == convolutions + linear == 190_346


@pytest.mark.parametrize("settings", [{}, {"width": 4, "hidden": 6}, {"width": 1, "hidden": 1}])
@pytest.mark.parametrize(
    "classes, shape", [(10, (3, 32, 32)), (2, (1, 28, 28)), (7, (3, 8, 8)), (1000, (3, 64, 64)), (3, (2, 33, 47))]
)
def test_features_and_logits_have_their_shapes_for_any_image(
    classes: int, shape: tuple[int, int, int], settings: dict[str, int]
) -> None:
    network = build(classes, shape, **settings)
    features, logits = network.features(torch.rand(5, *shape)), network(torch.rand(5, *shape))
    assert features.shape == (5, settings.get("hidden", 128))
    assert logits.shape == (5, classes)


def test_it_computes_its_layers() -> None:
    network = build(shape=(3, 20, 28), width=4, hidden=6).double()
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = network.parameters()
    images = torch.rand(5, 3, 20, 28, dtype=torch.float64)
    x = F.relu(F.conv2d(images, w1, b1, stride=2, padding=2))
    x = F.relu(F.conv2d(x, w2, b2, stride=2, padding=1))
    x = F.relu(F.conv2d(x, w3, b3, stride=2, padding=1))
    features = F.relu(x.flatten(1) @ w4.T + b4)
    assert x.shape == (5, 8, 3, 4)
    assert torch.allclose(network.features(images), features, rtol=0, atol=1e-12)
    assert torch.allclose(network(images), features @ w5.T + b5, rtol=0, atol=1e-12)


def test_features_are_not_negative_and_feed_the_head() -> None:
    network, images = build(), torch.rand(50, 3, 32, 32)
    features = network.features(images)
    assert (features >= 0).all()
    assert (features > 0).any(dim=0).any()
    assert (features == 0).any()
    assert isinstance(network.head, nn.Linear)
    assert torch.equal(network(images), network.head(features))


def test_it_keeps_no_batch_statistics_and_drops_nothing() -> None:
    network, images = build(), torch.rand(6, 3, 32, 32)
    assert not list(network.buffers())
    assert torch.equal(network.train()(images), network.eval()(images))


def test_two_builds_differ_and_the_same_seed_repeats() -> None:
    one, two = build(), build()
    torch.manual_seed(0)
    repeated = build()
    assert not torch.equal(one.head.weight, two.head.weight)
    assert all(map(torch.equal, one.state_dict().values(), repeated.state_dict().values()))


def test_it_is_registered() -> None:
    assert registry.get("backbone", "small_cnn") is SmallCNN
    assert SmallCNN().settings == {"width": 32, "hidden": 128}
