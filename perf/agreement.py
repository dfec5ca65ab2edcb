"""Compares the detectors' scores with an independent float64 reference, implemented here from the papers' equations.

    python perf/agreement.py [--fit 2000] [--test 1000] [--units 128]

It uses the network and sets of perf/_world.py: the ID test set and every OOD set, joined. For each detector it prints
the largest relative difference, |ours - reference| / max(|reference|, median |reference|), and Spearman's rank
correlation. Required are at most 1e-4 and at least 0.9999 (0.999 for odin, whose gradient changes sign where it is
almost 0). The exit code is 1 if a detector fails.

The reference uses only NumPy and SciPy, and different algorithms where possible: singular vectors instead of
eigenvectors, sorting instead of selection, a softmax with 50 digits for msp, ODIN's gradient by hand.

Every ReLU network with units that are never active has singular covariances. For these the reference uses the
Moore-Penrose pseudo-inverse with a cutoff at 1e-10 of the largest variance, as our `mahalanobis` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import NamedTuple

import numpy as np
import torch
from _world import Outputs, World, fitted, make_world, scores
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import spearmanr

Array = NDArray[np.float64]
CUTOFF = 1e-10
K = 50


class Set(NamedTuple):
    """A set in float64."""

    images: Array
    labels: NDArray[np.int64]
    features: Array
    logits: Array


class Known(NamedTuple):
    """The inputs of a reference: the training and validation sets, the head, and the first layer."""

    train: Set
    validation: Set
    weight: Array
    bias: Array
    first: tuple[Array, Array]


def msp(known: Known, test: Set) -> Array:
    """log(1 - max_k p_k), with 50 digits."""
    with localcontext() as context:
        context.prec = 50
        rows = [sorted(Decimal(float(z)).exp() for z in row) for row in test.logits]
        return np.array([float((sum(row[:-1], Decimal()) / sum(row, Decimal())).ln()) for row in rows])


def max_logit(known: Known, test: Set) -> Array:
    """Largest logit, negative."""
    return -np.sort(test.logits, axis=1)[:, -1]


def energy(known: Known, test: Set) -> Array:
    """-log sum_k exp z_k."""
    found: Array = -logsumexp(test.logits, axis=1)
    return found


def odin(known: Known, test: Set, temperature: float = 1000.0, epsilon: float = 0.0014) -> Array:
    """log(1 - max_k softmax(f(x~) / T)), x~ = x + epsilon sign(grad_x log max_k softmax(f(x) / T))."""
    layer, offset = known.first
    x = test.images.reshape(len(test.images), -1)

    def logits(x: Array) -> Array:
        return np.maximum(x @ layer.T + offset, 0) @ known.weight.T + known.bias

    p = softmax(logits(x) / temperature, axis=1)
    best = np.eye(p.shape[1])[p.argmax(axis=1)]
    upstream = ((best - p) / temperature) @ known.weight * (x @ layer.T + offset > 0)
    p = softmax(logits(x + epsilon * np.sign(upstream @ layer)) / temperature, axis=1)
    return np.log(np.sort(p, axis=1)[:, :-1].sum(axis=1))


def squares(x: Array, covariance: Array) -> Array:
    """x^T S^+ x of each row, S^+ by the singular values of S."""
    left, values, right = np.linalg.svd(covariance)
    large = values > CUTOFF * values[0]
    inverse = right[large].T @ np.diag(1 / values[large]) @ left[:, large].T
    return np.einsum("nd,de,ne->n", x, inverse, x)


def tied(known: Known) -> tuple[list[Array], Array]:
    """Class means, and the covariance within classes."""
    features, labels = known.train.features, known.train.labels
    means = [features[labels == k].mean(axis=0) for k in range(labels.max() + 1)]
    centred = np.concatenate([features[labels == k] - mean for k, mean in enumerate(means)])
    return means, centred.T @ centred / len(features)


def mahalanobis(known: Known, test: Set) -> Array:
    """min_c (f - mu_c)^T S^+ (f - mu_c)."""
    means, covariance = tied(known)
    found: Array = np.min([squares(test.features - mean, covariance) for mean in means], axis=0)
    return found


def relative_mahalanobis(known: Known, test: Set) -> Array:
    """`mahalanobis` minus the squared distance to the mean of all features, by the covariance around it."""
    features = known.train.features
    background = squares(test.features - features.mean(axis=0), np.cov(features.T, bias=True))
    return mahalanobis(known, test) - background


def knn(known: Known, test: Set) -> Array:
    """Distance to the K-th nearest unit feature."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (test.features, known.train.features))
    return np.array([np.sort(np.sqrt(((row - b) ** 2).sum(axis=1)))[K - 1] for row in a])


def vim(known: Known, test: Set) -> Array:
    """alpha |residual| - logsumexp; the principal space by the singular vectors of the training features."""
    origin = -np.linalg.pinv(known.weight) @ known.bias
    dim = known.train.features.shape[1] // 2
    residual = np.linalg.svd(known.train.features - origin, full_matrices=True)[2][dim:]
    lengths = [np.linalg.norm((part.features - origin) @ residual.T, axis=1) for part in (known.train, test)]
    alpha = known.train.logits.max(axis=1).mean() / lengths[0].mean()
    return alpha * lengths[1] + energy(known, test)


