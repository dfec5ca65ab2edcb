"""The confidence loss against closed forms, and the parts of a network that it leaves unchanged."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from oodbench.detectors._confidence_loss import confidence_loss, fixed_weights, frozen_batch_norm, kl_to_uniform
from tests.support import softmax

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")

LOGITS = st.tuples(st.integers(1, 5), st.integers(2, 12)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-100, 100))
)


def draw_logits(rows: int, classes: int, scale: float = 3.0) -> np.ndarray:
    drawn: np.ndarray = scale * np.random.RandomState(classes).randn(rows, classes)
    return drawn


def of(logits: np.ndarray) -> np.ndarray:
    values: np.ndarray = kl_to_uniform(torch.from_numpy(logits)).numpy()
    return values


class Plain(nn.Sequential):
    """A network without batch statistics."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * 6 * 6, 8), nn.Tanh(), nn.Linear(8, classes))


class Normalised(nn.Sequential):
    """A network with batch norm over pixels and over vectors, and dropout with probability 0."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 8), nn.BatchNorm1d(8)),
            nn.Linear(8, 4),
        )


@pytest.fixture
def data() -> tuple[Tensor, Tensor, Tensor]:
    """ID images, labels, and outliers with another mean, spread and number."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(9, 3, 6, 6, generator=random)
    outliers = 4 + 3 * torch.rand(7, 3, 6, 6, generator=random)
    return images, torch.arange(9) % 4, outliers


def forwards(network: nn.Module) -> list[int]:
    """A list that is filled with the number of images of each call as the network runs."""
    calls: list[int] = []
    network.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    return calls


def gradients(loss: Tensor, network: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, tuple(network.parameters()), retain_graph=True, materialize_grads=True))


def close(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one, two, rtol=1e-12, atol=1e-12)


# KL to uniform


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_kl_is_the_mean_over_classes_of_log_u_over_p(classes: int) -> None:
    logits = draw_logits(20, classes)
    p, u = softmax(logits), 1 / classes
    assert of(logits) == pytest.approx((u * np.log(u / p)).sum(axis=1), rel=1e-12)
    assert of(logits) == pytest.approx(scipy.stats.entropy(np.full_like(p, u), p, axis=1), rel=1e-12)


