"""Catalyst against a float64 loop over images, channels and positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, FitData
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.detectors.map_network import SIDE, classifier, images_of, maps_of

pytestmark = pytest.mark.usefixtures("one_thread")

STATISTICS = ("max", "std", "mean")


def batch_of(detector: Any, net: Classifier, images: Tensor, reduced: bool = True) -> Batch:
    with torch.no_grad():
        output = net.forward_with_maps(images)
    parts = {"logits": (output.logits.double() + 5).__getitem__, "labels": torch.zeros(len(images)).__getitem__}
    if reduced:
        parts["maps"] = detector.reduce(*output).__getitem__
    return Batch(len(images), parts, "catalyst")


def fitted(net: Classifier, cut: tuple[int, ...] = (7,), side: int = SIDE, **settings: Any) -> Any:
    """A fitted detector that has observed the training images in pieces."""
    detector = registry.get("detector", "catalyst")(**settings)
    for piece in torch.tensor_split(images_of(20, 0, side), list(cut)):
        with torch.no_grad():
            detector.observe(*net.forward_with_maps(piece), torch.zeros(len(piece), dtype=torch.int64))
    train, validation = (batch_of(detector, net, images_of(n, n, side), n == 9) for n in (20, 9))
    detector.fit(net, FitData(train, validation))
    return detector


def statistic_of(channel: list[float], statistic: str) -> float:
    mean = sum(channel) / len(channel)
    if statistic == "std":
        return math.sqrt(sum((z - mean) ** 2 for z in channel) / (len(channel) - 1))
    return max(channel) if statistic == "max" else mean


def loop(net: Classifier, images: Tensor, statistic: str, clip: float | None, base: str) -> list[float]:
    def statistics(some: Tensor) -> list[list[float]]:
        last = maps_of(net, some)[-1].reshape(len(some), 5, -1).astype(np.float64)
        return [[max(0.0, statistic_of(c.tolist(), statistic)) for c in image] for image in last]

    if clip is None:
        known = [sum(row) / len(row) for row in statistics(images_of(20, 0))]
        clip = {"max": 4.0, "std": 3.0, "mean": 1.0}[statistic] * sum(known) / len(known)
    found = []
    for row, logits in zip(statistics(images), (net(images).double() + 5).tolist(), strict=True):
        total = sum(math.exp(z) for z in logits)
        confidence = {"energy": math.log(total), "max_logit": max(logits), "msp": math.exp(max(logits)) / total}[base]
        found.append(-confidence * sum(min(t, clip) for t in row) / len(row))
    return found


@pytest.mark.parametrize("base", ["energy", "max_logit", "msp"])
@pytest.mark.parametrize("clip", [None, 0.05, 100.0])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_equals_a_loop_over_its_formula(statistic: str, clip: float | None, base: str) -> None:
    net, images = classifier(), 1.5 * images_of(6, 2)
    detector = fitted(net, statistic=statistic, clip=clip, base=base)
    found = detector.score(batch_of(detector, net, images)).numpy()
    assert found.dtype == np.float64
    assert found == pytest.approx(loop(net, images, statistic, clip, base), rel=1e-6)
    assert len(np.unique(found)) == 6


@pytest.mark.parametrize("statistic", STATISTICS)
def test_pieces_of_the_training_images_do_not_matter(statistic: str) -> None:
    net = classifier()
    clips = {fitted(net, cut, statistic=statistic).clip_ for cut in ((), (7,), (1, 2, 19), tuple(range(1, 20)))}
    assert len(clips) == 1
    assert fitted(net, statistic=statistic).chosen_ == {"clip": clips.pop()}
    assert fitted(net, statistic=statistic, clip=0.5).chosen_ == {}


def test_orders_of_channels_and_positions_do_not_matter() -> None:
    net, images = classifier(), images_of(6, 2)
    output, random = net.forward_with_maps(images), torch.Generator().manual_seed(0)
    last = output.maps[-1].detach()
    mixed = last.flatten(2)[:, torch.randperm(5, generator=random)]
    mixed = mixed[:, :, torch.randperm(mixed.shape[2], generator=random)].view_as(last)
    for statistic in STATISTICS:
        detector = fitted(net, statistic=statistic)
        parts = [detector.reduce([each], output.features, output.logits).double() for each in (last, mixed)]
        first, second = (part.clamp(0, detector.clip_).mean(dim=1).tolist() for part in parts)
        assert first == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_unit_of_maps_scales_every_score_alike(statistic: str) -> None:
    net, images = classifier(), images_of(6, 2)
    before = fitted(net, statistic=statistic)
    scores = before.score(batch_of(before, net, images))
    after = registry.get("detector", "catalyst")(statistic=statistic)
    output = net.forward_with_maps(images_of(20, 0))
    after.observe([3 * each for each in output.maps], output.features, output.logits, torch.zeros(20))
    validation = batch_of(after, net, images_of(9, 9))
    after.fit(net, FitData(validation, validation))
    parts = {"logits": (net(images).double() + 5).__getitem__}
    parts["maps"] = (3 * batch_of(after, net, images).maps).__getitem__
    assert after.score(Batch(6, parts, "catalyst")).tolist() == pytest.approx((3 * scores).tolist(), rel=1e-6)


def test_a_map_without_a_positive_value_scores_zero() -> None:
    net = classifier()
    detector = fitted(net)
    parts = {"logits": torch.ones(2, 3, dtype=torch.float64).__getitem__, "maps": (-torch.ones(2, 5)).__getitem__}
    assert detector.score(Batch(2, parts, "catalyst")).tolist() == [0, 0]


def test_maps_of_one_position_have_no_standard_deviation() -> None:
    net = classifier(side=1)
    with pytest.raises(DataError, match=r"maps of the last block are \(5, 1, 1\): one position has no standard"):
        fitted(net, statistic="std", side=1)
    assert fitted(net, side=1).clip_ > 0


def test_maps_that_are_constant_and_not_positive_are_refused() -> None:
    net = classifier()
    with torch.no_grad():
        net.network.get_submodule("second.0").weight.zero_()  # type: ignore[operator]
        net.network.get_submodule("second.0").bias.fill_(-1)  # type: ignore[operator]
    for statistic in STATISTICS:
        with pytest.raises(DataError, match=f"The {statistic} of the last block's maps is nowhere positive"):
            fitted(net, statistic=statistic)
    with pytest.raises(DataError, match="nowhere positive"):
        fitted(net, clip=1.0)


@pytest.mark.parametrize("base", ["energy", "max_logit"])
def test_a_base_that_is_not_positive_is_refused(base: str) -> None:
    net = classifier()
    with torch.no_grad():
        net.bias.sub_(1000)
    with pytest.raises(DataError, match=f"multiplies {base} by a positive factor.*catalyst.base=msp. always is"):
        fitted(net, base=base)
    assert fitted(net, base="msp").clip_ > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("catalyst[statistic=median]", "statistic must be 'max', 'std' or 'mean', got 'median'"),
        ("catalyst[clip=0]", "clip must be positive, or none for the default's rule, got 0"),
        ("catalyst[base=knn]", "base must be 'energy', 'max_logit' or 'msp', got 'knn'"),
    ],
)
def test_settings_without_meaning_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("detector", parse_spec(name))
