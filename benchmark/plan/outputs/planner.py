"""Plans runs on given outputs and scores: imports in place of networks, and rows of the user's own methods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs.data_sets import GivenSets
from oodbench.benchmark.data.outputs.given import TEST
from oodbench.benchmark.data.outputs.methods import methods_of
from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plan.outputs.arrays import ArraysOfParts
from oodbench.benchmark.plan.outputs.builder import OutputsBuilder
from oodbench.benchmark.plan.outputs.method_cells import method_cell, method_row
from oodbench.benchmark.plan.outputs.network import GivenOutputsRecipe
from oodbench.benchmark.plan.outputs.obstacles import OutputsObstacles
from oodbench.benchmark.plan.outputs.resolve import OutputsResolver
from oodbench.benchmark.plan.plan import Cell, ExtendedInputs, Pair, Plan, Request, Row
from oodbench.benchmark.plan.planner import Planner
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.weights.file import OUTPUTS, SCORES
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.given_sets import plain_name, with_plain_names

RECOVERED = "The head is not given; it was recovered from features and logits, between which it holds in float32."

NOT_COMPARED = "Only arrays are given, so images were not searched for copies between sets, or seen by baselines."


class OutputsPlanner(Planner):
    """Fills a plan with the cells of detectors on given outputs, and of the user's methods."""

    builder: OutputsBuilder
    obstacles: OutputsObstacles

    def __init__(self, request: Request, library: Library, plan: Plan, sets: GivenSets) -> None:
        self.sets = sets
        super().__init__(request, library, plan)

    def set_up(self) -> None:
        """Prepare to plan without networks and images."""
        self.arrays = ArraysOfParts(self.sets, self.request.seeds, self.library)
        resolver = OutputsResolver(self.request, self.library, self.plan, self.sets)
        self.resolver = resolver
        self.builder = OutputsBuilder(self.request, self.library, self.plan, resolver, self.arrays)
        self.obstacles = OutputsObstacles(self.builder)
        self.network = self.sets.first.network or self.sets.first.title
        self.given = None

    def fill(self) -> None:
        """Add all pairs, cells and jobs to the plan."""
        self.library.notes += self.arrays.notes()
        super().fill()
        for pair in self.plan.pairs:
            self.plan.cells += self.method_cells(pair)
        self.plan.arrays_of_seeds = {OUTPUTS: self.arrays.of_networks(), SCORES: self.arrays.of_methods()}
        notes = [NOT_COMPARED, *map(with_plain_names, self.library.notes)]
        self.library.notes[:] = list(dict.fromkeys(notes))

    def notes_on(self, entry: IDEntry) -> list[str]:
        """Notes under the tables on what detectors learn from, and on a head that is not given."""
        if not self.sets.source.outputs:
            return []
        recovered = self.sets.first.head is None and self.arrays.has_head()
        return [*super().notes_on(entry), *([RECOVERED] if recovered else [])]

    def of_seed(self, row: Row, seed: int) -> Row:
        """A row with the folder of outputs of a seed."""
        place = self.arrays.place(seed)
        folder = Path(self.sets.of_seeds[place].source).name
        return row._replace(recipe=GivenOutputsRecipe(folder=folder, sha256=self.arrays.folder_sha256(place)))

    def untunable(self, row: Row, pair: Pair, sources: list[SetRef]) -> str:
        """Why there can be no cell of a row and a pair; empty if there can."""
        refs = [(pair.ood, plain_name(pair.ood.set)), *((source, plain_name(source.set)) for source in sources)]
        lacks = (self.obstacles.lacks(row.detector, data, f"'{name}'") for data, name in refs)
        return next(filter(None, lacks), "") or with_plain_names(super().untunable(row, pair, sources))

    def cell(self, entry: IDEntry, pair: Pair, row: Row, seed: int, **facts: Any) -> Cell:
        """A cell without artifacts; its images have no channels."""
        cell = super().cell(entry, pair, row, seed, **facts)
        return replace(cell, record=replace(cell.record, channels=None))

    # Rows of the user's methods

    def method_cells(self, pair: Pair) -> Iterator[Cell]:
        """The cells of all methods that have scores of both sets of a pair."""
        for method in methods_of(given.id[TEST] for given in self.sets.of_seeds):
            for seed, place, of_file in self.seeds_of(method):
                has = [of_file in self.arrays.of(data, place).scores.get(method, {}) for data in (pair.id, pair.ood)]
                if all(has):
                    yield self.method_cell(pair, method, seed, place, of_file)

    def seeds_of(self, method: str) -> Iterator[tuple[int, int, int]]:
        """The seeds of a method: that of the run, the folder of outputs, and the seed in its file.

        Of several folders, scores without a seed are those of the folder's seed. Of one, all seeds in the file are
        taken, unless the user names some.
        """
        several = len(self.sets.of_seeds) > 1
        known = [given.id[TEST].scores.get(method, {}) for given in self.sets.of_seeds]
        if not several:
            wanted = self.request.seeds if self.request.seeds != (0,) else tuple(known[0])
            yield from ((seed, 0, seed) for seed in wanted if seed in known[0])
            return
        for place, seed in enumerate(self.request.seeds):
            of_file = seed if seed in known[place] else next(iter(known[place]), None)
            if of_file is not None and (of_file == seed or len(known[place]) == 1):
                yield seed, place, of_file

    def method_cell(self, pair: Pair, method: str, seed: int, place: int, of_file: int) -> Cell:
        """The cell of one method, whose scores need only be imported."""
        entry = self.plan.suite.entry(parse_set(pair.id.set))
        jobs = [self.builder.scores_job(data, method, of_file, place) for data in (pair.id, pair.ood)]
        extended = ExtendedInputs(self.validation_scores(entry, method, of_file, place)) if self.is_extended else None
        row = method_row(method, self.sets, self.arrays, of_file, place)
        return method_cell(self.cell(entry, pair, row, seed), (jobs[0].makes[0], jobs[1].makes[0]), extended)

    def validation_scores(self, entry: IDEntry, method: str, seed: int, place: int) -> Any:
        """The key of a method's scores of ID validation images; None if it has none."""
        part = self.parts(entry).validation
        if not part:
            return None
        data = self.builder.ref(entry.set, part)
        if seed not in self.arrays.of(data, place).scores.get(method, {}):
            return None
        return self.builder.scores_job(data, method, seed, place).makes[0]
