"""Detectors of feature maps against loops in float64, one image, one layer and one power at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plugins.specs import create, parse_spec

K, SIDE = 3, 6
Array = np.ndarray


class Net(nn.Module):
    """Two convolutions, ReLU and tanh, a pool, and a linear head; float64."""

    def __init__(self, side: int = SIDE) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 5, min(3, side), stride=2), nn.Tanh())
        self.head = nn.Linear(5, K)

    def features(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.second(self.first(images)).mean(dim=(2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def blocks_of(network: nn.Module) -> list[nn.Module]:
    return [network.get_submodule("first"), network.get_submodule("second")]


def classifier(side: int = SIDE, scale: float = 6.0) -> Classifier:
    torch.manual_seed(1)
    network = Net(side).double()
    with torch.no_grad():
        network.head.weight.mul_(scale)
        features = network.features(images_of(50, 9, side))
        network.head.bias.copy_(-(features @ network.head.weight.T).mean(dim=0))
    return Classifier(network, K, blocks_of)


def images_of(count: int, seed: int, side: int = SIDE) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).rand(count, 3, side, side))


def batch(
    detector: Detector, net: Classifier, images: Tensor, labels: Tensor | None = None, keep: bool = True
) -> Batch:
    """What the harness would hand over."""
    parts = {"images": lambda rows: images[rows].clone()} if "images" in detector.needs else {}
    if keep and type(detector).reduce is not Detector.reduce:
        with torch.no_grad():
            kept = detector.reduce(*net.forward_with_maps(images))
        parts["maps"] = lambda rows: kept[rows]
    if labels is not None:
        parts["labels"] = lambda rows: labels[rows]
    return Batch(len(images), parts, detector.name, net if "network" in detector.needs else None)


def maps_of(net: Classifier, images: Tensor) -> list[Array]:
    with torch.no_grad():
        first = net.network.get_submodule("first")(images)
        return [first.numpy(), net.network.get_submodule("second")(first).numpy()]


def predicted(net: Classifier, images: Tensor) -> list[int]:
    found: list[int] = net(images).argmax(dim=1).tolist()
    return found


# gram


def gram(name: str, net: Classifier, train: Tensor, validation: Tensor, cut: Sequence[int] = (7,)) -> Detector:
    """A fitted gram detector, its training images observed in pieces."""
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

    seen, classes = values(train), predicted(net, train)

    def deviations(images: Tensor) -> Array:
        out = []
        for value, k in zip(values(images), predicted(net, images), strict=True):
            rows = [v for v, c in zip(seen, classes, strict=True) if c == k] or seen
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


# mahalanobis_ensemble


def ensemble(settings: str, net: Classifier) -> tuple[Detector, Tensor, Tensor, Tensor, Tensor]:
    detector: Detector = create("detector", parse_spec(f"mahalanobis_ensemble[{settings}]"))
    train, validation, outliers = images_of(40, 0), images_of(12, 1), images_of(15, 2).round()
    labels, held = torch.arange(40) % K, torch.arange(12) % K
    data = FitData(
        batch(detector, net, train, labels),
        batch(detector, net, validation, held),
        batch(detector, net, outliers) if "outliers" in detector.needs else None,
    )
    detector.fit(net, data)
    return detector, train, labels, validation, outliers


def naive_distance(net: Classifier, place: int, train: Tensor, labels: Tensor, images: Tensor) -> Tensor:
    """Squared distance of one layer's means to the nearest class, differentiable, by a pseudo-inverse."""

    def means(x: Tensor) -> Tensor:
        first = net.network.get_submodule("first")(x)
        pooled: Tensor = (net.network.get_submodule("second")(first) if place else first).mean(dim=(2, 3))
        return pooled

    with torch.no_grad():
        known = means(train)
        centres = torch.stack([known[labels == k].mean(dim=0) for k in range(K)])
        spread = sum(torch.outer(f - centres[y], f - centres[y]) for f, y in zip(known, labels, strict=True))
        inverse = torch.linalg.pinv(spread / len(known), hermitian=True)
    gaps = means(images)[:, None] - centres
    return torch.einsum("nkc,cd,nkd->nk", gaps, inverse, gaps).amin(dim=1)


def naive_scores(net: Classifier, train: Tensor, labels: Tensor, images: Tensor, epsilon: float) -> Array:
    columns = []
    for place in range(2):
        column = []
        for image in images:
            x = image[None].clone().requires_grad_()
            distance = naive_distance(net, place, train, labels, x)
            (gradient,) = torch.autograd.grad(distance.sum(), x)
            nudged = (x - epsilon * gradient.sign()).detach()
            column.append(naive_distance(net, place, train, labels, nudged).item())
        columns.append(column)
    scores: Array = np.array(columns).T
    return scores


