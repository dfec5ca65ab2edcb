"""Detectors that run the network: ODIN and i-ODIN against gradients by hand, dropout masks against a loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.support import softmax

N, D, H, K = 7, 12, 5, 4
Register = Callable[[str, type[Plugin]], None]


class Net(nn.Module):
    """A float64 network of two layers with dropout between them."""

    def __init__(self, drop: float = 0.0, classes: int = K) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(D, H), nn.ReLU(), nn.Dropout(drop))
        self.head = nn.Linear(H, classes)

    def features(self, images: Tensor) -> Tensor:
        out: Tensor = self.body(images)
        return out

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(images))
        return out


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(np.random.RandomState(0).rand(N, 3, 2, 2))


def dropout_classifier(drop: float = 0.0, classes: int = K) -> Classifier:
    torch.manual_seed(1)
    return Classifier(Net(drop, classes).double(), classes)


def scores_of_images(name: str, classifier: Classifier, images: Tensor) -> np.ndarray:
    detector: Detector = create("detector", parse_spec(name))
    batch = Batch(len(images), {"images": lambda rows: images[rows].clone()}, name, classifier)
    return detector.score(batch).numpy()


def weights(classifier: Classifier) -> list[np.ndarray]:
    first = classifier.network.get_submodule("body.1")
    return [p.detach().numpy() for p in (*first.parameters(), classifier.weight, classifier.bias)]


@pytest.mark.parametrize(("temperature", "epsilon"), [(1000.0, 0.0014), (1.0, 0.0), (2.0, 0.3)])
def test_odin_is_its_formula_with_the_gradient_by_hand(images: Tensor, temperature: float, epsilon: float) -> None:
    net = dropout_classifier()
    w1, b1, w2, b2 = weights(net)
    expected = []
    for x in images.numpy().reshape(N, D):
        hidden = w1 @ x + b1
        p = softmax((w2 @ np.maximum(hidden, 0) + b2) / temperature)
        best = p.argmax()
        # d log p_best / d logits = (onehot - p) / T, then back through the head, the ReLU and the first layer
        back = (np.eye(K)[best] - p) / temperature
        gradient = w1.T @ ((w2.T @ back) * (hidden > 0))
        nudged = x + epsilon * np.sign(gradient)
        q = softmax((w2 @ np.maximum(w1 @ nudged + b1, 0) + b2) / temperature)
        expected.append(np.log(np.delete(q, q.argmax()).sum()))
    found = scores_of_images(f"odin[temperature={temperature},epsilon={epsilon}]", net, images)
    assert found == pytest.approx(np.array(expected), rel=1e-9)


def test_odin_without_a_step_at_temperature_one_is_msp(images: Tensor) -> None:
    net = dropout_classifier()
    msp: Detector = create("detector", parse_spec("msp"))
    logits = net(images).detach()
    batch = Batch(N, {"logits": lambda rows: logits[rows]}, "msp")
    assert scores_of_images("odin[temperature=1,epsilon=0]", net, images) == pytest.approx(
        msp.score(batch).numpy(), rel=1e-12
    )


def test_odin_raises_the_largest_probability(images: Tensor) -> None:
    net = dropout_classifier()
    assert (
        scores_of_images("odin[temperature=1,epsilon=0.001]", net, images)
        < scores_of_images("odin[temperature=1,epsilon=0]", net, images)
    ).all()


@pytest.mark.parametrize(("temperature", "epsilon"), [(1000.0, 0.0014), (1.0, 0.0028), (2.0, 0.3)])
@pytest.mark.parametrize("classes", [2, K])
def test_iodin_moves_the_one_value_with_the_largest_gradient(
    images: Tensor, temperature: float, epsilon: float, classes: int
) -> None:
    net = dropout_classifier(classes=classes)
    w1, b1, w2, b2 = weights(net)
    expected = []
    for x in images.numpy().reshape(N, D):
        hidden = w1 @ x + b1
        p = softmax((w2 @ np.maximum(hidden, 0) + b2) / temperature)
        gradient = w1.T @ ((w2.T @ (np.eye(classes)[p.argmax()] - p)) * (hidden > 0))
        nudged, largest = x.copy(), max(range(D), key=lambda i, g=gradient: abs(g[i]))  # type: ignore[misc]
        nudged[largest] += epsilon if gradient[largest] > 0 else -epsilon
        q = softmax((w2 @ np.maximum(w1 @ nudged + b1, 0) + b2) / temperature)
        expected.append(np.log(np.delete(q, q.argmax()).sum()))
    found = scores_of_images(f"iodin[temperature={temperature},epsilon={epsilon}]", net, images)
    assert found == pytest.approx(np.array(expected), rel=1e-9)


def test_iodin_without_a_step_is_odin_and_with_one_moves_less(images: Tensor) -> None:
    net = dropout_classifier()
    still = scores_of_images("odin[temperature=1,epsilon=0]", net, images)
    assert np.array_equal(scores_of_images("iodin[temperature=1,epsilon=0]", net, images), still)
    one, whole = (scores_of_images(f"{name}[temperature=1,epsilon=0.001]", net, images) for name in ("iodin", "odin"))
    assert (whole < one).all()
    assert (one < still).all()


def test_iodin_of_tied_and_of_zero_gradients() -> None:
    gradient = torch.tensor([[1.0, -2.0, 2.0], [0.0, 0.0, 0.0], [-3.0, 0.0, 1.0]]).view(3, 3, 1, 1)
    plugin: Any = create("detector", parse_spec("iodin"))
    moved = plugin.direction(gradient).flatten(1).tolist()
    assert moved == [[0.0, -1.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]


def test_iodin_does_not_depend_on_the_rest_of_the_batch_and_leaves_the_network_alone(images: Tensor) -> None:
    net = dropout_classifier()
    before = net(images)
    together = scores_of_images("iodin", net, images)
    alone = np.concatenate([scores_of_images("iodin", net, image[None]) for image in images])
    assert together == pytest.approx(alone, rel=1e-12)
    assert torch.equal(net(images), before)
    assert all(parameter.grad is None for parameter in net.network.parameters())


@pytest.mark.parametrize("statistic", ["max", "entropy"])
def test_mc_dropout_is_a_loop_over_masks(images: Tensor, statistic: str) -> None:
    net = dropout_classifier(0.4)
    w1, b1, w2, b2 = weights(net)
    random = torch.Generator().manual_seed(5)
    masks = [(torch.rand((1, H), generator=random) >= 0.4).numpy()[0] / 0.6 for _ in range(3)]
    expected = []
    for x in images.numpy().reshape(N, D):
        hidden = np.maximum(w1 @ x + b1, 0)
        p = np.mean([softmax(w2 @ (hidden * mask) + b2) for mask in masks], axis=0)
        expected.append(np.log(1 - p.max()) if statistic == "max" else -(p * np.log(p)).sum())
    found = scores_of_images(f"mc_dropout[samples=3,statistic={statistic},mask_seed=5]", net, images)
    assert found == pytest.approx(np.array(expected), rel=1e-6)


def test_mc_dropout_masks_do_not_depend_on_the_batch_and_leave_the_network_alone(images: Tensor) -> None:
    net = dropout_classifier(0.5)
    before = net(images)
    together = scores_of_images("mc_dropout", net, images)
    alone = np.concatenate([scores_of_images("mc_dropout", net, image[None]) for image in images])
    assert together == pytest.approx(alone, rel=1e-12)
    assert scores_of_images("mc_dropout[mask_seed=1]", net, images) != pytest.approx(together, rel=1e-3)
    assert torch.equal(net(images), before)
    assert not any(module._forward_hooks for module in net.network.modules())


def test_channels_are_dropped_whole_in_two_dimensional_dropout() -> None:
    from oodbench.detectors.mc_dropout import _fixed_masks

    layer = nn.Dropout2d(0.5).eval()
    with _fixed_masks(layer, torch.Generator().manual_seed(0)):
        out = layer(torch.ones(2, 16, 3, 3))
    channels = out.reshape(2, 16, 9)
    assert (channels == channels[:, :, :1]).all()
    assert torch.equal(out[0], out[1])
    assert 0 < (channels[0, :, 0] == 0).sum() < 16


class Dropping(Backbone):
    """A backbone with dropout that cannot be built on the meta device."""

    version = "1"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        net = Net(0.5)
        net.body[1] = nn.Linear(int(np.prod(image_shape)), H)
        float(net.head.weight.sum())
        return net


def test_a_network_without_dropout_is_skipped_with_the_reason(tmp_path: Path, register: Register) -> None:
    from oodbench.benchmark.api import prepare

    register("dropping", Dropping)
    options = {"id_sets": "digits", "ood_sets": "uniform", "results": tmp_path}
    plan = prepare("msp,mc_dropout", backbone="dropping", **options).plan
    assert {cell.record.status for cell in plan.cells} != {"skipped"}
    charged = {cell.record.label: cell.record.forward_images for cell in plan.cells}
    assert charged["mc_dropout"] == 16 * (510 + 1000)
    message = "it cannot score with backbone 'small_cnn': the network has no dropout to sample"
    everything = prepare("all", **options).plan
    assert ("mc_dropout", message) in everything.skipped
    assert "mc_dropout" not in {cell.record.label for cell in everything.cells}
    with pytest.raises(UserError, match=r"Detector 'mc_dropout.samples=2.' cannot run: it cannot score"):
        prepare("mc_dropout[samples=2]", **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odin[temperature=0]", "temperature must be positive and finite, got 0"),
        ("iodin[epsilon=-0.1]", "epsilon is a step in units of pixels from 0 to 1 and must not be negative, got -0.1"),
        ("odin[epsilon=-0.1]", "epsilon is a step in units of pixels from 0 to 1 and must not be negative, got -0.1"),
        ("mc_dropout[samples=0]", "samples must be at least 1, got 0"),
        ("mc_dropout[statistic=mean]", "statistic must be 'max' or 'entropy', got 'mean'"),
    ],
)
def test_settings_without_meaning_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        create("detector", parse_spec(name))
