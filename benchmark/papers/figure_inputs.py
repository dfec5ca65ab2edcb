"""The inputs of a paper's figures: data sets, a seed, and a run with its stored scores and networks."""

from __future__ import annotations

from dataclasses import dataclass

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import StoreError, UserError
from oodbench.benchmark.plan.jobs import Checkpoint
from oodbench.benchmark.plugins.dataset import GREY, ImageSet
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.specs import Spec, parse_set
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.views.plots.scores import ScoreReader
from oodbench.benchmark.views.summary import Summary, summary_of


@dataclass(frozen=True)
class RunFigureInputs:
    """The `FigureInputs` of a run. Networks run on one thread of the CPU, so that equal seeds give equal bytes."""

    context: JobContext
    seed: int
    run_read: StoredRun | None = None

    @property
    def library(self) -> Library:
        """The data sets."""
        return self.context.library

    @property
    def run(self) -> StoredRun:
        """The run to draw from. Raises `UserError` if there is none."""
        if self.run_read is None:
            raise UserError("There is no run to draw from. Name one with --from.")
        return self.run_read

    def summary(self) -> Summary:
        """The run's records arranged by ID set and row, with means and standard deviations over seeds."""
        return summary_of(self.run)

    def scores(self) -> ScoreReader:
        """A reader of the stored scores of the run's first seed."""
        first = min((record.seed for record in self.run.records), default=0)
        return ScoreReader.of(self.run, self.context.store.root, first)

    def images(self, name: str, part: str = "test") -> ImageSet:
        """The images of a data set, by a name such as 'digits[0-6]'."""
        return self.library.part(parse_set(name), part)

    def checkpoint(self, record: Record) -> Checkpoint | str:
        """What a cell's classifier is rebuilt from, or a string that says why it cannot be."""
        path = record.artifacts.get("checkpoint", "")
        key = self.context.store.key_of(path) if path else None
        if key is None or self.context.store.find(key) is None:
            return f"the checkpoint of {record.label} on {record.id_set} is not in the cache"
        spec = parse_set(own_name(record, "id_set"))
        recipe = str(Spec(record.recipe, tuple(sorted(record.recipe_settings.items()))))
        own, height, width = self.library.image_shape(spec)
        shape = (record.channels or own, height, width)
        classes, repeats_grey = self.library.num_classes(spec), own == GREY < shape[0]
        return Checkpoint(key, recipe, record.backbone, classes, shape, repeats_grey)

    def classifier(self, record: Record) -> Classifier:
        """The trained classifier behind a cell."""
        checkpoint = self.checkpoint(record)
        if isinstance(checkpoint, str):
            raise StoreError(f"{checkpoint[0].upper()}{checkpoint[1:]}. Repeat the command that made the run.")
        return self.context.classifier(checkpoint)
