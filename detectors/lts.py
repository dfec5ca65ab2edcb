"""LTS: energy of logits that are scaled by how much of the feature its largest units hold."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors._rectified import positive_units, require_percentile, units_above
from oodbench.detectors._rows import by_rows
from oodbench.detectors._rules import DENSENET, percentile_of


@detector(
    "lts",
    title="LTS (logit scaling)",
    paper="Djurisic, Liu & Nikolic, Logit Scaling for Out-of-Distribution Detection, arXiv:2409.01175, 2024",
    display_name="LTS",
    cite="djurisic2024lts",
)
class LTS(Detector):
    """-logsumexp(S L), S = (s1 / s2)^2: s1 is the sum of relu(f), s2 that of its k largest units.

    L are the logits and f is the feature; k = D - round(D percentile / 100). Nothing is pruned and the head is not
    applied again. Features may have either sign, as those of ViT, Swin and ConvNeXt have: units below 0 count as 0 in
    both sums. An image without a unit above 0 has S = 1.

    Default of `percentile`: the authors' from 342 features on. Below, the one that counts as many units as theirs
    counts of 342, but at most half of the units above 0 in a training image (mean). Authors: 95, the largest twentieth,
    for 342 (DenseNet) to 2048 features (ResNet-50), ViT-L and Swin-B among them. Default suite: 87, 17 of 128 units.

    Differs: like the authors' code, which multiplies by S and applies the ReLU (the paper's equation has none); its
    scores and those of pytorch-ood 0.4.0 have the same ranks as ours. A version of pytorch-ood divided by S.
    """

    needs = frozenset({"features", "logits"})
    grid = {"percentile": (None, 65.0, 75.0, 80.0, 85.0, 90.0, 95.0)}
    percentile: float | None = None

    def __post_init__(self) -> None:
        """Check the percentile."""
        if self.percentile is not None:
            require_percentile(self.percentile)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Choose k. Raises `DataError` if the percentile leaves no unit above it."""
        if self.percentile is None:
            found = data.train.once(positive_units)
            percentile = percentile_of(found.units, found.active, 95.0, DENSENET)
            self.chosen_ = {"percentile": percentile}
            self.count_ = units_above(found.units, percentile)
        else:
            self.count_ = units_above(next(data.train.batches(1)).features.shape[1], self.percentile)

    def score(self, batch: Batch) -> Tensor:
        """Negative logsumexp of the scaled logits."""
        ratios = by_rows(self._ratio, batch.features)
        return -torch.logsumexp(batch.logits * ratios.square()[:, None], dim=1)

    def _ratio(self, features: Tensor) -> Tensor:
        """s1 / s2 of features (N, D), float64 (N,); 1 for a row without a positive unit."""
        positive = np.maximum(features.numpy(), 0)
        whole = positive.sum(axis=1, dtype=np.float64)
        positive.partition(positive.shape[1] - self.count_, axis=1)
        largest = positive[:, -self.count_ :].sum(axis=1, dtype=np.float64)
        return torch.from_numpy(np.divide(whole, largest, out=np.ones_like(whole), where=largest > 0))
