"""Why a row of the table cannot be computed on an ID set: its backbone, weights or outliers do not fit."""

from __future__ import annotations

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.plan.job_builder import JobBuilder
from oodbench.benchmark.plan.plan import Row
from oodbench.benchmark.plan.resolve import shape_mismatch
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.weights.file import Imported, Weights
from oodbench.benchmark.plan.weights.match import match_weights
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.plugins.specs import SetSpec


class Obstacles:
    """Looks for obstacles in one plan; each method returns a reason as a phrase, empty if there is none."""

    def __init__(self, library: Library, builder: JobBuilder, backbone: Backbone, weights: Weights | None) -> None:
        self.library, self.builder, self.backbone, self.weights = library, builder, backbone, weights
        self._misfits: dict[SetSpec, str] = {}
        """Why the user's file of weights does not fit the network for an ID set; empty if it does."""

    def of_backbone(self, entry: IDEntry, row: Row) -> str:
        """Why a detector cannot score with the run's backbone; empty if it can."""
        if asked(self.backbone, "refuses", self.builder.network_shape(entry)):
            return ""
        if "maps" in row.detector.needs and not self.builder.blocks(entry):
            return f"it looks at the maps of blocks, and backbone '{self.backbone.name}' names none"
        if type(row.detector).refuses is Detector.refuses:
            return ""
        reason = asked(row.detector, "refuses", self.builder.untrained_network(entry))
        return f"it cannot score with backbone '{self.backbone.name}': {reason}" if reason else ""

    def of_row(self, entry: IDEntry, row: Row) -> str:
        """Why a detector cannot run on an ID set: backbone, weights or outliers do not fit; empty if it can."""
        shape = self.builder.network_shape(entry)
        if reason := asked(self.backbone, "refuses", shape):
            return f"'{entry.set}' does not fit: {reason}"
        if reason := self.builder.refused_channels(entry):
            return f"'{entry.set}' does not fit: {reason}"
        if reason := self._of_weights(entry, row):
            return reason
        for what, plugin in (("recipe", row.recipe), ("detector", row.detector)):
            if "outliers" in plugin.needs and (reason := self._of_outliers(entry)):
                return f"{what} '{plugin.name}' needs {reason}"
        return ""

    def _of_weights(self, entry: IDEntry, row: Row) -> str:
        """Why the user's file of weights cannot serve a detector on an ID set; empty if it can or there is none."""
        if self.weights is None:
            return ""
        if not isinstance(row.recipe, Imported):
            return f"its classifier is to be trained by recipe '{row.recipe.name}', and --checkpoint trains none"
        if entry.set not in self._misfits:
            try:
                match = match_weights(self.weights, self.backbone, self.builder.untrained_network(entry))
            except UserError as error:
                self._misfits[entry.set] = f"with '{entry.set}': {error}"
            else:
                self._misfits[entry.set] = ""
                self.library.notes += [match.note] if match.note and match.note not in self.library.notes else []
        return self._misfits[entry.set]

    def _of_outliers(self, entry: IDEntry) -> str:
        """Which outliers of an ID set are missing, and why; empty if they can be used."""
        if entry.outliers is None:
            return f"outliers, and the suite names none for '{entry.set}'"
        try:
            shape = self.library.part(entry.outliers, "outliers").image_shape
        except OodbenchError as error:
            return f"the outliers '{entry.outliers}': {error}"
        id_shape = self.library.part(entry.set, "train").image_shape
        reason = shape_mismatch(entry.set, id_shape, entry.outliers, shape)
        return f"outliers: {reason}" if reason else ""
