"""Catalyst: a score of logits, times a statistic of the last feature map that pooling loses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector

CLIPS = {"max": 4.0, "std": 3.0, "mean": 1.0}
"""Statistic -> default of `clip`, in units of the statistic's mean over training images and channels."""
BASES = ("energy", "max_logit", "msp")


@detector(
    "catalyst",
    title="Catalyst (elastic scaling)",
    paper="Hassan, Ngo, Shafiq & Medvidovic, Catalyst: Out-of-Distribution Detection via Elastic Scaling, CVPR "
    "Findings 2026",
    display_name="Catalyst",
    cite="hassan2026catalyst",
)
class Catalyst(Detector):
    """-E(x) gamma(x): E = logsumexp of the logits, gamma = mean over channels of min(max(t_c, 0), clip).

    t_c is a `statistic` of channel c of the last block's map over its H W positions: "max", "std" (with HW - 1) or
    "mean". `base="max_logit"` takes the largest logit for E, `"msp"` the largest softmax. Statistics are taken in the
    shared pass, one number per channel. A base that is not positive on average over ID validation images is refused,
    because the product would not rank, and so are the standard deviations of maps of one position.

    Default of `clip`: a multiple of the mean of t over training images and channels, 4 for "max", 3 for "std" and 1 for
    "mean". Authors: tuned for each network and statistic; with energy, by their scripts, 2.5 to 10, 0.6 to 10 and 0.05
    to 1, which are 1.2 to 14, 1.4 to 56 and 1.5 to 7.7 times their mean gamma. Default suite: 25 to 33.

    Differs: written from the paper's abstract and the authors' code (bingabid/Catalyst); the text was not available.
    Our clip follows a rule, theirs are chosen per network. "max" is the default because it has the lowest FPR95 in most
    of the results in their repository, which has no default. They also scale ReAct, DICE and ASH, and try medians and
    entropies. Their map is the one that is pooled; here the backbone names the blocks, and of DenseNet and Wide ResNet
    the last one is followed by batch norm and ReLU.
    """

    needs = frozenset({"logits", "maps"})
    map_settings = ("statistic",)
    grid = {"statistic": ("max", "std", "mean"), "clip": (None, 0.1, 0.3, 1.0, 3.0, 10.0)}
    statistic: str = "max"
    clip: float | None = None
    base: str = "energy"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.statistic not in CLIPS:
            raise ValueError(f"statistic must be 'max', 'std' or 'mean', got {self.statistic!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or none for the default's rule, got {self.clip}")
        if self.base not in BASES:
            raise ValueError(f"base must be 'energy', 'max_logit' or 'msp', got {self.base!r}")

    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add up the statistic, averaged over channels, image by image: the sum is the same for any pieces."""
        total = self.__dict__.get("total_", 0.0)
        for value in self.reduce(maps, features, logits).clamp_min(0).double().mean(dim=1).tolist():
            total += value
        self.total_, self.count_ = total, self.__dict__.get("count_", 0) + len(logits)

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        """The statistic of each channel of the last block's map, (N, C)."""
        last = maps[-1].flatten(2)
        if self.statistic == "max":
            return last.amax(dim=2)
        if self.statistic == "mean":
            return last.mean(dim=2)
        if last.shape[2] == 1:
            raise DataError(
                f"The maps of the last block are {tuple(maps[-1].shape[1:])}: one position has no standard deviation. "
                f"Choose {self.name}[statistic=max]."
            )
        return last.std(dim=2)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Choose the clip. Raises `DataError` if no product could rank images."""
        if not (data.validation.maps > 0).any():
            raise DataError(
                f"The {self.statistic} of the last block's maps is nowhere positive on ID validation images, so that "
                f"{self.name} would multiply every score by 0; look at the network and its training."
            )
        self.clip_ = self.clip
        if self.clip is None:
            self.clip_ = CLIPS[self.statistic] * self.total_ / self.count_
            self.chosen_ = {"clip": self.clip_}
        if (mean := float(self._base(data.validation.logits).mean())) <= 0:
            raise DataError(
                f"{self.name} multiplies {self.base} by a positive factor, and it is {mean:.3g} on average over the ID "
                f"validation images; it must be positive for the product to rank. {self.name}[base=msp] always is."
            )

    def score(self, batch: Batch) -> Tensor:
        """Negative product of the base score and gamma."""
        gamma = batch.maps.double().clamp(0, self.clip_).mean(dim=1)
        return -self._base(batch.logits) * gamma

    def _base(self, logits: Tensor) -> Tensor:
        """The confidence of logits (N, K) that is scaled, (N,)."""
        if self.base == "energy":
            return torch.logsumexp(logits, dim=1)
        return (logits if self.base == "max_logit" else logits.softmax(dim=1)).amax(dim=1)