def gen(known: Known, test: Set) -> Array:
    """log sum_j p_j^0.1 (1 - p_j)^0.1."""
    p = softmax(test.logits, axis=1)
    others = np.stack([np.delete(p, j, axis=1).sum(axis=1) for j in range(p.shape[1])], axis=1)
    return np.log((p**0.1 * others**0.1).sum(axis=1))


def head(known: Known, features: Array, weight: Array | None = None) -> Array:
    """Energy of the head on changed features."""
    found: Array = -logsumexp(features @ (known.weight if weight is None else weight).T + known.bias, axis=1)
    return found


def react(known: Known, test: Set) -> Array:
    """Energy of features clipped at the 90th percentile of all training activations."""
    return head(known, np.minimum(test.features, np.percentile(known.train.features, 90)))


def dice(known: Known, test: Set) -> Array:
    """Energy with only the weights whose contribution w_kd E[f_d] is above the 90th percentile."""
    contribution = known.weight * known.train.features.mean(axis=0)
    return head(known, test.features, np.where(contribution > np.percentile(contribution, 90), known.weight, 0))


def ash(known: Known, test: Set) -> Array:
    """Energy of the largest tenth of each feature's units, scaled by exp(sum before / sum after)."""
    count = test.features.shape[1] - round(test.features.shape[1] * 0.9)
    smallest = np.sort(test.features, axis=1)[:, -count]
    pruned = np.where(test.features >= smallest[:, None], test.features, 0)
    scale = np.exp(test.features.sum(axis=1) / pruned.sum(axis=1))
    return head(known, pruned * scale[:, None])


def she(known: Known, test: Set) -> Array:
    """-<f, mean feature of the training images that are correctly classified as the predicted class>."""
    right = known.train.logits.argmax(axis=1) == known.train.labels
    means = [known.train.features[right & (known.train.labels == k)].mean(axis=0) for k in range(len(known.bias))]
    return -np.array([f @ means[k] for f, k in zip(test.features, test.logits.argmax(axis=1), strict=True)])


def kl_matching(known: Known, test: Set) -> Array:
    """min_k KL(p || mean softmax of the validation images classified as k)."""
    p, q = softmax(test.logits, axis=1), softmax(known.validation.logits, axis=1)
    means = [q[q.argmax(axis=1) == k].mean(axis=0) for k in np.unique(q.argmax(axis=1))]
    found: Array = np.min([(p * (log_softmax(test.logits, axis=1) - np.log(d))).sum(axis=1) for d in means], axis=0)
    return found


REFERENCES: dict[str, Callable[[Known, Set], Array]] = {
    one.__name__: one
    for one in (
        *(msp, max_logit, energy, odin, mahalanobis, knn, vim, gen),
        *(react, dice, ash, she, kl_matching, relative_mahalanobis),
    )
}


SETTINGS = {
    "knn": f"knn[k={K}]",
    "react": "react[percentile=90]",
    "dice": "dice[percentile=90]",
    "ash": "ash[percentile=90]",
}
"""Settings of the references, where a detector's default follows from the network or the training images."""


def doubled(*parts: Outputs) -> Set:
    """The options sets joined, in float64."""
    images, labels, features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    return Set(images.double().numpy(), labels.numpy(), features.double().numpy(), logits.double().numpy())


def known_of(world: World) -> Known:
    """The inputs of the references, from a world."""
    network = world.network
    weights = [one.double().numpy() for one in (network.head.weight, network.head.bias)]
    first = network.layer.weight.double().numpy(), network.layer.bias.double().numpy()
    return Known(doubled(world.fit), doubled(world.validation), weights[0], weights[1], first)


def agreement(name: str, world: World) -> tuple[float, float]:
    """The largest relative difference between a detector's scores and the reference, and their rank correlation."""
    spec = f"vim[dim={world.fit.features.shape[1] // 2}]" if name == "vim" else SETTINGS.get(name, name)
    detector, sets = fitted(spec, world), (world.test, *world.ood.values())
    ours = np.concatenate([scores([detector], outputs, world)[0] for outputs in sets])
    reference = REFERENCES[name](known_of(world), doubled(*sets))
    relative = np.abs(ours - reference) / np.maximum(np.abs(reference), np.median(np.abs(reference)))
    return float(relative.max()), float(spearmanr(ours, reference).statistic)


def main() -> None:
    """Print one row per detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=2000, help="images to fit on")
    parser.add_argument("--test", type=int, default=1000, help="images in each of six sets")
    parser.add_argument("--units", type=int, default=128, help="features")
    options = parser.parse_args()
    torch.set_num_threads(1)
    failures = 0
    with torch.no_grad():
        world = make_world(options.fit, options.test, options.units)
        covariance = tied(known_of(world))[1]
        rank = np.linalg.matrix_rank(covariance)
        print(f"{6 * options.test} scores each; the covariance within classes has rank {rank} of {options.units}")
        print(f"{'':22} {'relative':>9} {'Spearman':>12}")
        for name in REFERENCES:
            relative, rank_correlation = agreement(name, world)
            good = relative <= 1e-4 and rank_correlation >= (0.999 if name == "odin" else 0.9999)
            failures += not good
            print(f"{name:22} {relative:9.1e} {rank_correlation:12.9f}{'' if good else '   FAILED'}", flush=True)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
