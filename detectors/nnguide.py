"""NNGuide: energy multiplied by similarity to the nearest training images."""

from __future__ import annotations

import torch
from torch import Tensor

from oodbench.benchmark import Batch, Classifier, DataError, FitData, detector
from oodbench.detectors._gaussian import SUMMED
from oodbench.detectors._rows import gathered
from oodbench.detectors._rules import neighbours_of
from oodbench.detectors._similarity import Banked, bank_of, require_k, require_neighbours


@detector(
    "nnguide",
    title="NNGuide",
    paper="Park, Jung & Teoh, Nearest Neighbor Guidance for Out-of-Distribution Detection, ICCV 2023",
    display_name="NNGuide",
    cite="park2023nnguide",
)
class NNGuide(Banked):
    """-E(x) G(x): E = logsumexp of the logits, G = mean of the k largest E(x_i) cos(f, f_i) over training images x_i.

    Cosines come from the shared product, in float32. The product of energy and guidance is meaningful only for positive
    E; a network whose training images do not have a positive E on average is refused.

    Default of `k`: 10, but at most the number of images that the bank has of a class (mean). Authors: 10 (their code),
    with a hundredth of ImageNet's 1,281 images a class. Default suite: 10 of 116 and of 130 images a class.

    Differs: the bank is the whole training set (`fraction=1`), where the paper samples 1% of ImageNet. OpenOOD takes
    the first 1% of a list sorted by class (on CIFAR-10, only cats) and k = 100; here a smaller bank has the same share
    of every class.
    """

    needs = frozenset({"logits", "similarities"})
    grid = {"k": (None, 1, 10, 100)}
    k: int | None = None

    def __post_init__(self) -> None:
        """Check k and `fraction`."""
        super().__post_init__()
        require_k(self.k)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the bank's energies. Raises `DataError` if they are not positive on average."""
        self.k_ = self.k or neighbours_of(data, 10)
        if self.k is None:
            self.chosen_ = {"k": self.k_}
        require_neighbours(data, self.k_, self.name)
        blocks = ((torch.logsumexp(part.logits, dim=1),) for part in data.train.batches(SUMMED))
        (energies,) = gathered(len(data.train), blocks)
        if energies.mean() <= 0:
            raise DataError(
                f"NNGuide multiplies by logsumexp of the logits, which is {float(energies.mean()):.3g} on average over "
                "the training images; it must be positive for the product to rank."
            )
        self.energies_ = energies[bank_of(data)].float()

    def score(self, batch: Batch) -> Tensor:
        """Negative product of energy and guidance."""
        guidance = batch.neighbours.largest(self.k_, self.energies_).double().mean(dim=1)
        return -torch.logsumexp(batch.logits, dim=1) * guidance
