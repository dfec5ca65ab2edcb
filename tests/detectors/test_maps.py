"""Detectors of feature maps against loops in float64 over images, blocks and powers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Classifier, DataError, Detector, FitData
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.detectors.map_network import (
    Array,
    K,
    batch,
    blocks_of,
    classifier,
    images_of,
    maps_of,
    predicted,
)

# gram


def gram(name: str, net: Classifier, train: Tensor, validation: Tensor, cut: Sequence[int] = (7,)) -> Detector:
    """A fitted gram detector that has observed the training images in pieces."""
    detector: Detector = create("detector", parse_spec(name))
    with torch.no_grad():
        for piece in torch.tensor_split(train, list(cut)):
            detector.observe(*net.forward_with_maps(piece), torch.zeros(len(piece), dtype=torch.int64))
    known = batch(detector, net, validation)
    detector.fit(net, FitData(batch(detector, net, train, keep=False), known))
    return detector


def naive_row_sums(layer: Array, power: int) -> list[float]:
    """Row sums of one image's Gram matrix of one power, entry by entry."""
    rows = layer.reshape(len(layer), -1).astype(np.float64)
    found = []
    for i in range(len(rows)):
        total = 0.0
        for j in range(len(rows)):
            total += sum(a**power * b**power for a, b in zip(rows[i], rows[j], strict=True))
        found.append(np.sign(total) * abs(total) ** (1 / power))
    return found


def naive_gram(net: Classifier, train: Tensor, validation: Tensor, test: Tensor, powers: int) -> Array:
    def values(images: Tensor) -> list[list[list[float]]]:
        both = maps_of(net, images)
        return [
            [[v for p in range(1, powers + 1) for v in naive_row_sums(layer[n], p)] for layer in both]
            for n in range(len(images))
        ]

    training, classes = values(train), predicted(net, train)

    def deviations(images: Tensor) -> Array:
        out = []
        for value, k in zip(values(images), predicted(net, images), strict=True):
            rows = [v for v, c in zip(training, classes, strict=True) if c == k] or training
            layers = []
            for place in range(2):
                total = 0.0
                for i, v in enumerate(value[place]):
                    low, high = min(row[place][i] for row in rows), max(row[place][i] for row in rows)
                    if v < low:
                        total += (low - v) / max(abs(low), 1e-6)
                    if v > high:
                        total += (v - high) / max(abs(high), 1e-6)
                layers.append(total)
            out.append(layers)
        return np.array(out)

    scores: Array = (deviations(test) / np.maximum(deviations(validation).mean(axis=0), 1e-7)).sum(axis=1)
    return scores


@pytest.mark.parametrize("powers", [1, 4])
def test_gram_is_its_formula(powers: int) -> None:
    net = classifier()
    train, validation, test = images_of(18, 0), images_of(6, 1), 1.5 * images_of(6, 2)
    assert len(set(predicted(net, train))) > 1
    detector = gram(f"gram[powers={powers}]", net, train, validation)
    scores = detector.score(batch(detector, net, test)).numpy()
    assert scores == pytest.approx(naive_gram(net, train, validation, test, powers), rel=1e-4, abs=1e-6)
    assert (scores > 0).any()


def test_gram_of_a_class_that_training_never_predicts_takes_the_range_of_all() -> None:
    net = classifier()
    train, validation = images_of(20, 0), images_of(6, 1)
    classes = predicted(net, train)
    rare = min(set(classes), key=classes.count)
    train = train[[k for k, c in enumerate(classes) if c != rare]]
    test = images_of(20, 0)[[k for k, c in enumerate(classes) if c == rare]]
    assert rare not in predicted(net, train)
    assert set(predicted(net, test)) == {rare}
    detector = gram("gram[powers=2]", net, train, validation)
    scores = detector.score(batch(detector, net, test)).numpy()
    assert scores == pytest.approx(naive_gram(net, train, validation, test, 2), rel=1e-4, abs=1e-6)


def test_gram_of_identical_maps_is_zero_and_of_others_finite() -> None:
    net = classifier()
    one = images_of(1, 0)
    detector = gram("gram", net, one.expand(12, -1, -1, -1), one.expand(4, -1, -1, -1))
    assert detector.score(batch(detector, net, one.expand(3, -1, -1, -1))).tolist() == [0, 0, 0]
    assert torch.isfinite(detector.score(batch(detector, net, images_of(5, 3)))).all()


