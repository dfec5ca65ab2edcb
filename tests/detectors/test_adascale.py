"""AdaSCALE against a float64 loop over images, with a gradient for each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, FitData
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """A float64 network: a convolution, ReLU or tanh, the mean over positions, and a linear head."""

    def __init__(self, units: int, classes: int, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, units, 3, stride=2), activation)
        self.head = nn.Linear(units, classes)

    def features(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.body(images).mean(dim=(2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def classifier(units: int = 24, classes: int = 3, activation: nn.Module | None = None) -> Classifier:
    torch.manual_seed(2)
    network = Net(units, classes, activation or nn.ReLU()).double()
    with torch.no_grad():
        network.get_submodule("body.0").weight.mul_(4)  # type: ignore[operator]
        network.head.weight.mul_(6)
    return Classifier(network, classes)


def images_of(count: int, seed: int, side: int = 6) -> Tensor:
    colour = torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64)[:, None, None]
    return torch.from_numpy(np.random.RandomState(seed).rand(count, 3, side, side)) * colour


def batch_of(net: Classifier, images: Tensor) -> Batch:
    features = net.features(images).float()
    parts = {"images": lambda rows: images[rows].clone(), "features": features.__getitem__}
    return Batch(len(images), parts, "adascale", net)


def fitted(net: Classifier, validation: Tensor | None = None, **settings: Any) -> Any:
    detector = registry.get("detector", "adascale")(**settings)
    known = images_of(11, 1) if validation is None else validation
    detector.fit(net, FitData(batch_of(net, images_of(30, 0)), batch_of(net, known)))
    return detector


def scores(net: Classifier, images: Tensor, **settings: Any) -> np.ndarray:
    found: np.ndarray = fitted(net, **settings).score(batch_of(net, images)).numpy()
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    return found


def part_of(f: list[float], values: list[float], count: int) -> float:
    """The sum of values at the largest units of f; tied units at the end count in part."""
    last = sorted(f, reverse=True)[count - 1]
    above, tied = ([v for z, v in zip(f, values, strict=True) if test(z)] for test in (last.__lt__, last.__eq__))
    return sum(above) + (count - len(above)) * sum(tied) / len(tied)


def quantity(net: Classifier, image: Tensor, deviation: Tensor, s: dict[str, Any]) -> tuple[list[float], float]:
    """f and Q' of one image."""
    image = image.clone().requires_grad_()
    features = net.features(image[None])
    net.head(features).max().backward()
    assert image.grad is not None
    gradient = (image.grad * deviation[:, None, None]).flatten().tolist()
    count = max(1, int(len(gradient) * s["pixels"]))
    moved = sorted(range(len(gradient)), key=lambda k: abs(gradient[k]))[:count]
    step = torch.zeros_like(image).flatten()
    for k in moved:
        channel = k // (image.shape[1] * image.shape[2])
        step[k] = s["epsilon"] * deviation[channel] * float(np.sign(gradient[k]))
    f, g = (one[0].tolist() for one in (features, net.features((image.detach() + step.view_as(image))[None])))
    counts = [max(1, int(len(f) * s[name] / 100)) for name in ("shifted", "largest")]
    shift = part_of(f, [abs(a - b) for a, b in zip(f, g, strict=True)], counts[0])
    return f, s["weight"] * shift + part_of(f, [max(b, 0.0) for b in g], counts[1])


def loop(net: Classifier, images: Tensor, validation: Tensor, s: dict[str, Any]) -> list[float]:
    deviation = torch.tensor([validation[:, c].numpy().std() for c in range(3)])
    known = [quantity(net, image, deviation, s)[1] for image in validation]
    weight, bias, found = net.weight.numpy(), net.bias.numpy(), []
    for image in images:
        f, q = quantity(net, image, deviation, s)
        rank = sum(other <= q for other in known) / len(known)
        percentile = s["low"] + (1 - rank) * (s["high"] - s["low"])
        positive = sorted((max(z, 0.0) for z in f), reverse=True)
        kept = sum(positive[: max(1, len(f) - round(len(f) * percentile / 100))])
        ratio = sum(positive) / kept if kept > 0 else 1.0
        if s["variant"] == "A":
            found.append(-float(logsumexp(np.exp(ratio) * (weight @ f) + bias)))
        else:
            found.append(-float(logsumexp(ratio**2 * (weight @ f + bias))))
    return found


SETTINGS: dict[str, Any] = {
    "low": 40.0, "high": 85.0, "shifted": 10.0, "largest": 30.0, "weight": 10.0, "pixels": 0.05, "epsilon": 0.5
}  # fmt: skip


