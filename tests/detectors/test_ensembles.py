"""Deep ensembles and networks with dropout: what their members learn, and the statistics of their predictions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError, Recipe, Task, TrainBatch, Training
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.precision import train_in
from oodbench.detectors.cross_entropy import CrossEntropy
from oodbench.detectors.deep_ensemble import DeepEnsemble, DeepEnsembleTraining, Ensemble, Member
from oodbench.detectors.dropout import DropoutTraining
from oodbench.detectors.mc_dropout import MCDropout
from tests.support import prepare_suite, run_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, BATCH, WIDTH, SHAPE = 4, 12, 6, (3, 16, 16)
doubles = pytest.mark.usefixtures("float64_default")


class Net(nn.Module):
    """A network with batch norm and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        found: Tensor = self.body(images).mean(dim=(2, 3))
        return found

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.features(images))
        return found


TASK = Task(CLASSES, SHAPE, Net)


def batch(seed: int = 1) -> TrainBatch:
    images = torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return TrainBatch(images, torch.arange(BATCH) % CLASSES, None)


def start(recipe: Recipe) -> Training:
    torch.manual_seed(0)
    networks = recipe.networks(TASK)
    return Training(networks, recipe.optimizers(networks), {}, torch.Generator().manual_seed(5), 0.25)


def ensemble(training: Training) -> Ensemble:
    found = training.networks["classifier"]
    assert isinstance(found, Ensemble)
    return found


# Deep ensembles


@doubles
def test_features_heads_and_outputs_are_those_of_the_members() -> None:
    network = ensemble(start(DeepEnsembleTraining(members=3))).eval()
    images = batch().images
    features, each = network.features(images), [member(images) for member in network.members]
    assert features.shape == (BATCH, 3 * WIDTH)
    assert torch.equal(features, torch.cat([member.features(images) for member in network.members], dim=1))  # type: ignore[operator]
    assert torch.equal(network(images), network.head(features))
    assert torch.allclose(network(images), sum(each, torch.zeros(())) / 3, rtol=0, atol=1e-14)
    linear = features @ network.head.weight.T + network.head.bias
    assert torch.allclose(network(images), linear, rtol=0, atol=1e-14)
    (outputs,) = network.outputs(features).values()
    assert torch.equal(outputs.reshape(BATCH, 3, CLASSES), torch.stack(each, dim=1))
    assert DeepEnsembleTraining(members=3).named_outputs(TASK) == {"members": 3 * CLASSES}
    assert not any("head.heads" in name for name in network.state_dict()), "no weight is stored twice"


@doubles
def test_members_start_from_their_own_weights_the_first_from_those_of_a_single_network() -> None:
    one = start(CrossEntropy()).networks["classifier"].state_dict()
    members = [member.state_dict() for member in ensemble(start(DeepEnsembleTraining(members=3))).members]
    assert all(torch.equal(members[0][name], one[name]) for name in one)
    assert not torch.equal(members[0]["head.weight"], members[1]["head.weight"])
    assert not torch.equal(members[1]["head.weight"], members[2]["head.weight"])


@doubles
def test_each_member_is_trained_as_if_it_were_alone() -> None:
    recipe = DeepEnsembleTraining(members=2, learning_rate=0.01)
    training = start(recipe)
    alone = [copy.deepcopy(member) for member in ensemble(training).members]
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.01, fused=True) for network in alone]
    for step in range(4):
        given, losses, right = batch(step), [], []
        for network, optimizer in zip(alone, optimizers, strict=True):
            logits = network(given.images)
            loss = nn.functional.cross_entropy(logits, given.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            right.append((logits.argmax(dim=1) == given.labels).double().mean().item())
        logged = recipe.step(training, given)
        assert float(logged["cross_entropy"]) == pytest.approx(sum(losses) / 2)
        assert float(logged["accuracy"]) == pytest.approx(sum(right) / 2)
    for network, member in zip(alone, ensemble(training).members, strict=True):
        for (name, value), other in zip(network.state_dict().items(), member.state_dict().values(), strict=True):
            assert torch.allclose(value, other, rtol=0, atol=1e-12), name


def test_shifts_and_flips_are_drawn_for_each_member() -> None:
    recipe = DeepEnsembleTraining(members=2, like="standard")
    training = start(recipe)
    seen: list[Tensor] = []
    for member in ensemble(training).members:
        member.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    recipe.step(training, batch())
    assert len(seen) == 2
    assert not torch.equal(*seen)
    assert all(not torch.equal(images, batch().images) for images in seen)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in training.optimizers.items()}
    assert rates.keys() == {"member_0", "member_1"}
    assert all(0.05 < rate < 0.1 for rate in rates.values()), "the schedule of `like` applies to every member"


