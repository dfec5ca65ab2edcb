"""pNML: how much a learner that knows the image's label could gain over the network's prediction."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector
from oodbench.detectors._directions import Directions
from oodbench.detectors._gaussian import CUTOFF, SINGLE, Whitening, eigen, product, require_cutoff, whitening
from oodbench.detectors._head import head
from oodbench.detectors._moments import shared_moments
from oodbench.detectors._rows import by_rows


@detector(
    "pnml",
    title="pNML",
    paper="Bibas, Feder & Hassner, Single Layer Predictive Normalized Maximum Likelihood for Out-of-Distribution "
    "Detection, NeurIPS 2021, eq. 20",
    display_name="pNML",
    cite="bibas2021pnml",
)
class PNML(Detector):
    """log sum_i p_i / (p_i + (1 - p_i) p_i^g) / log K, g = z^T P z / (1 + z^T P z), z = f / |f|, P = (Z^T Z)^+.

    Z are the directions of all training features, and p = softmax(W z + b): the head (W, b) on the direction, not on
    the feature. The score is the regret of the predictive normalised maximum likelihood learner of the last layer, from
    0 to 1: small where the training images hold z and one class is certain.

    The pseudo-inverse ignores directions with at most `cutoff` times the largest second moment, such as those of units
    that are never active. Z^T Z is summed in float64; z^T P z is computed in float32 where `mahalanobis` would do so.
    Sums are taken of terms minus 1, so that certain predictions do not tie.

    Differs: the authors' code inverts in float32, and so does pytorch-ood, whose order on synthetic features with a
    unit that is never active has a rank correlation of 0.989 with this one; in float64 their formulas agree to 1e-5.
    """

    needs = frozenset({"features", "head"})
    cutoff: float = CUTOFF

    def __post_init__(self) -> None:
        """Check the cutoff."""
        require_cutoff(self.cutoff)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Fit the square root of P and store the head."""
        self.weight_, self.bias_ = head(classifier)
        origin = torch.zeros(self.weight_.shape[1], dtype=torch.float64)
        moment = shared_moments(data.train, classifier.num_classes, Directions()).about(origin)
        self.space_ = whitening(eigen(data.train, moment), origin, self.cutoff, self.name)
        self.images_ = len(data.train)

    def score(self, batch: Batch) -> Tensor:
        """The regret, normalised by its maximum, log K."""
        space = Whitening(*self.space_)
        single = batch.features.dtype == torch.float32 and space.condition <= SINGLE
        kind = torch.float32 if single else torch.float64
        z = by_rows(lambda rows: Directions().of(rows).to(kind), batch.features)
        lengths = by_rows(
            lambda rows: torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64), product(z, space.root)
        )
        leverage = lengths.square() / self.images_
        logs = torch.log_softmax((z @ self.weight_.T.to(kind)).double() + self.bias_, dim=1)
        # p / (p + (1 - p) p^g) = 1 / (1 + a), a = (1 - p) p^(g - 1)
        a = -torch.expm1(logs) * torch.exp(-logs / (1 + leverage)[:, None])
        likeliest = torch.nn.functional.one_hot(logs.argmax(dim=1), logs.shape[1]).bool()
        more = torch.where(likeliest, -a / (1 + a), 1 / (1 + a)).sum(dim=1)
        return torch.log1p(more) / math.log(logs.shape[1])
