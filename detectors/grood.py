"""GROOD: gradients of a nearest-prototype loss with respect to an OOD prototype, compared with those in training."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, FitData, detector
from oodbench.detectors._gaussian import SUMMED, class_means
from oodbench.detectors._rows import gathered, sum_of_rows
from oodbench.detectors._similarity import Banked, bank_blocks, bank_of, largest

CANDIDATES = 8
"""Number of bank images, nearest by float32 cosines, whose distances are computed exactly."""


def mixed_mean(train: Batch, means: Tensor, own: float) -> Tensor:
    """Mean over images of own f + (1 - own) mu_j, with j the most likely class but one; (D,).

    A class without images cannot be j. `means`: (K, D), NaN for classes without images.
    """
    empty, total = means.isnan().any(dim=1), torch.zeros(means.shape[1], dtype=torch.float64)
    for part in train.batches(SUMMED):
        logits = part.logits.masked_fill(empty, -torch.inf)
        second = logits.topk(min(2, len(means)), dim=1).indices[:, -1]
        second = torch.where(empty[second], logits.argmax(dim=1), second)
        total += own * sum_of_rows(part.features) + (1 - own) * means[second].sum(dim=0)
    return total / len(train)


@detector(
    "grood",
    title="GROOD",
    paper="ElAraby, Sahoo, Pequignot, Novello & Paull, GROOD: GRadient-aware Out-Of-Distribution Detection, TMLR 2025",
    display_name="GROOD",
    cite="elaraby2025grood",
)
class GROOD(Banked):
    """min_i |g(f) - g(f_i)|: distance from the nearest gradient of a correctly classified training image i.

    g(f) = p_o (f - mu_o) / |f - mu_o| is the gradient, with respect to an OOD prototype mu_o, of the cross-entropy of
    softmax(-|f - mu_1|, ..., -|f - mu_K|, -|f - mu_o|) at the predicted class; p_o is its last probability and mu_k the
    mean feature of the training images of class k. It has this closed form, whatever the predicted class, so that no
    backward pass is needed. mu_o is the mean over training images of own f + (1 - own) mu_j, where j is the most likely
    class but one (`prototype="mixup"`), or the mean of the mu_k (`"mean"`). Classes without images have no prototype.
    `fraction` takes the same share of every class as bank. Features may have either sign.

    The nearest gradients are found from the float32 cosines of all features, and the distance to the nearest of eight
    is then computed in float64.

    Differs: OpenOOD mixes the maps of an inner block, image by image, and runs the rest of the network on them; here
    features are mixed, which needs no further pass. Its file asks for the mean of OOD validation images instead, which
    the paper does not need and no method here gets, and its setting `lam` is overridden by 0.5 in the code, the default
    of `own`. It searches approximately in a part of the cells of an index, here the search is exact, and its file has a
    name that its loader does not find. With the same mu_o, an exact search over gradients by autograd gives our order
    (Spearman above 0.9999).
    """

    needs = frozenset({"features", "logits", "similarities"})
    grid = {"own": (0.3, 0.5, 0.8, 0.9), "prototype": ("mixup", "mean")}
    own: float = 0.5
    prototype: str = "mixup"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if not 0 <= self.own <= 1:
            raise ValueError(f"own is the share of an image's own feature and must lie in [0, 1], got {self.own}")
        if self.prototype not in ("mixup", "mean"):
            raise ValueError(f"prototype must be 'mixup' or 'mean', got {self.prototype!r}")

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Compute the prototypes, and what the gradients of the bank depend on.

        Raises `DataError` if the bank has no correctly classified image.
        """
        means, counts = data.train.once(class_means, classifier.num_classes)
        self.prototypes_ = means[counts > 0]
        if self.prototype == "mean":
            self.outlier_ = self.prototypes_.mean(dim=0)
        else:
            means[counts == 0] = torch.nan
            self.outlier_ = mixed_mean(data.train, means, self.own)
        self.sizes_, self.away_, self.lengths_, self.inner_, self.usable_ = gathered(
            len(bank_of(data)), (self._of_bank(part, own) for part, own in bank_blocks(data, SUMMED))
        )
        if not self.usable_.any():
            raise DataError(
                f"{self.name} compares images with training images that are classified correctly; the network gets "
                "none of the bank right."
            )

    def _of_bank(self, part: Batch, own: Tensor) -> tuple[Tensor, ...]:
        """What the gradients of some images of the bank depend on, and whether they are classified correctly."""
        features = part.features[own].double()
        away, correct = (features - self.outlier_).norm(dim=1), part.logits.argmax(dim=1) == part.labels
        return self._size(features), away, features.norm(dim=1), features @ self.outlier_, correct[own]

    def score(self, batch: Batch) -> Tensor:
        """Distance to the nearest gradient of the bank; at least 0 and at most 2."""
        features = batch.features.double()
        sizes = self._size(features)
        closeness = self._closeness(features, sizes, batch.similarities)
        nearest = largest(closeness, min(CANDIDATES, int(self.usable_.sum())))[1]
        others = batch.bank.features(nearest.flatten()).double()
        theirs = self._gradients(others, self.sizes_[nearest.flatten()]).view(*nearest.shape, -1)
        own = self._gradients(features, sizes)
        distances: Tensor = torch.linalg.vector_norm(own[:, None] - theirs, dim=2)
        return distances.amin(dim=1)

    def _size(self, features: Tensor) -> Tensor:
        """p_o of features (N, D): float64 (N,)."""
        away = features - self.outlier_  # so that the product cancels little
        prototypes = torch.cat([self.prototypes_ - self.outlier_, torch.zeros_like(self.outlier_)[None]])
        squares = away.square().sum(dim=1, keepdim=True) + prototypes.square().sum(dim=1)
        distances = squares.addmm_(away, prototypes.T, alpha=-2).clamp_min_(0).sqrt_()
        return torch.softmax(distances.neg_(), dim=1)[:, -1]

    def _gradients(self, features: Tensor, sizes: Tensor) -> Tensor:
        """g of features (N, D) with their p_o, (N,): float64 (N, D); 0 at the OOD prototype."""
        away = features - self.outlier_
        distances = away.norm(dim=1)
        return away * (sizes / torch.where(distances > 0, distances, 1.0))[:, None]

    def _closeness(self, features: Tensor, sizes: Tensor, cosines: Tensor) -> Tensor:
        """2 g(f) . g(f_i) - |g(f_i)|^2, float64 (N, B), -inf where i is not usable.

        From features (N, D), their p_o, (N,), and their cosines (N, B) with those of the bank.
        """
        away, inner = (features - self.outlier_).norm(dim=1), features @ self.outlier_
        found = cosines.double().mul_(features.norm(dim=1, keepdim=True)).mul_(self.lengths_)
        found.sub_(self.inner_).add_((self.outlier_.square().sum() - inner)[:, None])  # (f - mu_o) . (f_i - mu_o)
        found.div_(torch.where(self.away_ > 0, self.away_, 1.0)).div_(torch.where(away > 0, away, 1.0)[:, None])
        found.clamp_(-1, 1).mul_(self.sizes_).mul_(2 * (sizes * (away > 0))[:, None])
        return found.sub_((self.sizes_ * (self.away_ > 0)).square()).masked_fill_(~self.usable_, -torch.inf)
