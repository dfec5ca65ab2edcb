"""Generalized ODIN: the decomposition of its logits, its loss and its score, from their definitions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, FitData
from oodbench.benchmark.plugins.inputs import NAMED
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors.godin import EPSILONS, SIMILARITIES, Domain, largest_h
from tests.detectors.recipe_setups import BATCH, CLASSES
from tests.detectors.test_loss_recipes import batch, cross_entropy, one_hot, start

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")


def make(**settings: Any) -> Any:
    return registry.get("recipe", "godin")(**settings)


def trained(**settings: Any) -> Any:
    """A network after some steps, so that g and the running statistics of its batch norm are not those of the start."""
    recipe = make(**settings)
    training = start(recipe)
    for step in range(5):
        recipe.step(training, batch(step))
    return training.networks["classifier"].eval()


def defined(network: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, h and g from the backbone's features and the weights that are learned."""
    f = network.wrapped.features(images)
    w = network.head.parametrizations.weight.original
    if network.similarity == "cosine":
        lengths = [torch.sqrt((one**2).sum(dim=1)) + 1e-4 for one in (f, w)]
        h = (f @ w.T) / lengths[0][:, None] / lengths[1][None, :]
    elif network.similarity == "inner":
        h = f @ w[:, :-1].T + w[:, -1]
    else:
        h = -((f[:, None, :] - w[None, :, :]) ** 2).mean(dim=2)
    values = network.domain.linear(f)
    norm = network.domain.norm
    mean, variance = (
        (values.mean(), values.var(unbiased=False)) if network.training else (norm.running_mean, norm.running_var)
    )
    values = (values - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias
    return f, h, 1 / (1 + torch.exp(-values))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_head_makes_h_over_g_of_the_features(similarity: str) -> None:
    network, images = trained(similarity=similarity), batch(7).images
    _, h, g = defined(network, images)
    assert g.std() > 1e-4
    features = network.features(images)
    weight, bias = network.head.weight, network.head.bias
    for logits in (network(images), network.head(features), features @ weight.T + bias):
        assert torch.allclose(logits, h / g, rtol=0, atol=1e-10)
    assert not bias.any()
    outputs = network.outputs(features)
    assert torch.allclose(outputs["h"], h, rtol=0, atol=1e-10)
    assert torch.allclose(outputs["g"], g, rtol=0, atol=1e-12)
    rounded = network.outputs(features.float().double())  # as features are stored
    assert torch.allclose(rounded["h"], h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_step_descends_on_the_cross_entropy_of_the_quotient(similarity: str) -> None:
    recipe = make(similarity=similarity)
    training = start(recipe)
    network = training.networks["classifier"]
    learned = {name for name, weight in network.named_parameters() if weight.requires_grad}
    training.optimizers["classifier"] = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(3):
        plain, given = copy.deepcopy(network), batch(step)
        _, h, g = defined(plain, given.images)
        weights = {name: weight for name, weight in plain.named_parameters() if name in learned}
        gradients = torch.autograd.grad(cross_entropy(h / g, one_hot(given.labels)), tuple(weights.values()))
        logged = recipe.step(training, given)
        assert float(logged["accuracy"]) == float((h.argmax(dim=1) == given.labels).double().mean())
        after = dict(network.named_parameters())
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            assert torch.allclose(after[name], weight - 0.1 * gradient, rtol=0, atol=1e-9), name
    assert len(learned) == 7  # convolution, w, and of g a linear map and a batch norm


@pytest.mark.parametrize("like", ["cross_entropy", "standard", "one_cycle"])
def test_the_weights_of_h_have_no_weight_decay(like: str) -> None:
    recipe = make(like=like)
    training = start(recipe)
    network: Any = training.networks["classifier"]
    (optimizer,) = training.optimizers.values()
    own = network.head.parametrizations.weight.original
    decays = {id(w): group["weight_decay"] for group in optimizer.param_groups for w in group["params"]}
    assert decays.pop(id(own)) == 0
    assert decays.keys() == {id(w) for w in network.parameters() if w.requires_grad and w is not own}
    assert any(decays.values()) == (like != "cross_entropy")
    assert {group["lr"] for group in optimizer.param_groups} == {recipe.model.settings["learning_rate"]}


def test_the_loss_has_no_gradient_for_the_bias_of_the_head() -> None:
    training = start(make())
    network: Any = training.networks["classifier"]
    network(batch().images).sum().backward()
    assert network.head.bias.grad is None
    assert not network.head.bias.requires_grad


def test_g_of_a_batch_of_one_uses_the_running_statistics() -> None:
    torch.manual_seed(0)
    domain = Domain(4)
    features = torch.rand(5, 4)
    domain(features)
    before = [buffer.clone() for buffer in domain.buffers()]
    alone = domain(features[:1])
    assert all(torch.equal(a, b) for a, b in zip(before, domain.buffers(), strict=True))
    assert torch.allclose(alone, domain.eval()(features)[:1], rtol=0, atol=1e-12)


def test_g_is_never_so_small_that_logits_are_not_finite() -> None:
    domain = Domain(1).eval()
    with torch.no_grad():
        domain.linear.weight.fill_(-1e9)
    assert float(domain(torch.ones(1, 1)).detach()) == 1e-6


def test_a_linear_head_is_needed() -> None:
    with pytest.raises(DataError, match="replaces a linear head, and this backbone has none"):
        start(make(), lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)))
    with pytest.raises(ValueError, match="similarity must be cosine, inner or euclidean, got 'dot'"):
        make(similarity="dot")


