"""Energy fine-tuning: low energies of ID images and high ones of outliers, up to two margins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oodbench.benchmark import TrainBatch, Training, detector, recipe
from oodbench.detectors._confidence_loss import logits_of_both
from oodbench.detectors._fine_tuning import FineTuned
from oodbench.detectors._loss_recipe import Losses
from oodbench.detectors.energy import Energy

PAPER = "Liu, Wang, Owens & Li, Energy-based Out-of-distribution Detection, NeurIPS 2020, eqs. 7 to 9"

SEEN = 1024
"""ID images, and outliers, whose pretrained energies decide the margins."""


def energies(logits: Tensor) -> Tensor:
    """-log sum_k exp(f_k) of each row, (N, K) -> (N,)."""
    return -torch.logsumexp(logits, dim=1)


@recipe(
    "energy_finetune",
    title="Energy fine-tuning",
    paper=PAPER,
    display_name="Energy (fine-tuned)",
    cite="liu2020energy",
)
class EnergyFinetuneLoss(FineTuned):
    """CE + weight (mean max(0, E_in - m_in)^2 + mean max(0, m_out - E_out)^2), from a pretrained classifier.

    The margins depend on the number of classes and on the network. By default m_in is the share `quantile` of the
    pretrained energies of ID images, and m_out the share 1 - `quantile` of those of outliers, in the batches so far, up
    to the first 1,024 images of each.
    """

    needs = frozenset({"outliers"})
    weight: float = 0.1
    m_in: float | None = None
    m_out: float | None = None
    quantile: float = 0.1
    inside_: Tensor
    outside_: Tensor
    """Pretrained energies (N,) of the ID images and outliers so far."""

    def __post_init__(self) -> None:
        """Check the weight and the share."""
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be 0 or more, and finite, got {self.weight}")
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must be in [0, 1], got {self.quantile}")

    def margins(self, training: Training, images: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
        """m_in and m_out, as scalars; images of the batch count while there are fewer than `SEEN` of them."""
        state = self.__dict__
        if len(state.get("inside_", ())) < SEEN:
            pretrained = self.pretrained(training)
            with torch.no_grad():
                for name, batch in (("inside_", images), ("outside_", outliers)):
                    new = energies(pretrained(batch).to(batch.dtype))
                    # A training that was resumed has them in main memory.
                    setattr(self, name, torch.cat([state[name].to(new.device), new]) if name in state else new)
        inside, outside = self.inside_[:SEEN], self.outside_[:SEEN]
        m_in = inside.quantile(self.quantile) if self.m_in is None else inside.new_tensor(self.m_in)
        m_out = outside.quantile(1 - self.quantile) if self.m_out is None else outside.new_tensor(self.m_out)
        return m_in, m_out

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """Mean cross-entropy, and the mean squared distances of energies from their margins."""
        outliers = self.outliers(batch)
        m_in, m_out = self.margins(training, batch.images, outliers)
        logits, others = logits_of_both(training.networks["classifier"], batch.images, outliers)
        ce = F.cross_entropy(logits, batch.labels)
        inside = F.relu(energies(logits) - m_in).square().mean()
        outside = F.relu(m_out - energies(others)).square().mean()
        parts = {"cross_entropy": ce, "energy_inside": inside, "energy_outside": outside, "m_in": m_in, "m_out": m_out}
        return Losses(ce + self.weight * (inside + outside), parts, logits)


@detector(
    "energy_finetune",
    title="Energy fine-tuning, energy",
    paper=PAPER,
    display_name="Energy (fine-tuned)",
    cite="liu2020energy",
)
class EnergyFinetune(Energy):
    """The energy score on a classifier fine-tuned with

    CE + 0.1 (mean max(0, E_in - m_in)^2 + mean max(0, m_out - E_out)^2), E = -log sum_k exp(f_k).

    Differs: the authors' margins were chosen for their network, for CIFAR-10 and CIFAR-100 (their code's defaults are
    -25 and -7); here m_in is the 10% quantile of the pretrained energies of ID images, and m_out the 90% quantile of
    those of outliers (settings `m_in` and `m_out` override them). One outlier for each ID image in place of two.
    Fine-tuning takes as many epochs as the suite's trainings, unless it says otherwise (10 of the authors'), at their
    learning rate of 0.001; optimizer and augmentation are those of `like`.
    """

    in_all = False
    recipe = "energy_finetune"
