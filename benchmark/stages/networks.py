"""Builds the networks of a checkpoint and loads their trained weights."""

from __future__ import annotations

import torch
from torch import nn

from oodbench.benchmark.plan.jobs import Checkpoint
from oodbench.benchmark.plan.recipes.declared import CLASSIFIER as CLASSIFIER
from oodbench.benchmark.plan.recipes.declared import task_of
from oodbench.benchmark.plan.weights.file import IMPORTED, Imported
from oodbench.benchmark.plugins.inputs import Classifier, inner_network
from oodbench.benchmark.plugins.networks.head_only import HeadOnly
from oodbench.benchmark.plugins.networks.without_logits import WithoutLogits
from oodbench.benchmark.plugins.recipe import Recipe, fits_head
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.store.store import Store

HEAD_WEIGHT, HEAD_BIAS, CLASSES = "classifier.head.weight", "classifier.head.bias", "classes"
"""Names of the tensors (K, D), (K,) and K that are stored of a network of which only outputs are given."""


class UnfitWeightsError(Exception):
    """Stored weights do not fit the network that they are loaded into."""


def build_networks(checkpoint: Checkpoint, device: torch.device) -> tuple[Recipe, dict[str, nn.Module]]:
    """A checkpoint's recipe and its networks by name, freshly initialised, on the device."""
    imported = checkpoint.recipe == IMPORTED
    recipe: Recipe = Imported() if imported else create("recipe", parse_spec(checkpoint.recipe))
    task = task_of(checkpoint)
    networks = {CLASSIFIER: task.build_classifier()} if fits_head(recipe) else recipe.networks(task)
    return recipe, {
        name: network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, network in networks.items()
    }


def load_networks(store: Store, device: torch.device, checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """A checkpoint's trained networks by name, frozen and in evaluation mode."""
    weights = store.load_tensors(checkpoint.key)
    with restored_rng(device):
        _, networks = build_networks(checkpoint, device)
    for name, network in networks.items():
        prefix = f"{name}."
        _load(network, {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        network.eval().requires_grad_(False)
    return networks


def as_classifier(network: nn.Module, checkpoint: Checkpoint) -> Classifier:
    """A checkpoint's network as detectors get it; without logits if its recipe trains none."""
    blocks = create("backbone", parse_spec(checkpoint.backbone)).blocks
    if checkpoint.gives_logits:
        return Classifier(network, checkpoint.num_classes, blocks)
    return WithoutLogits(network, checkpoint.num_classes, blocks, parse_spec(checkpoint.recipe).name)


def load_head_only(store: Store, device: torch.device, checkpoint: Checkpoint) -> HeadOnly:
    """The classifier of a network of which only outputs are given: its head, if that is given, and no network."""
    tensors = store.load_tensors(checkpoint.key)
    weight, bias = (tensors[name].to(device) if name in tensors else None for name in (HEAD_WEIGHT, HEAD_BIAS))
    return HeadOnly(checkpoint.num_classes, weight, bias)


def load_start(store: Store, network: nn.Module, start: Checkpoint, keeps_head: bool) -> None:
    """Load given weights into a network whose training starts from them; its own head stays unless theirs is kept."""
    weights = store.load_tensors(start.key)
    prefix = f"{CLASSIFIER}."  # beside it, a checkpoint has other networks, and all rows of a given head
    given = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    network = inner_network(network)  # named outputs are always new
    own = network.state_dict()
    _load(network, {**given, **({} if keeps_head else {n: own[n] for n in own if n.startswith("head.")})})


def _load(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    try:
        network.load_state_dict(weights)
    except torch.cuda.OutOfMemoryError:  # a RuntimeError too
        raise
    except RuntimeError as error:
        raise UnfitWeightsError(str(error)) from error
