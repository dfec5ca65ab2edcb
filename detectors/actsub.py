"""ActSub: energy of the feature's decisive part, times how similar its insignificant part is to training images."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, FitData, detector
from oodbench.detectors._head import energy, head
from oodbench.detectors._rectified import require_percentile, units_above
from oodbench.detectors._rows import by_rows, gathered
from oodbench.detectors._rules import DENSENET, neighbours_of, percentile_of
from oodbench.detectors._similarity import Banked, bank_blocks, bank_of, largest, unit

NEIGHBOURS = 10
"""Number of most similar training images, as in the authors' code."""
USUAL, FEWEST = 0.1, 50
"""The authors' share of the training images, and the fewest images of a class that it gives them (CIFAR-100)."""
BLOCK, PIECE = 1024, 32
"""Numbers of training images, and of images with their neighbours, that are projected at a time."""
EPSILON = 2.0**-52
"""Resolution of float64, for the rank of the head's weight."""
TINY = 1e-6
"""Share of a feature's length up to which its insignificant part counts as 0: it is then rounding alone."""
SAME = 1e-12
"""Smallest mean of 1 - cos: an image that is itself in the bank often enough would score infinity."""


@detector(
    "actsub",
    title="ActSub (activation subspaces)",
    paper="Zöngür, Hesse & Roth, Activation Subspaces for Out-of-Distribution Detection, ICCV 2025, eq. 4 to 10",
    display_name="ActSub",
    cite="zongur2025actsub",
)
class ActSub(Banked):
    """-E(x) S(x)^power: E = logsumexp of W (d exp(s1 / s2)) + b, S = -log(1 - mean of the 10 largest cos(r, r_i)).

    d is the projection of the feature f on the first `dim` right singular vectors of the head's weight W, its decisive
    part, and r = f - d the insignificant part. s1 is the sum of d, s2 that of its largest units, by `percentile`
    (SCALE); the factor is 1 where s2 is not positive. r_i are the insignificant parts of the training images in the
    bank, the same share of every class; of a bank with fewer than ten images of a class (mean), S takes that number of
    them. S keeps its sign if it is negative, and the mean of 1 - cos is at least 1e-12. Features may have either sign,
    as those of ViT, Swin and ConvNeXt have. A network whose E is not positive on average is refused.

    Neighbours are found in the shared float32 product of features, corrected by that of their decisive parts; their
    cosines are then computed in float64.

    Default of `percentile`: the authors' from 342 features on. Below, the one that counts as many units as theirs
    counts of 342, but at most half of the units above 0 in d (mean over ID validation images). Authors: 95 for DenseNet
    (CIFAR-10) and ResNet-50, 90 for CIFAR-100, 97.5 for MobileNet and ViT. Default suite: 87, 17 of 128 units.

    Default of `dim`: the one for which d and r are equally long, on average over the bank, of those that leave an r and
    do not exceed the rank of W. Authors: so, 363 of 2048 for ResNet-50 and 1000 classes. Default suite: 10 of
    128, the rank: d is still shorter than r.

    Default of `fraction`: a tenth of the training images, but at least 50 of a class (mean), or all. Authors: a tenth,
    50 of a class for CIFAR-100, 128 for ImageNet and 500 for CIFAR-10. Default suite: 0.43 and 0.38, 50 of a class.

    Differs: beyond the rank of W, which is at most the number of classes, the order of singular vectors is arbitrary;
    the authors' code may go there, and up to the rank its scores are ours. It loses the sign of a negative S for
    `power=2`, so that dissimilar images count as similar, and has no number for 0.5. `power` is theirs for CIFAR and
    ResNet-50; they tune it together with `percentile`. For ViT it is 1, and k-means centres replace the bank. Their
    bank is a random tenth of all images.
    """

    needs = frozenset({"features", "head", "similarities"})
    grid = {"percentile": (None, 85.0, 90.0, 92.5, 95.0, 97.5), "power": (0.5, 1.0, 1.5, 2.0)}
    percentile: float | None = None
    dim: int | None = None
    power: float = 2.0
    fraction: float | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.fraction is not None:
            super().__post_init__()
        if self.percentile is not None:
            require_percentile(self.percentile)
        if self.dim is not None and self.dim < 1:
            raise ValueError(f"dim is a number of directions from 1, or none for the default's rule, got {self.dim}")
        if not 0 <= self.power < float("inf"):
            raise ValueError(f"power must be finite and not negative, got {self.power}")

    def share(self, train: Batch) -> float:
        """The share of every class that the bank has."""
        return share_of(train) if self.fraction is None else self.fraction

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Choose the subspace, and store what finding neighbours in it needs.

        Raises `DataError` if `dim` is out of range, nothing is insignificant, or the energy is not positive.
        """
        self.weight_, self.bias_ = head(classifier)
        if self.fraction is None:
            self.chosen_ = {"fraction": share_of(data.train)}
        self.directions_ = self._choose_directions(data)
        self.neighbours_ = neighbours_of(data, NEIGHBOURS)
        blocks = (self._of_bank(part.features[own].double()) for part, own in bank_blocks(data, BLOCK))
        self.scales_, self.bank_ = gathered(len(bank_of(data)), blocks)
        if not self.scales_.any():
            raise DataError(
                f"{self.name} compares what the head's first {self.directions_.shape[1]} singular vectors leave of "
                "features, and they leave nothing of the training features; look at the network and its training."
            )
        self._choose_count(data.validation)
        total = sum(float(self._energies(part.features.double()).sum()) for part in data.validation.batches(BLOCK))
        if (mean := -total / len(data.validation)) <= 0:
            raise DataError(
                f"{self.name} multiplies by logsumexp of the logits of decisive parts, which is {mean:.3g} on average "
                "over the ID validation images; it must be positive for the product to rank."
            )

    def _choose_directions(self, data: FitData) -> Tensor:
        """The first `dim` right singular vectors of the head's weight, (D, dim)."""
        _, values, vectors = torch.linalg.svd(self.weight_, full_matrices=False)
        units = self.weight_.shape[1]
        most = min(int((values > values[0] * max(self.weight_.shape) * EPSILON).sum()), units - 1)
        if not 1 <= (self.dim or 1) <= most:
            raise DataError(
                f"{self.name} divides features of {units} units by singular vectors of the head, of which {most} leave "
                f"something: {self.dim or 1} were asked for. Choose a smaller dim, or another network."
            )
        directions: Tensor = vectors[:most].T
        if self.dim is not None:
            return directions[:, : self.dim].contiguous()
        longer = torch.zeros(most, dtype=torch.float64)
        for part, own in bank_blocks(data, BLOCK):
            features = part.features[own].double()
            inside = (features @ directions).square_().cumsum(dim=1)
            outside = (features.square().sum(dim=1, keepdim=True) - inside).clamp_min_(0)
            longer += (inside.sqrt_() - outside.sqrt_()).sum(dim=0)
        dim = int(longer.abs().argmin()) + 1
        self.chosen_ = {**self.chosen_, "dim": dim}
        return directions[:, :dim].contiguous()

    def _choose_count(self, known: Batch) -> None:
        """The number of largest units of d that s2 sums."""
        units, percentile = self.weight_.shape[1], self.percentile
        if percentile is None:
            above = 0
            for part in known.batches(BLOCK):
                decisive = part.features.double() @ self.directions_ @ self.directions_.T
                above += int(torch.count_nonzero(decisive > 0))
            percentile = percentile_of(units, above / len(known), 95.0, DENSENET)
            self.chosen_ = {**self.chosen_, "percentile": percentile}
        self.count_ = units_above(units, percentile)

    def score(self, batch: Batch) -> Tensor:
        """Negative product of energy and similarity."""
        features = batch.features.double()
        similarity = self._similarity(batch, features)
        return self._energies(features) * similarity.sign() * similarity.abs() ** self.power

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates of d, (N, dim), and r, (N, D), with its length, (N,), of features (N, D); 0 if it is rounding."""
        inside = features @ self.directions_
        rest = features - inside @ self.directions_.T
        lengths = rest.norm(dim=1)
        lengths = torch.where(lengths > TINY * features.norm(dim=1), lengths, 0.0)
        return inside, rest, lengths

    def _of_bank(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """|f| / |r|, float32 (N,), and the coordinates of d / |r|, float32 (N, dim); 0 where |r| is."""
        inside, _, lengths = self._split(features)
        inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
        return (features.norm(dim=1) * inverse).float(), (inside * inverse[:, None]).float()

    def _energies(self, features: Tensor) -> Tensor:
        """-logsumexp of the logits of scaled decisive parts, float64 (N,)."""

        def scaled(rows: Tensor) -> Tensor:
            decisive = rows @ self.directions_ @ self.directions_.T
            some = decisive.topk(self.count_, dim=1).values.sum(dim=1, keepdim=True)
            ratio = decisive.sum(dim=1, keepdim=True) / torch.where(some > 0, some, 1.0)
            return energy(decisive * torch.exp(torch.where(some > 0, ratio, 0.0)), self.weight_, self.bias_)

        return by_rows(scaled, features)

    def _similarity(self, batch: Batch, features: Tensor) -> Tensor:
        """S of features (N, D), float64 (N,)."""
        inside, rest, lengths = self._split(features)
        closeness = batch.similarities * self.scales_ * features.norm(dim=1)[:, None].float()
        closeness -= inside.float() @ self.bank_.T  # times the length of r, which does not change an image's order
        columns = largest(closeness, self.neighbours_)[1]
        rest = rest * (lengths > 0)[:, None]
        distances = []
        for own, near in zip(unit(rest).split(PIECE), columns.split(PIECE), strict=True):
            _, others, long = self._split(batch.bank.features(near.flatten()).double())
            others = unit(others * (long > 0)[:, None]).view(*near.shape, -1)
            # 1 - cos, by subtraction: exact for neighbours that are close
            apart = (others - own[:, None]).square().sum(dim=2) / 2
            none = (others == 0).all(dim=2) | (own == 0).all(dim=1, keepdim=True)
            distances.append(torch.where(none, 1.0, apart).mean(dim=1))
        return -torch.cat(distances).clamp_min(SAME).log()


def share_of(train: Batch) -> float:
    """A tenth, but at least 50 images of a class (mean), or all of them."""
    images = len(train) / max(1, len(train.labels.unique()))
    return max(USUAL, min(1.0, FEWEST / images))
