"""Deep SAD: Deep SVDD with a few labelled anomalies, which are pushed away from the centre."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training, detector, recipe
from oodbench.detectors.deep_svdd import DeepSVDD, DeepSVDDLoss, Hypersphere

PAPER = "Ruff, Vandermeulen, Görnitz, Binder, Müller, Müller & Kloft, Deep Semi-Supervised Anomaly Detection, ICLR 2020"
NEAREST = 1e-6
"""Added to the squared distances of anomalies, which are divided by, as in the authors' code."""


@recipe("deep_sad", title="Deep SAD", paper=PAPER, display_name="Deep SAD", cite="ruff2020sad")
class DeepSADLoss(DeepSVDDLoss):
    """The loss of Deep SVDD, and eta / (|f(x) - c|^2 + 1e-6) for labelled anomalies, in one mean over all images.

    Of the suite's outliers, m are labelled: m / (n + m) is `label_share`, with n ID images. They are the first m of the
    random order in which outliers are drawn, the same in all epochs, and each is seen once an epoch: a batch has m / n
    as many of them as ID images. Everything else is as in `deep_svdd`, which is the same without labels. If the suite
    has fewer than m outliers, some are among the m more than once.
    """

    needs = frozenset({"outliers"})
    eta: float = 1.0
    label_share: float = 0.01
    labelled_: Tensor
    """The labelled anomalies that are known so far, uint8 (M, C, H, W)."""
    order_: Tensor
    """Those of them that are still to be seen before all are seen again, int64."""
    passed_: int
    """ID images that were trained on."""

    def __post_init__(self) -> None:
        """Check the weight and the share."""
        super().__post_init__()
        if not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be 0 or more, and finite, got {self.eta}")
        if not 0 < self.label_share <= 0.5:
            raise ValueError(
                f"label_share must lie above 0 and at most at 0.5, got {self.label_share}; deep_svdd has no labels"
            )

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of the losses in the log."""
        return ("loss", "distance")

    def wanted(self, training: Training, batch: TrainBatch) -> int:
        """Number of labelled anomalies, m, at least one."""
        images = training.epoch_images or len(batch.images)
        return max(1, round(self.label_share / (1 - self.label_share) * images))

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step; the first outliers that are drawn become the labelled anomalies."""
        if batch.outliers is None:
            raise ValueError(f"recipe '{self.name}' got a batch without outliers")
        known = self.__dict__.get("labelled_")
        if missing := self.wanted(training, batch) - (0 if known is None else len(known)):
            new = (batch.outliers[:missing] * 255).round().to(torch.uint8)
            self.labelled_ = new if known is None else torch.cat([known.to(new.device), new])
        return super().step(training, batch)

    def anomalies(self, training: Training, batch: TrainBatch) -> Tensor:
        """The labelled anomalies of this step, (M, C, H, W): in proportion to its ID images, so that M may be 0."""
        state, images = self.__dict__, batch.images
        passed = state.get("passed_", 0)
        self.passed_ = passed + len(images)
        all_images = training.epoch_images or len(images)
        before, after = (count * len(self.labelled_) // all_images for count in (passed, self.passed_))
        order = state.get("order_", torch.empty(0, dtype=torch.int64)).to(images.device)
        while len(order) < after - before:
            drawn = torch.randperm(len(self.labelled_), generator=training.generator, device=images.device)
            order = torch.cat([order, drawn])
        rows, self.order_ = order[: after - before], order[after - before :]
        return self.labelled_.to(images.device)[rows].to(images.dtype) / 255

    def losses(self, network: Hypersphere, training: Training, batch: TrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over ID images and anomalies, and the mean distance of ID images."""
        both = torch.cat([batch.images, self.anomalies(training, batch)])
        distances = network.distances(network(both.contiguous(memory_format=torch.channels_last)))
        inside, outside = distances[: len(batch.images)], distances[len(batch.images) :]
        total = (inside.sum() + self.eta * (outside + NEAREST).reciprocal().sum()) / len(both)
        return total, {"loss": total, "distance": inside.mean()}


@detector("deep_sad", title="Deep SAD", paper=PAPER, display_name="Deep SAD", cite="ruff2020sad")
class DeepSAD(DeepSVDD):
    """|f(x) - c|^2, of an encoder that was also trained to make 1 / |f(x) - c|^2 small on labelled anomalies; eta 1.

    The anomalies are images of the suite's outliers, which the one-class suites take from one other class, so that its
    images are among those that are scored (a seen cell, as for `confidence`). `deep_sad@deep_sad[label_share=0.1]` is
    trained with another share of them.

    Differs: as `deep_svdd`. The autoencoder and the centre are of ID images alone, so that they are the same for every
    share of labels; in the authors' code they see the labelled anomalies too. Every batch has its share of these, where
    the authors draw batches from both together.
    """

    in_all = False
    recipe = "deep_sad"
