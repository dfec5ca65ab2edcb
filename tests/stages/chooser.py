"""A detector with settings to choose, and a small matrix to choose them on."""

from __future__ import annotations

from collections import Counter
from typing import Any

from oodbench.benchmark import Batch, Detector

MATRIX = """
[[id]]
set = "digits[0-3]"
tuning = "glyphs"
ood = [{ set = "greek" }, { set = "uniform" }, { set = "gaussian" }, { set = "digits[4-9]" }]
"""

fits: Counter[tuple[float, int]] = Counter()
"""How often the detector was fitted, by its settings."""


class Chooser(Detector):
    """A detector with a setting that inverts its score, and one that makes it fail."""

    version = "1"
    grid = {"sign": (-1.0, 1.0, 0.0), "power": (1, 2)}
    sign: float = 1.0
    power: int = 1

    def fit(self, classifier: Any, data: Any) -> None:
        """Record the setting it was fitted with."""
        fits[self.sign, self.power] += 1
        self.sign_ = self.sign

    def score(self, batch: Batch) -> Any:
        """Signed margin; not finite for sign 0."""
        assert self.sign_ == self.sign
        return -(self.sign / abs(self.sign) if self.sign else float("nan")) * batch.logits.amax(dim=1) ** self.power
