"""Which networks, gradients and statistics a training step of a recipe changes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Training
from tests.detectors.recipe_setups import (
    SETTINGS,
    batch,
    batch_for,
    flat,
    gradient,
    make,
    normalised_classifier,
    set_up,
)

pytestmark = pytest.mark.usefixtures("one_thread", "float64_default")


class Moment(NamedTuple):
    """The networks right before or after one optimizer's step."""

    weights: dict[str, Tensor]
    gradients: dict[str, Tensor | None]


def watch(training: Training) -> dict[str, Moment]:
    """A list that is filled with 'before NAME' and 'after NAME' in the order of the optimizers' steps."""
    moments: dict[str, Moment] = {}

    def note(when: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            networks = training.networks.items()
            moments[when] = Moment({n: flat(net) for n, net in networks}, {n: gradient(net) for n, net in networks})

        return hook

    for name, optimizer in training.optimizers.items():
        optimizer.register_step_pre_hook(note(f"before {name}"))
        optimizer.register_step_post_hook(note(f"after {name}"))
    return moments


def same(one: Tensor | None, two: Tensor | None) -> bool:
    return one is two or (one is not None and two is not None and torch.equal(one, two))


@pytest.mark.parametrize("name", ["gan", "joint", "gan_entropy"])
def test_each_update_changes_its_own_network_alone(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    moments = watch(training)
    recipe.step(training, batch())
    order = ["discriminator", "generator", *(["classifier"] if name != "gan" else [])]
    assert list(moments) == [f"{when} {network}" for network in order for when in ("before", "after")]
    for (_, one), (later, two) in pairwise(moments.items()):
        for network in training.networks:
            changes = later == f"after {network}"
            assert same(one.weights[network], two.weights[network]) != changes, (later, network)


@pytest.mark.parametrize("name", ["gan", "joint", "gan_entropy"])
def test_each_backward_pass_reaches_its_own_network_alone(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    moments = watch(training)
    recipe.step(training, batch())
    first = moments["before discriminator"]
    assert first.gradients["discriminator"] is not None
    assert all(value is None for network, value in first.gradients.items() if network != "discriminator")
    for (_, one), (later, two) in pairwise(moments.items()):
        for network in training.networks:
            changes = later == f"before {network}"
            assert same(one.gradients[network], two.gradients[network]) != changes, (later, network)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_do_not_pile_up(name: str) -> None:
    recipe, training, _ = set_up(make(name), sgd=True)
    for optimizer in training.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.0
    gradients = []
    for _ in range(2):
        training.generator.manual_seed(5)
        recipe.step(training, batch_for(recipe))
        gradients.append({n: gradient(net) for n, net in training.networks.items()})
    for network, value in gradients[0].items():
        other = gradients[1][network]
        assert value is not None
        assert other is not None
        assert torch.allclose(value, other, rtol=1e-9, atol=1e-15), network


@pytest.mark.parametrize("name", SETTINGS)
def test_every_weight_is_free_again_after_a_step(name: str) -> None:
    recipe, training, _ = set_up(make(name))
    recipe.step(training, batch_for(recipe))
    assert all(weight.requires_grad for network in training.networks.values() for weight in network.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_networks_stay_in_training_mode(name: str) -> None:
    recipe, training, _ = set_up(make(name), build=normalised_classifier)
    recipe.step(training, batch_for(recipe))
    assert all(module.training for network in training.networks.values() for module in network.modules())


@pytest.mark.parametrize("name", ["confidence", "gan_confidence", "joint", "gan_entropy"])
def test_batch_norm_of_the_classifier_sees_both_together(name: str) -> None:
    recipe, training, copies = set_up(make(name), build=normalised_classifier)
    classifier, passed = training.networks["classifier"], list[torch.Tensor]()
    classifier.register_forward_pre_hook(lambda module, inputs: passed.append(inputs[0].detach()))
    given = batch_for(recipe)
    recipe.step(training, given)
    both = passed[-1]  # the generator's pass, which leaves statistics as they are, comes before it
    assert len(both) == 2 * len(given.images)
    assert torch.equal(both[: len(given.images)], given.images)
    copies["classifier"](both)
    for key, buffer in copies["classifier"].named_buffers():
        assert torch.equal(classifier.get_buffer(key), buffer), key
