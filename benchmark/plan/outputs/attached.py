"""Rows for scores that the user gives of the images of a suite: `bench run --suite NAME --scores FILE`.

A set of scores belongs to the set of the suite of the same name. Images are matched by their names, where both sides
have names, and otherwise by their order, which takes equal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs.data_sets import GivenSets
from oodbench.benchmark.data.outputs.given import TEST, GivenArrays
from oodbench.benchmark.data.outputs.methods import methods_of
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plan.outputs.arrays import ArraysOfParts, order_in
from oodbench.benchmark.plan.outputs.digests import array_sha256
from oodbench.benchmark.plan.outputs.jobs import ImportScoresJob
from oodbench.benchmark.plan.outputs.method_cells import method_cell, method_row, scores_key
from oodbench.benchmark.plan.plan import Absence, Cell, ExtendedInputs, Pair, Plan, Request
from oodbench.benchmark.plan.planner import Planner
from oodbench.benchmark.plan.weights.file import SCORES
from oodbench.benchmark.plugins.specs import parse_set

ANY_ID = "ID"
"""The name of an ID set in scores that give it none."""


class AttachedPlanner(Planner):
    """Fills the plan of a suite, and adds the cells of the user's methods."""

    def __init__(self, request: Request, library: Library, plan: Plan, sets: GivenSets) -> None:
        super().__init__(request, library, plan)
        self.sets = sets
        self.arrays = ArraysOfParts(sets, (0,), library)

    def fill(self) -> None:
        """Add all pairs, cells and jobs to the plan. Raises `UserError` if the scores are of none of its pairs."""
        self.library.notes += self.arrays.notes()
        super().fill()
        reasons: list[str] = []
        added = [cell for pair in self.plan.pairs for cell in self._cells(pair, reasons)]
        if not added:
            why = "; ".join(dict.fromkeys(reasons)) or "they are of no set of the suite"
            raise UserError(f"The scores in '{self.sets.first.source}' have no place in this run: {why}.")
        self.plan.cells += added
        self.plan.skipped += [Absence("given scores", reason) for reason in dict.fromkeys(reasons)]
        self.plan.arrays_of_seeds[SCORES] = self.arrays.of_methods()

    def _cells(self, pair: Pair, reasons: list[str]) -> Iterator[Cell]:
        """The cells of all methods on a pair; why there are none is added to `reasons`."""
        given, id_sets = self.sets.first, {other.id.set for other in self.plan.pairs}
        if pair.id.set != given.id_set and not (given.id_set == ANY_ID and len(id_sets) == 1):
            reasons.append(f"their ID set is called '{given.id_set}', not '{pair.id.set}'")
            return
        if pair.ood.set not in given.ood:
            reasons.append(f"they have none of '{pair.ood.set}', only of {', '.join(given.ood)}")
            return
        for data, arrays in ((pair.id, given.id[TEST]), (pair.ood, given.ood[pair.ood.set])):
            images = self.library.part(parse_set(data.set), data.part, data.limit)
            if isinstance(found := order_in(images, arrays), str):
                reasons.append(f"those of '{data.set}' are not of the images that are scored: {found}")
                return
        for method, seeds in methods_of([given.id[TEST]]).items():
            for seed in seeds:
                if seed in given.ood[pair.ood.set].scores.get(method, {}):
                    yield self._cell(pair, method, seed)

    def _cell(self, pair: Pair, method: str, seed: int) -> Cell:
        entry = self.plan.suite.entry(parse_set(pair.id.set))
        cell = self.cell(entry, pair, method_row(method, self.sets, self.arrays, seed), seed)
        given = (str(self.sets.id_set), str(self.sets.ood_sets[pair.ood.set]))
        jobs = [self._job(data, own, method, seed) for data, own in zip((pair.id, pair.ood), given, strict=True)]
        scores = (jobs[0].makes[0], jobs[1].makes[0])
        return method_cell(cell, scores, ExtendedInputs(None) if self.is_extended else None)

    def _job(self, data: SetRef, given_set: str, method: str, seed: int) -> ImportScoresJob:
        arrays = self._arrays(data)
        images = self.library.part(parse_set(data.set), data.part, data.limit)
        order = order_in(images, arrays)
        assert not isinstance(order, str)
        rows = {} if order is None else {"rows": array_sha256(order.astype("<i8"))}
        content = {"array": self.arrays.sha256(arrays.scores[method][seed]), **rows, "data": data.checksum}
        return self.plan.add(
            ImportScoresJob(
                title=f"import the scores of {data} by {method}",
                makes=(scores_key(content, method, data.set),),
                data=data,
                given_set=given_set,
                method=method,
                place=0,
                seed=seed,
            )
        )

    def _arrays(self, data: SetRef) -> GivenArrays:
        given = self.sets.first
        return given.ood[data.set] if data.set in given.ood else given.id[TEST]