def test_members_compute_in_the_run_s_precision() -> None:
    network = ensemble(start(DeepEnsembleTraining(members=2)))
    exact = Member(network, 1)(batch().images)
    train_in("bfloat16", [network], torch.device("cpu"))
    rounded = Member(network, 1)(batch().images)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(rounded, exact)


def scores(detector: DeepEnsemble, logits: np.ndarray) -> np.ndarray:
    """Scores of members' logits (N, M, K)."""

    class Given:
        pass

    given: Any = Given()
    given.logits = torch.from_numpy(logits.mean(axis=1))
    given.outputs = {"members": torch.from_numpy(logits.reshape(len(logits), -1))}
    found: np.ndarray = detector.score(given).numpy()
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return found


def entropy(p: np.ndarray) -> np.ndarray:
    found: np.ndarray = -(p * np.log(p)).sum(axis=-1)
    return found


EXPECTED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "msp": lambda logits: np.log(1 - softmax(logits).mean(axis=1).max(axis=1)),
    "energy": lambda logits: -np.log(np.exp(logits).sum(axis=2)).mean(axis=1),
    "mutual_information": lambda f: entropy(softmax(f).mean(axis=1)) - entropy(softmax(f)).mean(axis=1),
}


@pytest.mark.parametrize("statistic", EXPECTED)
def test_statistics_of_members(statistic: str) -> None:
    logits = np.random.default_rng(0).normal(size=(20, 3, CLASSES)) * 3
    found = scores(DeepEnsemble(statistic=statistic), logits)
    assert found == pytest.approx(EXPECTED[statistic](logits), rel=1e-9)
    assert len(set(found.tolist())) == 20


def test_confident_members_do_not_tie() -> None:
    sure = np.zeros((3, 2, CLASSES))
    sure[:, :, 0] = np.array([60.0, 80.0, 100.0])[:, None]
    sure[:, 1, 0] += 1
    for statistic in EXPECTED:
        found = scores(DeepEnsemble(statistic=statistic), sure)
        assert np.isfinite(found).all()
        assert found[0] > found[1] > found[2], statistic


def test_members_that_disagree_score_high_by_mutual_information() -> None:
    logits = np.zeros((3, 2, CLASSES))
    logits[0, :, 1] = 20  # sure, and of one mind
    logits[2, 0, 1] = logits[2, 1, 2] = 20  # sure of different classes; the one in the middle is unsure, of one mind
    found = scores(DeepEnsemble(statistic="mutual_information"), logits)
    assert found[:2] == pytest.approx([0, 0], abs=1e-12)
    assert found[2] == pytest.approx(math.log(2), abs=1e-6)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        DeepEnsembleTraining(members=0)
    with pytest.raises(ValueError, match="statistic must be 'msp', 'energy' or 'mutual_information', got 'max'"):
        DeepEnsemble(statistic="max")
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match="rate must be above 0 and below 1"):
            DropoutTraining(rate=rate)


@pytest.mark.parametrize("recipe", [DeepEnsembleTraining(members=2), DropoutTraining()])
def test_networks_without_a_linear_head_are_refused(recipe: Recipe) -> None:
    class Headless(Net):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Linear(WIDTH, CLASSES))  # type: ignore[assignment]

    with pytest.raises(DataError, match=r"linear heads?, and this backbone has none"):
        recipe.networks(Task(CLASSES, SHAPE, Headless))