@pytest.mark.parametrize("variant", ["A", "L"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["rectified", "signed"])
@pytest.mark.parametrize(
    "changed", [{}, {"weight": 0.0}, {"pixels": 0.5, "epsilon": 2.0, "shifted": 50.0}, {"low": 0.0}]
)
def test_equals_a_loop_over_its_formula(variant: str, activation: nn.Module, changed: dict[str, float]) -> None:
    net, images = classifier(activation=activation), torch.cat([images_of(7, 2), 1 - images_of(5, 3)])
    used = {**SETTINGS, **changed, "variant": variant}
    found = scores(net, images, **used)
    assert found == pytest.approx(loop(net, images, images_of(11, 1), used), rel=1e-6)
    assert len(np.unique(found)) == len(found)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("units", [8, 64, 2048])
def test_defaults_work_at_every_width_and_with_two_classes(units: int, classes: int) -> None:
    net, images = classifier(units, classes), images_of(4, 2)
    chosen = fitted(net).chosen_
    used = {**SETTINGS, **chosen, "variant": "A"}
    assert scores(net, images) == pytest.approx(loop(net, images, images_of(11, 1), used), rel=1e-6)
    assert np.array_equal(scores(net, images, **chosen), scores(net, images))


@pytest.mark.parametrize(
    "units, counts, low, high",
    [
        (8, [3, 4], 0.0, 50.0),
        (64, [3, 17], 0.0, 50.0),
        (128, [3, 17], 0.0, 50.0),
        (341, [3, 17], 40.0, 77.5),
        (342, [3, 17], 40.2, 77.5),
        (512, [5, 25], 60.0, 85.0),
        (2048, [20, 102], 60.0, 85.0),
    ],
)
def test_rules_of_narrow_networks(units: int, counts: list[int], low: float, high: float) -> None:
    """Every unit is above 0, so that the half of the active ones is the half of all."""
    net = classifier(units)
    with torch.no_grad():
        net.network.get_submodule("body.0").bias.fill_(50)  # type: ignore[operator]
    detector = fitted(net)
    assert detector.counts_ == counts
    assert (detector.low_, detector.high_) == pytest.approx((low, high), abs=0.1)
    assert detector.chosen_.keys() == {"low", "high", "shifted", "largest"}


def test_low_follows_a_lower_high_and_high_a_higher_low() -> None:
    detector = fitted(classifier(512), high=30.0)
    assert (detector.low_, detector.high_) == (30.0, 30.0)
    detector = fitted(classifier(512), low=95.0)
    assert (detector.low_, detector.high_) == (95.0, 95.0)


def test_orders_of_units_and_classes_do_not_matter() -> None:
    net, images, random = classifier(), images_of(9, 2), torch.Generator().manual_seed(0)
    before = scores(net, images)
    units, classes = torch.randperm(24, generator=random), torch.randperm(3, generator=random)
    body, head = net.network.get_submodule("body.0"), net.network.get_submodule("head")
    with torch.no_grad():
        for one in (body.weight, body.bias):
            one.copy_(one[units].clone())  # type: ignore[operator,index]
        head.weight.copy_(head.weight[classes][:, units].clone())  # type: ignore[operator,index]
        head.bias.copy_(head.bias[classes].clone())  # type: ignore[operator,index]
    assert scores(net, images) == pytest.approx(before, rel=1e-9)


def test_blocks_of_images_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = classifier(), images_of(9, 2)
    before = scores(net, images)
    monkeypatch.setattr("oodbench.detectors.adascale.BLOCK", 2)
    assert scores(net, images) == pytest.approx(before, rel=1e-9)


def test_ties_among_units_are_shared() -> None:
    net, images = classifier(), images_of(9, 2)
    with torch.no_grad():
        body = net.network.get_submodule("body.0")
        body.weight.copy_(body.weight[:1].expand(24, -1, -1, -1).clone())  # type: ignore[operator,index]
        body.bias.fill_(0.5)  # type: ignore[operator]
    used = {**SETTINGS, "variant": "A"}
    assert scores(net, images, **used) == pytest.approx(loop(net, images, images_of(11, 1), used), rel=1e-6)


def test_without_a_perturbation_the_shift_is_zero() -> None:
    net, images = classifier(), images_of(9, 2)
    assert np.array_equal(scores(net, images, epsilon=0.0), scores(net, images, epsilon=0.0, weight=0.0))


def test_a_network_that_is_never_active_scores_alike() -> None:
    net = classifier()
    with torch.no_grad():
        net.network.get_submodule("body.0").bias.fill_(-1000)  # type: ignore[operator]
    for variant in ("A", "L"):
        assert scores(net, images_of(5, 2), variant=variant) == pytest.approx(-logsumexp(net.bias.numpy()))


def test_images_of_one_colour_and_one_validation_image() -> None:
    net = classifier()
    flat = torch.full((4, 3, 6, 6), 0.5, dtype=torch.float64)
    assert len(np.unique(fitted(net, flat).score(batch_of(net, images_of(5, 2))).numpy())) == 5
    assert fitted(net, images_of(1, 1)).known_.shape == (1,)


def test_passes_are_counted() -> None:
    detector, counted = fitted(classifier()), []
    net = classifier()
    net.network.get_submodule("body").register_forward_hook(lambda module, inputs, output: counted.append(len(output)))
    detector.score(Batch(7, {"images": lambda rows: images_of(7, 2)[rows]}, "adascale", net))
    assert sum(counted) == detector.passes * 7
    counted.clear()
    train, validation = batch_of(classifier(), images_of(30, 0)), batch_of(classifier(), images_of(11, 1))
    detector.fit(net, FitData(train, validation))
    assert sum(counted) == detector.passes_in_fit(0, 11, 0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adascale[variant=B]", "variant must be 'A' or 'L', got 'B'"),
        ("adascale[high=100]", r"high must lie in \[0, 100\), got 100"),
        ("adascale[low=80,high=70]", "low must be at most high, got 80"),
        ("adascale[pixels=0]", "pixels must lie above 0 and at most at 1, got 0"),
        ("adascale[shifted=101]", "shifted must lie above 0 and at most at 100, got 101"),
        ("adascale[weight=-1]", "weight must be finite and not negative, got -1"),
        ("adascale[epsilon=-0.1]", "epsilon must be finite and not negative, got -0.1"),
    ],
)
def test_settings_without_meaning_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("detector", parse_spec(name))