def test_gram_of_units_that_are_never_active_is_finite() -> None:
    net = classifier()
    with torch.no_grad():
        net.network.get_submodule("first.0").bias.fill_(-100)  # type: ignore[operator]
    detector = gram("gram", net, images_of(9, 0), images_of(4, 1))
    assert torch.isfinite(detector.score(batch(detector, net, images_of(5, 3)))).all()


def test_gram_takes_large_activations_to_the_tenth_power() -> None:
    net = classifier()
    detector = gram("gram", net, 1000 * images_of(9, 0), 1000 * images_of(4, 1))
    assert torch.isfinite(detector.score(batch(detector, net, 1000 * images_of(5, 3)))).all()


def test_gram_of_one_class_and_maps_of_one_pixel() -> None:
    net = classifier(side=1)
    one = Classifier(net.network, 1, blocks_of)
    net.network.head = nn.Linear(5, 1).double()
    train, validation, test = (images_of(n, n, side=1) for n in (12, 6, 5))
    detector = gram("gram[powers=3]", one, train, validation)
    scores = detector.score(batch(detector, one, test)).numpy()
    assert scores == pytest.approx(naive_gram(one, train, validation, test, 3), rel=1e-4, abs=1e-6)


# rankfeat


@pytest.mark.parametrize("last", [1, 2])
def test_rankfeat_is_its_formula(last: int) -> None:
    net, images = classifier(), images_of(5, 0)
    first, second = net.network.get_submodule("first"), net.network.get_submodule("second")
    weight, bias = net.weight.detach().numpy(), net.bias.detach().numpy()

    def without(layer: Array) -> Array:
        u, s, v = np.linalg.svd(layer.reshape(len(layer), -1), full_matrices=False)
        changed: Array = (layer.reshape(len(layer), -1) - s[0] * np.outer(u[:, 0], v[0])).reshape(layer.shape)
        return changed

    expected = []
    for image in images:
        before = first(image[None])[0].detach().numpy()
        after = [second(torch.from_numpy(before)[None])[0].detach().numpy()]
        after[0] = without(after[0])
        if last == 2:
            after.append(second(torch.from_numpy(without(before))[None])[0].detach().numpy())
        logits = np.mean([weight @ one.mean(axis=(1, 2)) + bias for one in after], axis=0)
        expected.append(-np.log(np.exp(logits).sum()))
    detector: Detector = create("detector", parse_spec(f"rankfeat[last={last}]"))
    assert detector.passes == last
    found = detector.score(batch(detector, net, images)).numpy()
    assert found == pytest.approx(np.array(expected), rel=1e-9)
    assert not any(module._forward_hooks for module in net.network.modules())


def test_rankfeat_refuses_maps_of_rank_one_and_too_few_blocks() -> None:
    detector: Detector = create("detector", parse_spec("rankfeat"))
    small = classifier(side=1)
    with pytest.raises(DataError, match=r"maps of a block are \(4, 1, 1\): they have rank one"):
        detector.score(batch(detector, small, images_of(2, 0, side=1)))
    assert not any(module._forward_hooks for module in small.network.modules())
    deep: Detector = create("detector", parse_spec("rankfeat[last=3]"))
    with pytest.raises(DataError, match=r"has 2 blocks; choose rankfeat\[last=2\] or less"):
        deep.score(batch(deep, classifier(), images_of(2, 0)))


def test_blocks_are_not_shown_to_who_does_not_declare_them_and_must_be_maps() -> None:
    with pytest.raises(PluginError, match="has no blocks available"):
        _ = classifier().without_blocks().blocks
    flat = Classifier(classifier().network, K, lambda network: [network.get_submodule("head")])
    with pytest.raises(PluginError, match="Block 0 of the network returned nothing"):
        flat.forward_with_maps(images_of(2, 0))
    assert not any(module._forward_hooks for module in flat.network.modules())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gram[powers=0]", "powers must be at least 1, got 0"),
        ("rankfeat[last=0]", "last must be at least 1, got 0"),
        ("mahalanobis_ensemble[epsilon=-1]", "epsilon is a step in units of pixels and must not be negative, got -1"),
        ("mahalanobis_ensemble[attack=0]", "attack is a step in units of pixels and must be positive, got 0"),
        ("mahalanobis_ensemble[validation=ood]", "validation must be 'fgsm' or 'outliers', got 'ood'"),
    ],
)
def test_settings_without_meaning_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create("detector", parse_spec(name))
