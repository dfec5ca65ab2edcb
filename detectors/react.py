"""ReAct: energy of clipped activations."""

from __future__ import annotations

from torch import Tensor

from oodbench.benchmark import Classifier, DataError, FitData, detector
from oodbench.detectors._rectified import Rectified, pooled_percentile, require_percentile


@detector(
    "react",
    title="ReAct",
    paper="Sun, Guo & Li, ReAct: Out-of-distribution Detection With Rectified Activations, NeurIPS 2021",
    display_name="ReAct",
    cite="sun2021react",
)
class ReAct(Rectified):
    """Energy of the head on min(z, c), where c is the percentile of all training features, pooled over units.

    Features may have either sign. A percentile at which features are not above 0, because most ReLU units are inactive,
    would clip everything away and is refused.

    Differs: c comes from the training images; the paper says ID data, and OpenOOD takes validation images from the test
    set. The percentile over all of them is exact.
    """

    grid = {"percentile": (85.0, 90.0, 95.0, 99.0)}
    percentile: float = 90.0

    def __post_init__(self) -> None:
        """Check the percentile."""
        require_percentile(self.percentile)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Store the head and compute c. Raises `DataError` if c is not positive."""
        super().fit(classifier, data)
        self.clip_ = pooled_percentile(data.train, self.percentile)
        if self.clip_ <= 0:
            raise DataError(
                f"The {self.percentile:g}th percentile of the training features is {self.clip_:.3g}: clipping there "
                "leaves nothing of any image. Choose a higher percentile."
            )

    def shaped(self, features: Tensor) -> Tensor:
        """min(z, c)."""
        return features.clamp_max(self.clip_)
