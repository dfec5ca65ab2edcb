"""What cells of a user's methods have in common, on given outputs and on the sets of a suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from oodbench.benchmark.data.outputs.data_sets import GivenSets
from oodbench.benchmark.plan.outputs.arrays import ArraysOfParts
from oodbench.benchmark.plan.outputs.digests import combined_sha256
from oodbench.benchmark.plan.outputs.network import GivenScoresRecipe, given_method
from oodbench.benchmark.plan.plan import Cell, ExtendedInputs, Row
from oodbench.benchmark.plan.stage_versions import OUTPUTS_VERSION
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.store.store import Key


def method_row(method: str, sets: GivenSets, arrays: ArraysOfParts, seed: int, place: int = 0) -> Row:
    """The row of a method; `seed` as in its file, `place`: the folder of outputs that it is beside."""
    source = sets.source
    recipe = GivenScoresRecipe(
        source=Path(source.scores or source.outputs[place]).name,
        sha256=combined_sha256(*arrays.of_method(method, seed, place)),
        higher=source.higher,
    )
    return Row(method, given_method(method), recipe)


def scores_key(content: Mapping[str, Any], method: str, data: str) -> Key:
    """The key of a method's scores; `content`: what identifies their rows, `data`: the name of the set."""
    more = {"method": method, "source": "given scores", "outputs_import": OUTPUTS_VERSION}
    return Key("scores", ".npy", f"{method}--given--{plain_name(data)}", {**content, **more})


def method_cell(cell: Cell, scores: tuple[Key, Key], extended: ExtendedInputs | None) -> Cell:
    """A cell with the ID and OOD scores of a method, of which no network, training or conversion of images is known."""
    id_scores, ood_scores = scores
    unknown: dict[str, Any] = {"fitted_on": {}, "converted": {}}
    record = replace(cell.record, backbone="", channels=None, preprocessing="", **unknown)
    return replace(cell, record=record, id_scores=id_scores, ood_scores=ood_scores, rules=(), extended_inputs=extended)
