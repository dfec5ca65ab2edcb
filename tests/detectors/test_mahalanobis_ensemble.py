"""mahalanobis_ensemble against a loop over images and blocks in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Classifier, Detector, FitData
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.detectors.map_network import (
    Array,
    K,
    batch,
    classifier,
    images_of,
)


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
    """Squared distance of one block's means to the nearest class, by a pseudo-inverse; differentiable."""

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
    validation_scores, other_scores = (naive_scores(net, train, labels, some, epsilon) for some in (validation, other))
    centre, spread = validation_scores.mean(axis=0), validation_scores.std(axis=0)
    regression = LogisticRegression(class_weight="balanced")
    regression.fit(
        (np.concatenate([validation_scores, other_scores]) - centre) / spread,
        [0] * len(validation_scores) + [1] * len(other_scores),
    )
    test = images_of(8, 5)
    expected = regression.decision_function((naive_scores(net, train, labels, test, epsilon) - centre) / spread)
    found = detector.score(batch(detector, net, test)).numpy()
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)  # means are stored in float32, and L-BFGS stops early
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
        net.network.get_submodule("first").register_forward_hook(lambda m, x, y, sizes=passed: sizes.append(len(y)))
        detector.fit(net, FitData(train_, validation, outliers))
        assert sum(passed) == detector.passes_in_fit(2, 12, 15)
        passed.clear()
        detector.score(outliers)
        assert sum(passed) == 15 * detector.passes_for(2)