# Dropout


def test_features_are_dropped_in_training_and_not_at_test_time() -> None:
    network: Any = start(DropoutTraining(rate=0.75)).networks["classifier"]
    plain: Any = start(CrossEntropy()).networks["classifier"]
    assert network.state_dict().keys() == plain.state_dict().keys()
    images = batch().images
    network.eval(), plain.eval()
    assert torch.equal(network(images), plain(images))
    assert torch.equal(network(images), network.head(network.features(images)))
    got: list[Tensor] = []
    network.head.dropout.register_forward_hook(lambda *found: got.append(found[-1]))
    network.train()
    features = torch.rand(2000, WIDTH) + 1
    network.head(features)
    kept = got[-1] != 0
    assert 0.2 < kept.float().mean() < 0.3
    assert torch.allclose(got[-1][kept], features[kept] / 0.25)
    assert len(kept.unique(dim=0)) > 10, "images have masks of their own"


@doubles
def test_the_loss_is_the_cross_entropy_under_the_masks() -> None:
    recipe = DropoutTraining(rate=0.5)
    training = start(recipe)
    network: Any = copy.deepcopy(training.networks["classifier"])
    given = batch()
    torch.manual_seed(3)
    features = network.features(given.images)
    masked = nn.functional.dropout(features, 0.5)
    logits = masked @ network.head.weight.T + network.head.bias
    expected = -torch.log_softmax(logits, dim=1)[range(BATCH), given.labels].mean()
    torch.manual_seed(3)
    assert recipe.step(training, given)["cross_entropy"].item() == pytest.approx(expected.item())


def test_masks_can_be_sampled_at_test_time() -> None:
    network = start(DropoutTraining()).networks["classifier"]
    assert MCDropout().refuses(network) is None
    assert MCDropout().refuses(start(CrossEntropy()).networks["classifier"]) is not None


# Runs

MATRIX = """
[[id]]
set = "digits[0-2]"
ood = [{ set = "digits[5-9]", group = "near" }, { set = "uniform", group = "far" }]
"""


@pytest.mark.slow
def test_both_run_and_their_costs_are_shown(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    ensembles = ["deep_ensemble", "deep_ensemble[statistic=energy]", "vim@deep_ensemble[members=2]"]
    others = ["dropout", "mc_dropout@dropout", "msp@dropout"]
    done = run_suite(suite, [*ensembles, *others], epochs=2, backbone="small_cnn[hidden=16,width=4]")
    assert {record.status for record in done.records} == {"ok"}
    costs = done.info["costs"]
    assert [costs[label]["networks"] for label in ensembles] == [5, 5, 2]
    assert [costs[label]["passes"] for label in ensembles] == [[0, 0]] * 3
    assert (costs["dropout"]["networks"], costs["dropout"]["passes"]) == (1, [16, 16])
    metrics = {(r.label, r.ood_set): r.metrics for r in done.records}
    for ood in ("digits[5-9]", "uniform"):
        assert metrics["dropout", ood] == metrics["mc_dropout@dropout", ood]
    assert metrics["dropout", "digits[5-9]"] != metrics["msp@dropout", "digits[5-9]"]


@pytest.mark.parametrize(
    "detector, reason",
    [
        (
            "gram@deep_ensemble",
            "it looks at the maps of blocks, and recipe 'deep_ensemble' trains a network without",
        ),
        ("mc_dropout@deep_ensemble", "the network has no dropout to sample"),
        ("deep_ensemble@dropout", "it reads output 'members', which recipe 'dropout' does not give"),
    ],
)
def test_detectors_that_do_not_suit_them_are_refused(tmp_path: Path, detector: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"Detector '{detector}' cannot run: .*{reason}"):
        prepare_suite(write_suite(tmp_path, MATRIX), detector)