@pytest.mark.parametrize("settings", ["", "epsilon=0.01", "validation=outliers", "validation=outliers,epsilon=0.01"])
def test_mahalanobis_ensemble_is_its_formula(settings: str) -> None:
    from sklearn.linear_model import LogisticRegression

    net = classifier()
    detector, train, labels, validation, other = ensemble(settings, net)
    epsilon = 0.01 if "epsilon" in settings else 0.0
    if "outliers" not in settings:
        x = validation.clone().requires_grad_()
        log_p = net(x).log_softmax(dim=1)[torch.arange(12), torch.arange(12) % K]
        (gradient,) = torch.autograd.grad(-log_p.sum(), x)
        other = (validation + 0.05 * gradient.sign()).clamp(0, 1)
    known, strange = (naive_scores(net, train, labels, some, epsilon) for some in (validation, other))
    centre, spread = known.mean(axis=0), known.std(axis=0)
    regression = LogisticRegression(class_weight="balanced")
    regression.fit((np.concatenate([known, strange]) - centre) / spread, [0] * len(known) + [1] * len(strange))
    test = images_of(8, 5)
    expected = regression.decision_function((naive_scores(net, train, labels, test, epsilon) - centre) / spread)
    found = detector.score(batch(detector, net, test)).numpy()
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)  # means are kept in float32, and lbfgs stops early
    assert not any(module._forward_hooks for module in net.network.modules())


def test_mahalanobis_ensemble_scores_without_the_network_unless_it_steps() -> None:
    needs = {
        "": {"maps", "images"},
        "validation=outliers": {"maps", "outliers"},
        "epsilon=0.1": {"maps", "images", "network"},
        "epsilon=0.1,validation=outliers": {"maps", "images", "network", "outliers"},
    }
    for settings, expected in needs.items():
        detector: Detector = create("detector", parse_spec(f"mahalanobis_ensemble[{settings}]"))
        assert detector.needs == expected


@pytest.mark.parametrize(
    ("settings", "scoring", "fitting"),
    [("", 0, 200), ("epsilon=0.1", 5, 1100), ("validation=outliers", 0, 0), ("validation=outliers,epsilon=1", 5, 650)],
)
def test_mahalanobis_ensemble_counts_its_passes(settings: str, scoring: int, fitting: int) -> None:
    detector: Detector = create("detector", parse_spec(f"mahalanobis_ensemble[{settings}]"))
    assert detector.passes_for(4) == scoring
    assert detector.passes_in_fit(4, 100, 30) == fitting


def test_the_number_of_passes_is_what_the_network_sees() -> None:
    for settings in ("", "epsilon=0.01", "validation=outliers,epsilon=0.01"):
        net = classifier()
        passed: list[int] = []
        train, other = images_of(40, 0), images_of(15, 2)
        detector: Detector = create("detector", parse_spec(f"mahalanobis_ensemble[{settings}]"))
        labelled = [(some, torch.arange(len(some)) % K) for some in (train, images_of(12, 1), other)]
        train_, validation, outliers = (batch(detector, net, some, labels) for some, labels in labelled)
        net.network.get_submodule("first").register_forward_hook(lambda m, x, y, seen=passed: seen.append(len(y)))
        detector.fit(net, FitData(train_, validation, outliers))
        assert sum(passed) == detector.passes_in_fit(2, 12, 15)
        passed.clear()
        detector.score(outliers)
        assert sum(passed) == 15 * detector.passes_for(2)


def test_blocks_are_not_shown_to_who_does_not_declare_them_and_must_be_maps() -> None:
    with pytest.raises(PluginError, match="shows no blocks"):
        _ = classifier().without_blocks().blocks
    flat = Classifier(classifier().network, K, lambda network: [network.get_submodule("head")])
    with pytest.raises(PluginError, match="Block 0 of the network gave nothing"):
        flat.forward_with_maps(images_of(2, 0))
    assert not any(module._forward_hooks for module in flat.network.modules())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gram[powers=0]", "powers must be at least 1, got 0"),
        ("rankfeat[last=0]", "last must be at least 1, got 0"),
        ("mahalanobis_ensemble[epsilon=-1]", "epsilon is a step in units of pixels and must not be negative, got -1"),
        ("mahalanobis_ensemble[attack=0]", "attack is a step in units of pixels and must be positive, got 0"),
        ("mahalanobis_ensemble[validation=ood]", "validation must be 'fgsm' or 'outliers', got 'ood'"),
    ],
)
def test_settings_without_meaning_are_refused(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        create("detector", parse_spec(name))
