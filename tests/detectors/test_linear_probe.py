"""Heads on features: against scikit-learn, and against gradients of the whole loss that torch computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from oodbench.benchmark import Head, HeadData, OodbenchError
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.recipe import fits_head, needs_start
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.detectors import _logistic

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, WIDTH = 4, 11


def features(count: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping classes in features of unlike scales, one of them constant; and their labels."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, CLASSES, count)
    centres = np.random.RandomState(9).randn(CLASSES, WIDTH)
    found = (centres[labels] + random.randn(count, WIDTH)) * 10.0 ** np.linspace(-2, 2, WIDTH) + 3
    found[:, 4] = 0.75
    return torch.from_numpy(found.astype(np.float32)), torch.from_numpy(labels)


def data(seed: int = 0, count: int = 200) -> HeadData:
    outliers = features(70, seed=5)[0] * 0.5
    return HeadData(*features(count), outliers, CLASSES, torch.Generator().manual_seed(seed))


def head(text: str, given: HeadData | None = None) -> Head:
    fitted: Head = create("recipe", parse_spec(text)).fit_head(given or data())
    return fitted


def logits(fitted: Head, of: Tensor) -> Tensor:
    return of.double() @ fitted.weight.T + fitted.bias


@pytest.mark.parametrize("l2", [0.1, 0.001])
def test_the_probe_is_the_logistic_regression_of_scikit_learn(l2: float) -> None:
    given = data()
    x = given.features.double().numpy()
    mean, std = x.mean(axis=0), np.where(np.arange(WIDTH) == 4, 1.0, x.std(axis=0))
    expected = LogisticRegression(C=1 / (len(x) * l2), tol=1e-10, max_iter=10_000).fit((x - mean) / std, given.labels)
    found = head(f"linear_probe[l2={l2}]")
    assert np.allclose(found.weight.numpy() * std, expected.coef_, atol=1e-4)
    assert np.allclose(found.weight[:, 4], 0)  # a constant feature says nothing
    probabilities = logits(found, given.features).softmax(dim=1).numpy()
    assert np.allclose(probabilities, expected.predict_proba((x - mean) / std), atol=1e-5)
    assert found.losses["cross_entropy"] == pytest.approx(
        float(F.cross_entropy(logits(found, given.features), given.labels)), abs=1e-9
    )


def whole_loss(weight: Tensor, bias: Tensor, given: HeadData, l2: float, beta: float) -> Tensor:
    """The loss as its paper writes it, with a head on standardised features."""
    x = given.features.double()
    std = x.std(dim=0, correction=0)
    std[4] = 1
    z, outliers = ((part.double() - x.mean(dim=0)) / std @ weight.T + bias for part in (x, given.outliers))  # type: ignore[union-attr]
    uniform = torch.full_like(outliers, 1 / CLASSES)
    kl = (uniform * (uniform.log() - F.log_softmax(outliers, dim=1))).sum(dim=1).mean()
    return F.cross_entropy(z, given.labels) + beta * kl + l2 / 2 * (weight**2).sum()


@pytest.mark.parametrize("beta", [0.0, 0.3, 2.0])
def test_the_confidence_head_is_the_optimum_of_the_paper_s_loss(beta: float) -> None:
    given, l2 = data(), 0.02
    found = head(f"confidence_head[l2={l2},beta={beta},tolerance=1e-7]")
    x = given.features.double()
    std = x.std(dim=0, correction=0)
    std[4] = 1
    weight = (found.weight * std).requires_grad_()
    bias = (found.bias + found.weight @ x.mean(dim=0)).requires_grad_()
    whole_loss(weight, bias, given, l2, beta).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-6
    assert float(bias.grad.abs().max()) < 1e-6
    if beta == 0:
        assert torch.allclose(found.weight, head(f"linear_probe[l2={l2}]").weight, atol=1e-6)


def test_confidence_on_outliers_falls_with_beta() -> None:
    outliers = data().outliers
    assert outliers is not None
    confidence = [
        float(
            logits(head(f"confidence_head[beta={beta},tolerance=1e-7]"), outliers)
            .softmax(dim=1)
            .max(dim=1)
            .values.mean()
        )
        for beta in (0, 1, 10)
    ]
    assert confidence[0] > confidence[1] + 0.05 > confidence[2] + 0.1


def test_scales_of_features_do_not_matter() -> None:
    given = data()
    factors = torch.logspace(-3, 3, WIDTH)
    other = given._replace(features=given.features * factors)
    expected = logits(head("linear_probe"), given.features)
    assert torch.allclose(logits(head("linear_probe", other), other.features), expected, atol=1e-4)


@pytest.mark.parametrize("kept", [True, False])
def test_features_in_pieces_give_the_same_head(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    expected = head("confidence_head[l2=0.01,tolerance=1e-7]")
    monkeypatch.setattr(_logistic, "ROWS", 64)
    if not kept:
        monkeypatch.setattr(_logistic, "KEPT", 0)
    found = head("confidence_head[l2=0.01,tolerance=1e-7]")
    assert torch.allclose(found.weight, expected.weight, atol=1e-6)
    assert torch.allclose(found.bias, expected.bias, atol=1e-6)


def test_the_seed_does_not_matter_and_repeating_gives_the_same_bytes() -> None:
    one, two = (head("linear_probe", data(seed)) for seed in (0, 1))
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)


def test_a_head_that_does_not_converge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_logistic, "MOST_STEPS", 2)
    monkeypatch.setattr(_logistic, "MOST_NEWTON", 0)
    with pytest.raises(OodbenchError, match=r"has not converged in 2 steps\. Raise its l2, which is 0\.0001\."):
        head("linear_probe[l2=0.0001]")


@pytest.mark.parametrize("text", ["linear_probe[l2=0.01]", "confidence_head[beta=2,l2=0.01,tolerance=1e-7]"])
def test_newton_steps_alone_find_the_same_head(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    expected = head(text)
    monkeypatch.setattr(_logistic, "MOST_STEPS", 1)
    monkeypatch.setattr(_logistic, "MOST_NEWTON", 8)  # enough with the right Hessian, of which every step is one
    found = head(text)
    std = data().features.double().std(dim=0)
    assert torch.allclose(found.weight * std, expected.weight * std, atol=1e-5)
    assert found.losses == pytest.approx(expected.losses, abs=1e-7)


def test_outliers_far_outside_the_training_features_are_accepted() -> None:
    """As photographs of other things are: some features hardly vary in training images and do in outliers."""
    given, l2 = data(), 0.001
    spread = given.features.std(dim=0)
    wild = (
        given.features.mean(dim=0) + 30 * spread * torch.from_numpy(np.random.RandomState(3).randn(150, WIDTH)).float()
    )
    given = given._replace(outliers=wild)
    found = head(f"confidence_head[l2={l2}]", given)
    x = given.features.double()
    std = x.std(dim=0, correction=0)
    std[4] = 1
    weight = (found.weight * std).requires_grad_()
    bias = (found.bias + found.weight @ x.mean(dim=0)).requires_grad_()
    whole_loss(weight, bias, given, l2, 1.0).backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 2 * _logistic.ACCEPTED


@pytest.mark.parametrize(
    "text, message",
    [
        ("linear_probe[l2=0]", "l2 must be above 0, got 0"),
        ("confidence_head[beta=-1]", "beta must not be negative, got -1"),
        ("fine_tune[momentum=1]", "momentum and shift must be in"),
    ],
)
def test_settings_out_of_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("recipe", parse_spec(text))


def test_which_recipes_start_from_given_weights() -> None:
    kinds: dict[str, Any] = {
        name: create("recipe", parse_spec(name)) for name in ("linear_probe", "fine_tune", "cross_entropy")
    }
    assert {name: (fits_head(recipe), needs_start(recipe)) for name, recipe in kinds.items()} == {
        "linear_probe": (True, True),
        "fine_tune": (False, True),
        "cross_entropy": (False, False),
    }
