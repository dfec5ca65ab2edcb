"""ReAct: energy of clipped activations."""

from __future__ import annotations

from torch import Tensor

from oodbench.benchmark import Classifier, DataError, FitData, detector
from oodbench.detectors._rectified import Rectified, pooled_percentile, require_percentile


@detector(
    "react",
    title="ReAct",
    paper="Sun, Guo & Li, ReAct: Out-of-distribution Detection With Rectified Activations, NeurIPS 2021",
)
class ReAct(Rectified):
    """Energy of the head on min(z, c): c the percentile of all training features, pooled over units.

    Clipping needs no sign. A percentile at which features are not above 0, as where most ReLU units are silent, would
    clip every image to nothing and is refused.

    Differs: c comes from training images, where the paper says ID data; OpenOOD takes validation images from the test
    set. The percentile is exact over all of them.
    """

    grid = {"percentile": (85.0, 90.0, 95.0, 99.0)}
    percentile: float = 90.0

    def __post_init__(self) -> None:
        """Refuse what is no percentile."""
        require_percentile(self.percentile)

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """The head, and where to clip."""
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