def test_kl_of_two_classes_has_a_closed_form() -> None:
    margins = np.array([0.0, 0.1, 3.0, 40.0, 700.0])
    logits = np.stack([margins, np.zeros(5)], axis=1)
    assert of(logits) == pytest.approx(margins / 2 + np.log1p(np.exp(-margins)) - np.log(2), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("level", [0.0, -7.5, 1e4])
def test_kl_of_equal_logits_is_zero(classes: int, level: float) -> None:
    assert of(np.full((3, classes), level)) == pytest.approx(0, abs=1e-11)


@given(LOGITS)
@settings(deadline=None)
def test_kl_is_never_negative(logits: np.ndarray) -> None:
    assert (of(logits) >= -1e-13).all()


@given(LOGITS, st.floats(-1e3, 1e3))
@settings(deadline=None)
def test_kl_ignores_a_constant_added_to_the_logits(logits: np.ndarray, constant: float) -> None:
    assert of(logits + constant) == pytest.approx(of(logits), rel=1e-9, abs=1e-9)


@given(LOGITS)
@settings(deadline=None, max_examples=50)
def test_gradient_of_kl_is_p_minus_uniform(logits: np.ndarray) -> None:
    variable = torch.from_numpy(logits.copy()).requires_grad_()
    kl_to_uniform(variable).sum().backward()
    assert variable.grad is not None
    assert variable.grad.numpy() == pytest.approx(softmax(logits) - 1 / logits.shape[1], abs=1e-14)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_batch_mean_is_the_released_element_mean_times_the_classes(classes: int) -> None:
    logits = torch.from_numpy(draw_logits(6, classes))
    uniform = torch.full_like(logits, 1 / classes)
    released = F.kl_div(F.log_softmax(logits, dim=1), uniform, reduction="none").mean() * classes
    assert float(kl_to_uniform(logits).mean()) == pytest.approx(float(released), rel=1e-12)


def test_kl_of_over_confident_float32_logits_is_finite() -> None:
    logits = torch.tensor([[500.0, 0, 0, 0], [0, -300, 0, 0]], dtype=torch.float32)
    assert kl_to_uniform(logits).tolist() == pytest.approx([375 - np.log(4), 75 + np.log(3 / 4)], rel=1e-6)


# One pass


def test_one_pass_gives_the_losses_of_two(data: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, outliers = data
    network = Plain()
    ce, kl = confidence_loss(network, images, labels, outliers)
    log_p = network(images).log_softmax(dim=1)
    two = -torch.stack([row[label] for row, label in zip(log_p, labels, strict=True)]).mean()
    other = (-np.log(4) - network(outliers).log_softmax(dim=1).mean(dim=1)).mean()
    assert ce.shape == kl.shape == ()
    assert close(ce, two)
    assert close(kl, other)
    for one, separate in ((ce, two), (kl, other), (ce + 0.3 * kl, two + 0.3 * other)):
        assert all(map(close, gradients(one, network), gradients(separate, network)))


@pytest.mark.parametrize("network", [Plain, Normalised])
def test_a_network_is_called_once(network: type[nn.Module], data: tuple[Tensor, Tensor, Tensor]) -> None:
    classifier = network()
    calls = forwards(classifier)
    confidence_loss(classifier, *data)
    assert calls == [16]


# The loss of a network with batch norm, which sees ID images and outliers together


def test_batch_norm_sees_both_together(data: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, outliers = data
    network = Normalised()
    other = copy.deepcopy(network)
    ce, kl = confidence_loss(network, images, labels, outliers)
    logits = other(torch.cat([images, outliers]))
    expected_ce, expected_kl = F.cross_entropy(logits[:9], labels), kl_to_uniform(logits[9:]).mean()
    assert close(ce, expected_ce)
    assert close(kl, expected_kl)
    assert all(map(close, gradients(kl, network), gradients(expected_kl, other)))
    assert not close(expected_kl, kl_to_uniform(other(outliers)).mean())


def test_running_statistics_are_those_of_both_counted_once(data: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, outliers = data
    network = Normalised()
    convolution, norm = network[0], network[1]
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    maps = convolution(torch.cat([images, outliers]))
    confidence_loss(network, images, labels, outliers)
    assert norm.running_mean is not None
    assert close(norm.running_mean, 0.1 * maps.mean(dim=(0, 2, 3)))  # from 0, with torch's momentum of 0.1
    assert int(network.get_buffer("1.num_batches_tracked")) == 1


# Passes in which batch norm keeps its statistics


def test_only_batch_norm_is_frozen() -> None:
    network = Normalised()
    with frozen_batch_norm(network):
        still = {type(module) for module in network.modules() if module.training}
    assert still == {Normalised, nn.Sequential, nn.Conv2d, nn.Tanh, nn.Flatten, nn.Dropout, nn.Linear}


def test_training_flags_are_restored(data: tuple[Tensor, Tensor, Tensor]) -> None:
    network = Normalised()
    network[1].eval()  # frozen by its user
    before = {name: module.training for name, module in network.named_modules()}
    with frozen_batch_norm(network):
        network(data[0])
    assert {name: module.training for name, module in network.named_modules()} == before


def test_training_flags_are_restored_when_the_network_raises() -> None:
    network = Normalised()
    with pytest.raises(RuntimeError, match="channels"), frozen_batch_norm(network):
        network(torch.rand(2, 5, 6, 6))
    assert all(module.training for module in network.modules())


# Fixed weights


def test_fixed_weights_let_gradients_through_and_none_in(data: tuple[Tensor, Tensor, Tensor]) -> None:
    network, images = Plain(), data[0].requires_grad_()
    with fixed_weights(network):
        assert not any(weight.requires_grad for weight in network.parameters())
        loss = network(images).square().sum()
    loss.backward()
    free = torch.autograd.grad(network(images).square().sum(), images)[0]
    assert images.grad is not None
    assert close(images.grad, free)
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize("raises", [False, True])
def test_fixed_weights_restore_what_was_free_and_nothing_else(raises: bool) -> None:
    one, two = Plain(), Normalised()
    one[1].requires_grad_(False)
    before = [weight.requires_grad for weight in (*one.parameters(), *two.parameters())]
    assert len(set(before)) == 2
    try:
        with fixed_weights(one, two):
            assert not any(weight.requires_grad for weight in (*one.parameters(), *two.parameters()))
            if raises:
                raise KeyError
    except KeyError:
        pass
    assert [weight.requires_grad for weight in (*one.parameters(), *two.parameters())] == before