# the score


def batch_of(images: Tensor, network: Any) -> Batch:
    """What the detector gets."""
    classifier = Classifier(network, CLASSES)
    h = network.outputs(network.features(images))["h"].detach()
    parts = {"images": lambda rows: images[rows].clone(), f"{NAMED}h": lambda rows: h[rows]}
    return Batch(len(images), parts, "godin", classifier)


def moved(network: Any, images: Tensor, epsilon: float) -> Tensor:
    """max_k h_k of images that are moved, one by one."""
    found = []
    for image in images[:, None]:
        given = image.clone().requires_grad_()
        defined(network, given)[1].max().backward()
        assert given.grad is not None
        # Where the gradient is 0 but for rounding, its sign is not defined.
        step = torch.where(given.grad.abs() > 1e-12, given.grad.sign(), 0.0)
        found.append(defined(network, image + epsilon * step)[1].max())
    return torch.stack(found).detach()


def detector(network: Any, images: Tensor, **settings: Any) -> Any:
    fitted = registry.get("detector", "godin")(**settings)
    held = batch_of(images, network)
    fitted.fit(Classifier(network, CLASSES), FitData(held, held))
    return fitted


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("epsilon", [0.0, 0.02])
def test_the_score_is_the_largest_h_of_the_moved_image(similarity: str, epsilon: float) -> None:
    network, images = trained(similarity=similarity), batch(9).images
    scores = detector(network, images, epsilon=epsilon).score(batch_of(images, network))
    expected = -moved(network, images, epsilon)
    assert torch.allclose(scores, expected, rtol=0, atol=1e-9)
    assert expected.std() > 1e-3


def test_epsilon_is_the_one_with_the_largest_mean_over_id_validation_images() -> None:
    network, images = trained(), batch(9).images
    fitted = detector(network, images)
    means = [float(moved(network, images, epsilon).mean()) for epsilon in EPSILONS]
    assert fitted.epsilon_ == EPSILONS[int(np.argmax(means))]
    assert fitted.chosen_ == {"epsilon": fitted.epsilon_}
    assert len(set(means)) == len(EPSILONS)
    assert fitted.passes_in_fit(0, BATCH, 0) == 8 * BATCH
    assert detector(network, images, epsilon=0.5).passes_in_fit(0, BATCH, 0) == 0


class Peaked(nn.Module):
    """h is largest a little away from the images: the search must stop there, and not at the largest step."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        away = (features - 0.512).abs().mean(dim=1, keepdim=True)
        return {"h": torch.cat([-away, -away - 1], dim=1)}


def test_the_search_does_not_prefer_large_steps() -> None:
    images = torch.full((4, 1, 2, 2), 0.5)
    classifier = Classifier(Peaked(), 2)
    found = [float(h.mean()) for h in largest_h(classifier, images, EPSILONS)]
    assert found == pytest.approx([-abs(0.5 + epsilon - 0.512) for epsilon in EPSILONS])
    held = Batch(4, {"images": lambda rows: images[rows].clone()}, "godin", classifier)
    fitted = registry.get("detector", "godin")()
    fitted.fit(classifier, FitData(held, held))
    assert fitted.epsilon_ == 0.01


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_epsilon_is_checked(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon is a step in units of pixels from 0 to 1 and must not be negative"):
        registry.get("detector", "godin")(epsilon=epsilon)


def test_the_moved_image_is_never_written_into_the_given_one() -> None:
    network, images = trained(), batch(9).images
    before = images.clone()
    detector(network, images).score(batch_of(images, network))
    assert torch.equal(images, before)
