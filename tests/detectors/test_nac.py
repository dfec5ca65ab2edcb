"""NAC-UE, against a float64 loop over images, channels and bins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Classifier, FitData
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.registry import registry
from oodbench.detectors._spaced import spaced
from tests.detectors.map_network import SIDE, K, batch, blocks_of, classifier, images_of

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, TEST = images_of(40, 0), images_of(7, 1)


class Halved(nn.Module):
    """Halves its input in place."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mul_(0.5)


class Wide(nn.Module):
    """One block with as many channels as wanted."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(inplace=True))
        self.second, self.head = Halved(), nn.Linear(channels, classes)

    def features(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.second(self.first(images)).mean(dim=(2, 3))
        return pooled


def fitted(net: Classifier, train: Tensor = TRAIN, **settings: Any) -> Any:
    detector: Any = registry.get("detector", "nac")(**settings)
    labels = torch.zeros(len(train), dtype=torch.int64)
    known = batch(detector, net, train, labels, keep=False)
    detector.fit(net, FitData(known, known))
    return detector


def scores_of(detector: Any, net: Classifier, images: Tensor = TEST) -> np.ndarray:
    found: np.ndarray = detector.score(batch(detector, net, images, keep=False)).numpy()
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    return found


def score(net: Classifier, images: Tensor = TEST, train: Tensor = TRAIN, **settings: Any) -> np.ndarray:
    return scores_of(fitted(net, train, **settings), net, images)


def products(net: Classifier, image: Tensor) -> list[list[float]]:
    """s of each block of one image, by one graph from each map; that of the last block also by hand."""
    first, second, head = (net.network.get_submodule(name) for name in ("first", "second", "head"))
    one = first(image[None]).detach().requires_grad_()
    two = second(one)
    log_p = torch.log_softmax(head(two.mean(dim=(2, 3))), dim=1)
    divergence = (torch.log(torch.tensor(1 / K, dtype=torch.float64)) - log_p).sum() / K  # KL(u || p)
    found = []
    for maps, gradient in zip((one, two), torch.autograd.grad(divergence, (one, two)), strict=True):
        rows = zip(maps[0].flatten(1).tolist(), gradient[0].flatten(1).tolist(), strict=True)
        found.append([sum(z) * sum(g) for z, g in rows])
    by_hand = (log_p.exp() - 1 / K)[0] @ net.weight * two[0].sum(dim=(1, 2))
    assert found[1] == pytest.approx(by_hand.tolist(), rel=1e-9)
    return found


def state(value: float, bins: int) -> int:
    """The state of sigmoid(alpha s): up to 1/2, 1000^value is divided equally; above it, mirrored."""
    below, width = value < 0.5, (math.sqrt(1000) - 1) / (bins // 2)
    steps = (math.pow(1000, value if below else 1 - value) - 1) / width
    return math.floor(steps) if below else bins - max(math.ceil(steps), 1)


def nac(
    net: Classifier,
    images: Tensor,
    train: Tensor,
    alpha: float | None = None,
    full: float = 0.05,
    bins: int = 48,
    last: int = 4,
) -> list[float]:
    known, scores = [products(net, image)[-last:] for image in train], []
    alphas = []
    for block in range(len(known[0])):
        values = [abs(s) for image in known for s in image[block]]
        alphas.append(alpha or 1 / (sum(values) / len(values)))

    def state_of(s: float, block: int) -> int:
        return state(1 / (1 + math.exp(-alphas[block] * s)), bins)

    for image in images:
        means = []
        for block, row in enumerate(products(net, image)[-last:]):
            covered = []
            for channel, s in enumerate(row):
                count = sum(state_of(other[block][channel], block) == state_of(s, block) for other in known)
                covered.append(min(count / (full * len(known)), 1.0))
            means.append(sum(covered) / len(covered))
        scores.append(-sum(means) / len(means))
    return scores


@pytest.mark.parametrize(
    "settings",
    [{}, {"last": 1}, {"alpha": 30.0, "full": 0.2}, {"bins": 6, "full": 1.0}, {"bins": 498, "alpha": 2.0}],
    ids=str,
)
def test_equals_a_loop_over_images_channels_and_bins(settings: dict[str, Any]) -> None:
    net = classifier()
    found = score(net, **settings)
    assert found == pytest.approx(nac(net, TEST, TRAIN, **settings), rel=1e-6)
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("channels", [8, 64, 2048])
@pytest.mark.parametrize("classes", [2, 5])
def test_at_every_width_and_with_two_classes_and_layers_that_work_in_place(channels: int, classes: int) -> None:
    torch.manual_seed(0)
    network = Wide(channels, classes).double()
    net = Classifier(network, classes, lambda inner: [inner.get_submodule("first")])
    detector = fitted(net)
    found = scores_of(detector, net)
    assert ((found >= -1) & (found <= 0)).all()
    assert len(np.unique(found)) > 1
    assert len(detector.chosen_["alpha"]) == 1
    with torch.no_grad():
        z = net.features(TEST) * (SIDE - 2) ** 2
        p = torch.softmax(net(TEST), dim=1)
    by_hand = z * ((p - 1 / classes) @ network.head.weight)
    states = [[state(value, 48) for value in row] for row in torch.sigmoid(detector.alphas_[0] * by_hand).tolist()]
    covered = detector.coverage_[0].gather(1, torch.tensor(states).T).mean(dim=0)
    assert found == pytest.approx(-covered.numpy(), rel=1e-6)


def test_states_are_narrow_around_a_half_and_wide_at_both_ends() -> None:
    net = classifier()
    detector = fitted(net)
    values = torch.linspace(0, 1, 100_001, dtype=torch.float64)[1:-1]
    states = detector._states(torch.logit(values), 1.0)
    assert states.tolist() == [state(value, 48) for value in torch.sigmoid(torch.logit(values)).tolist()]
    shares = torch.bincount(states, minlength=48) / len(states)
    assert shares[[0, 23, 24, 47]].tolist() == pytest.approx([0.1191, 0.0060, 0.0060, 0.1191], abs=1e-4)
    assert int(detector._states(torch.zeros(1), 1.0)) == 24


def test_alpha_puts_the_mean_product_at_one() -> None:
    net = classifier()
    detector = fitted(net)
    for block, alpha in enumerate(detector.chosen_["alpha"]):
        values = [abs(s) for image in TRAIN for s in products(net, image)[block]]
        assert alpha * np.mean(values) == pytest.approx(1, rel=1e-6)
    assert fitted(net, alpha=3.0).chosen_ == {}
    assert fitted(net, alpha=3.0).alphas_ == [3.0, 3.0]


def test_the_order_of_training_images_and_of_classes_does_not_matter() -> None:
    net = classifier()
    before = score(net)
    assert score(net, train=TRAIN.flip(0)) == pytest.approx(before, rel=1e-9)
    with torch.no_grad():
        net.weight.copy_(net.weight.flip(0))
        net.bias.copy_(net.bias.flip(0) + 3)  # a softmax ignores a constant
    assert score(net) == pytest.approx(before, rel=1e-9)


def test_scores_depend_on_the_image_alone_and_the_network_stays_as_it_is() -> None:
    net = classifier()
    detector = fitted(net)
    before, together = net(TEST), scores_of(detector, net)
    alone = np.concatenate([scores_of(detector, net, image[None]) for image in TEST])
    assert together == pytest.approx(alone, rel=1e-12)
    assert torch.equal(net(TEST), before)
    assert not any(module._forward_hooks for module in net.network.modules())
    assert all(parameter.grad is None for parameter in net.network.parameters())


def test_at_most_so_many_training_images_are_used_equally_spaced() -> None:
    net = classifier()
    rows = [2, 6, 10, 14, 18, 22, 26, 30, 34, 38]
    assert np.array_equal(scores_of(fitted(net, images=10), net), score(net, train=TRAIN[rows]))
    assert registry.get("detector", "nac")(images=15).passes_in_fit(2, 0, 0) == 15


def test_training_images_are_covered_and_others_less() -> None:
    net = classifier()
    detector = fitted(net, full=1 / len(TRAIN))
    assert scores_of(detector, net, TRAIN) == pytest.approx(-1)
    assert scores_of(detector, net, 5 * TEST).min() > -1


def test_one_training_image() -> None:
    net = classifier()
    assert score(net, TRAIN[:1], TRAIN[:1]) == pytest.approx(-1)
    assert np.isfinite(score(net, train=TRAIN[:1])).all()


def test_gradients_of_zero_are_refused() -> None:
    net = classifier()
    with torch.no_grad():
        net.weight.zero_()
    with pytest.raises(DataError, match="gradients of the softmax with respect to feature maps, which are all 0"):
        score(net)


def test_a_block_without_activations_is_covered_whatever_the_image() -> None:
    torch.manual_seed(0)
    net = classifier()
    with torch.no_grad():
        weight, bias = net.network.get_submodule("first.0").parameters()
        weight.zero_()
        bias.fill_(-1.0)
    assert score(net, last=2) == pytest.approx(-1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"alpha": 0.0}, "alpha must be positive and finite, or none for the default's rule, got 0"),
        ({"full": 0.0}, r"full is a share of the training images and must lie in \(0, 1\], got 0"),
        ({"bins": 0}, "bins must be even, half of them on each side of 1/2, got 0"),
        ({"bins": 7}, "bins must be even, half of them on each side of 1/2, got 7"),
        ({"last": 0}, "last must be at least 1, got 0"),
        ({"images": 0}, "images must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.get("detector", "nac")(**settings)


def test_blocks_are_those_of_the_backbone() -> None:
    net = classifier()
    assert len(blocks_of(net.network)) == len(fitted(net).coverage_) == 2
    assert len(fitted(net, last=1).coverage_) == 1


@pytest.mark.parametrize("count, most", [(40, 10), (1149, 1000), (7, 3), (5, 9), (1, 1), (100, 1)])
def test_so_many_images_are_chosen_and_none_twice(count: int, most: int) -> None:
    rows = spaced(count, most)
    assert len(np.unique(rows)) == len(rows) == min(count, most)
    assert 0 <= rows[0] <= rows[-1] < count
    assert set(np.diff(rows)) <= {count // len(rows), count // len(rows) + 1}
