"""Maximum logit."""

from __future__ import annotations

from torch import Tensor

from oodbench.benchmark import Batch, Detector, detector


@detector(
    "max_logit",
    title="Maximum logit",
    paper="Hendrycks et al., Scaling Out-of-Distribution Detection for Real-World Settings, ICML 2022",
    display_name="MaxLogit",
    cite="hendrycks2022scaling",
)
class MaxLogit(Detector):
    """The negative largest logit: unlike a softmax probability, it depends on the logits' magnitude."""

    def score(self, batch: Batch) -> Tensor:
        """-max_k f_k."""
        return batch.logits.amax(dim=1).neg_()
