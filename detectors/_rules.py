"""Default settings that follow the network's width and the size of the classes.

The authors' numbers were chosen for wide networks and large classes. Each rule gives their number exactly where they
use it, and on narrower networks and smaller classes what keeps its meaning there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import FitData
from oodbench.detectors._similarity import bank_of

DENSENET, RESNET18 = 342, 512
"""Features of DenseNet-BC (depth 100, growth 12) and of ResNet-18, the narrowest networks of several papers."""


def principal_dim(features: int, spanned: int) -> int:
    """Number of principal directions that ViM keeps of those that the training features span, below `spanned`.

    The paper's 1000 for more than 1500 features and 512 for 768 to 1500, but at most two thirds of the spanned
    directions, the largest share in the paper (512 of 768); below 768 features, half of the spanned directions. 0 if
    fewer than two are spanned.
    """
    if features < 768:
        return spanned // 2
    return min(1000 if features > 1500 else 512, 2 * spanned // 3)


def percentile_of(units: int, active: float, usual: float, narrowest: int, most: float = 0.5) -> float:
    """The percentile above which units count as large: `usual`, but lower for fewer than `narrowest` units.

    There it leaves as many units as `usual` leaves of `narrowest` ones, the fewest that the authors work with, but at
    most the share `most` of the `active` ones (pruning less than half of them would not be pruning), and at least one.
    """
    if units >= narrowest:
        return usual
    percent = 100 - usual
    kept = max(percent * units / 100, min(percent * narrowest / 100, most * active), 1.0)
    return 100 - 100 * kept / units


def tail_of(images: int) -> int:
    """Number of a class's largest distances that OpenMax fits: a twentieth of its images, from 3 to the authors' 20.

    The authors fit 20 of up to 1,300 images. With 20 of 115 the fit describes a sixth of the class instead of its
    extremes, more than the twentieth that a threshold at TPR 95% rejects. Three, because the two largest distances may
    be equal, and a distribution with two parameters needs two different values.
    """
    return min(20, max(3, images // 20))


def neighbours_of(data: FitData, usual: int) -> int:
    """Number of neighbours: `usual`, but at most as many as the bank has images of a class on average, at least 1.

    More than that cannot all be of the image's own class.
    """
    labels = data.train.labels[bank_of(data)]
    return min(usual, max(1, len(labels) // max(1, len(labels.unique()))))


def ever_active(mean: Tensor) -> int:
    """Number of units whose mean training feature, (D,), is not 0."""
    return int(torch.count_nonzero(mean))


def kernel_pca_settings(features: int, gaussian: bool) -> dict[str, float]:
    """Share of the variance that kernel PCA keeps, width of its Gaussian kernel, and number of random features.

    The authors' numbers for CIFAR-10 up to 512 features, those for ImageNet above. Shares and widths do not depend on
    the number of features; random features approximate the kernel by their number alone, so that a narrow network needs
    as many as ResNet-18.
    """
    narrow = features <= RESNET18
    ratio = (0.8 if narrow else 0.5) if gaussian else (0.85 if narrow else 0.99)
    return {"ratio": ratio, "gamma": 2.0 if narrow else 3.0, "mapped": max(2048, 2 * features)}


def reference_share(images: int) -> float:
    """Share of the training images that CF-OOD compares with: the authors' tenth, but at least 5,000 images.

    A tenth of CIFAR-10 has 5,000 images. The score is a share of the images compared with: of 120 it would have no more
    than 120 different values.
    """
    return max(0.1, min(1.0, 5000 / images))


def collapsed_dim(features: int, classes: int, explained: int, spanned: int) -> int:
    """Number of principal directions of NECO, below `spanned`: `explained`, those with 90% of the variance.

    That is the authors' advice. Below the 768 features of their ViT, at most K - 1 directions, in which neural collapse
    ends with K classes: in a narrow network, units that hardly vary weigh as much as others once they are standardised,
    and 90% of the variance then includes directions of noise.
    """
    most = spanned - 1 if features >= 768 else min(spanned - 1, max(1, classes - 1))
    return min(explained, most)


def repeats_of(classes: int) -> int:
    """Number of WeiPer's perturbed heads: 100 from 10 classes on, and below as many as give 1000 perturbed logits."""
    return max(100, -(-1000 // classes))
