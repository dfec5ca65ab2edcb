"""Why a row of the table cannot be computed on an ID set: its backbone, weights or outliers do not fit."""

from __future__ import annotations

from contextlib import suppress

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.plan.job_builder import JobBuilder
from oodbench.benchmark.plan.plan import Row
from oodbench.benchmark.plan.recipes.declared import declared_outputs, untrained_classifier
from oodbench.benchmark.plan.resolve import shape_mismatch
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.weights.class_names import note_on
from oodbench.benchmark.plan.weights.file import Imported, Weights
from oodbench.benchmark.plan.weights.given import Given
from oodbench.benchmark.plan.weights.match import OtherClassesError, match_weights
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.detector import Detector, learns
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.plugins.recipe import Recipe, fits_head, needs_start
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec
from oodbench.benchmark.records.record import NO_CLASSIFIER


class Obstacles:
    """Looks for obstacles in one plan; each method returns a reason as a phrase, empty if there is none."""

    def __init__(self, library: Library, builder: JobBuilder, backbone: Backbone, given: Given | None) -> None:
        self.library, self.builder, self.backbone, self.given = library, builder, backbone, given
        self.parts = builder.resolver.parts
        self._misfits: dict[tuple[SetSpec, bool], str] = {}
        """Why the user's files of weights do not fit the network for an ID set, by whether a training starts from them;
        empty if they do."""

    def of_backbone(self, entry: IDEntry, row: Row) -> str:
        """Why a detector cannot score with the run's backbone; empty if it can."""
        if asked(self.backbone, "refuses", self.builder.network_shape(entry)):
            return ""
        if self.given is None and self.builder.names_head:
            name = self.backbone.name
            return f"backbone '{name}' is not trained, and has no weights: {name}[pretrained=TAG], or --checkpoint FILE"
        if reason := self._of_logits(entry, row) or self._of_outputs(entry, row):
            return reason
        if "maps" in row.detector.needs:
            if not self.builder.blocks(entry):
                return f"it looks at the maps of blocks, and backbone '{self.backbone.name}' names none"
            if row.detector.map_kind != self.backbone.map_kind:
                own = self.backbone.map_kind
                return (
                    f"it reads {row.detector.map_kind}, and the blocks of backbone '{self.backbone.name}' return {own}"
                )
            if not row.recipe.keeps_blocks:
                return f"it looks at the maps of blocks, and recipe '{row.recipe.name}' trains a network without them"
        if type(row.detector).refuses is Detector.refuses:
            return ""
        network = untrained_classifier(row.recipe, self.builder.task(entry)) or self.builder.untrained_network(entry)
        reason = asked(row.detector, "refuses", network)
        return f"it cannot score with backbone '{self.backbone.name}': {reason}" if reason else ""

    def _of_logits(self, entry: IDEntry, row: Row) -> str:
        """Why there is no classifier, or none for a detector that needs one; empty if there is, or need not be."""
        name = row.recipe.name
        if not asked(row.recipe, "gives_logits"):
            need = next((what for what in ("logits", "head") if what in row.detector.needs), "")
            return f"it needs {'the ' * (need == 'head')}{need}, and recipe '{name}' {NO_CLASSIFIER}" if need else ""
        if self.library.num_classes(entry.set) > 1:
            return ""
        which = "" if isinstance(row.recipe, Imported) else f"; recipe '{name}' trains one"
        return f"'{entry.set}' has one class, and a classifier needs two or more{which}"

    def _of_outputs(self, entry: IDEntry, row: Row) -> str:
        """Which named output of the classifier a detector reads that there is not; empty if there is none."""
        named = declared_outputs(row.recipe, self.builder.task(entry))
        missing = sorted(row.detector.reads - named.keys())
        outputs = " and ".join(f"'{name}'" for name in missing)
        which = "given weights do" if isinstance(row.recipe, Imported) else f"recipe '{row.recipe.name}' does"
        return f"it reads output{'s' * (len(missing) > 1)} {outputs}, which {which} not give" if missing else ""

    def of_row(self, entry: IDEntry, row: Row) -> str:
        """Why a detector cannot run on an ID set: backbone, weights or outliers do not fit; empty if it can."""
        shape = self.builder.network_shape(entry)
        if reason := asked(self.backbone, "refuses", shape):
            return f"'{entry.set}' does not fit: {reason}"
        if reason := self.builder.refused_channels(entry):
            return f"'{entry.set}' does not fit: {reason}"
        if self.given is None and (
            reason := asked(self.backbone, "refuses_classes", self.library.num_classes(entry.set), shape)
        ):
            return f"'{entry.set}' does not fit: {reason}"
        if reason := self._of_weights(entry, row):
            return reason
        parts = self.parts(entry.set)
        if fits_head(row.recipe):
            if not parts.can_fit:
                return f"recipe '{row.recipe.name}' learns from training images, and there are none: {parts.hint}"
        elif not isinstance(row.recipe, Imported) and (reason := parts.cannot_train(row.recipe.name)):
            return reason
        if learns(row.detector) and (reason := parts.cannot_learn()):
            return reason
        for what, plugin in (("recipe", row.recipe), ("detector", row.detector)):
            if "outliers" in plugin.needs and (reason := self._of_outliers(entry)):
                return f"{what} '{plugin.name}' needs {reason}"
        return ""

    def _of_weights(self, entry: IDEntry, row: Row) -> str:
        """Why the user's files of weights, or their absence, do not suit a detector's recipe; empty if they do."""
        starts = needs_start(row.recipe)
        if self.given is None:
            none = "given weights, and there are none: give a file with --checkpoint, or choose a pretrained --backbone"
            return f"recipe '{row.recipe.name}' starts from {none}" if starts else ""
        if not starts and not isinstance(row.recipe, Imported):
            no_start = ", which does not start from given weights"
            source = "pretrained weights train" if self.given.pretrained else "--checkpoint trains"
            why = no_start if self.builder.request.recipe else f", and {source} none"
            return f"its classifier is to be trained by recipe '{row.recipe.name}'{why}"
        if (entry.set, starts) not in self._misfits:
            self._misfits[entry.set, starts] = self._misfit(entry, row.recipe, starts)
        return self._misfits[entry.set, starts]

    def _misfit(self, entry: IDEntry, recipe: Recipe, starts: bool) -> str:
        """Why one of the user's files does not fit an ID set; empty, with notes, if all do."""
        for weights in self.given.files if self.given else ():
            try:
                note = self._start_note(entry, weights, recipe) if starts else self._match_note(entry, weights)
            except OtherClassesError as error:
                return f"with '{entry.set}': {error}{_new_head()}"
            except UserError as error:
                return f"with '{entry.set}': {error}"
            self.library.notes += [note] if note and note not in self.library.notes else []
        return ""

    def _match_note(self, entry: IDEntry, weights: Weights) -> str:
        head = self.builder.head(entry, weights)
        network = self.builder.untrained_network(entry, head.outputs if head else 0)
        names = self.builder.head_names(entry)
        note = match_weights(weights, self.backbone, network, without_head=bool(names)).note
        if names:
            return " ".join(filter(None, (note_on(entry, names, self.backbone), note)))
        return " ".join(filter(None, (head.note if head else "", note)))

    def _start_note(self, entry: IDEntry, weights: Weights, recipe: Recipe) -> str:
        match = self.builder.start_match(entry, weights)
        if match.keeps_head:
            return match.note
        classes = self.library.num_classes(entry.set)
        return (
            f"'{weights.path.name}' has no head for the {classes} classes of '{entry.set}': recipe '{recipe.name}' "
            f"trains a new one. {match.note}".strip()
        )

    def _of_outliers(self, entry: IDEntry) -> str:
        """Which outliers of an ID set are missing, and why; empty if they can be used."""
        if entry.outliers is None:
            return f"outliers, and the suite names none for '{entry.set}'"
        try:
            shape = self.library.part(entry.outliers, "outliers").image_shape
        except OodbenchError as error:
            return f"the outliers '{entry.outliers}': {error}"
        id_shape = self.library.part(entry.set, self.parts(entry.set).shown).image_shape
        reason = shape_mismatch(entry.set, id_shape, entry.outliers, shape)
        return f"outliers: {reason}" if reason else ""


def _new_head() -> str:
    """Which recipe would fit a new head, as the end of a sentence; empty if none is registered."""
    for name, plugin in registry.entries("recipe").items():
        with suppress(OodbenchError):  # one that cannot be imported is reported when it is requested
            recipe = plugin.load()()
            if fits_head(recipe) and not recipe.needs:
                return f". To fit a new head to its features, add --recipe {name}"
    return ""
