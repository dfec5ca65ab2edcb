"""Why a detector cannot run on given outputs: it needs what is not among them."""

from __future__ import annotations

from collections.abc import Iterator

from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plan.obstacles import Obstacles
from oodbench.benchmark.plan.outputs.arrays import FEATURES, LOGITS
from oodbench.benchmark.plan.outputs.builder import OutputsBuilder
from oodbench.benchmark.plan.plan import Row
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.detector import Detector, learns
from oodbench.benchmark.records.given_sets import with_plain_names

ONLY_ARRAYS = {
    "images": "images",
    "network": "the network",
    "maps": "the feature maps of the network's blocks",
    "outliers": "outliers",
}
"""Inputs that no given arrays are -> what a detector needs, in words."""

NEEDS_ARRAY = {"logits": LOGITS, "features": FEATURES, "similarities": FEATURES}
"""Inputs -> the arrays that they come from."""


class OutputsObstacles(Obstacles):
    """Looks for obstacles in one plan on given outputs; each method returns a reason as a phrase, or ""."""

    def __init__(self, builder: OutputsBuilder) -> None:
        super().__init__(builder.library, builder, Backbone(), None)
        self.given = None
        self.arrays, self.sets = builder.arrays, builder.sets

    def of_backbone(self, entry: IDEntry, row: Row) -> str:
        """Why a detector cannot score, whatever the OOD set."""
        detector = row.detector
        if not self.sets.source.outputs:
            return "it needs a network's outputs, and only scores are given: add them with --outputs"
        if detector.recipe is not None:
            return f"its classifier is to be trained by recipe '{detector.recipe}', and --outputs trains none"
        for need, what in ONLY_ARRAYS.items():
            if need in detector.needs:
                return f"it needs {what}, and --outputs has arrays only"
        if detector.reads:
            outputs = " and ".join(f"'{name}'" for name in sorted(detector.reads))
            return f"it reads output {outputs} of its recipe, and --outputs has logits and features only"
        if "head" in detector.needs and not self.arrays.has_head():
            return "it needs the head, and --outputs has none: add head.npz with weight (K, D) and bias (K,)"
        parts = self.parts(entry.set)
        if learns(detector) and (reason := parts.cannot_learn()):
            return with_plain_names(reason)
        named = [("id_test", self.builder.ref(entry.set, parts.scored))]
        if learns(detector):
            fitted = (("what detectors learn from", parts.train), ("ID validation", parts.validation))
            named += [(what, self.builder.ref(entry.set, part)) for what, part in fitted if part]
        return next((reason for what, data in named if (reason := self.lacks(detector, data, what))), "")

    def of_row(self, entry: IDEntry, row: Row) -> str:
        """Nothing beyond `of_backbone`."""
        return ""

    def lacks(self, detector: Detector, data: SetRef, what: str) -> str:
        """Which of its inputs a set lacks."""
        missing = dict.fromkeys(self._missing(detector, data))
        return f"it needs {' and '.join(missing)}, and --outputs has none of {what}" if missing else ""

    def _missing(self, detector: Detector, data: SetRef) -> Iterator[str]:
        arrays = self.arrays.of(data)
        for need, kind in NEEDS_ARRAY.items():
            if need in detector.needs and getattr(arrays, kind) is None:
                yield kind
