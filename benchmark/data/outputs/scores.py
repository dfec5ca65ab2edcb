"""`read_scores`: scores of any method, from a folder of arrays or from a CSV file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from oodbench.benchmark.data.outputs.csv_scores import read_csv
from oodbench.benchmark.data.outputs.given import TEST, GivenArrays, GivenOutputs
from oodbench.benchmark.data.outputs.methods import check_methods
from oodbench.benchmark.data.outputs.reading import read_outputs
from oodbench.benchmark.data.outputs.settings import HIGHER
from oodbench.benchmark.errors import UserError


def read_scores(path: Path, higher: str | None = None) -> GivenOutputs:
    """Read the scores of one or more methods on an ID set and OOD sets.

    `path`: a CSV file (`csv_scores.py`), or a folder, in which `id_test.npy` and `ood/NAME.npy` are the scores of one
    method, and `.npz` files have `score` or `score_METHOD`. `higher`: 'ood' or 'id', what higher scores mean; by
    default what the CSV file or `outputs.toml` says, else 'ood'. Of other arrays in the folder, names are kept. Raises
    `UserError`.
    """
    if higher not in (None, *HIGHER):
        raise UserError(f"higher is '{higher}'; it must be {' or '.join(HIGHER)}.")
    if path.is_file():
        return read_csv(path, higher)
    if not path.is_dir():
        raise UserError(f"'{path}' does not exist; expected a CSV file, or a folder with id_test.npy and ood/NAME.npy.")
    given = read_outputs(path, higher)
    if not given.id[TEST].scores:
        raise UserError(
            f"'{path}' has no scores of id_test; expected a 1-D id_test.npy, or 'score' or 'score_METHOD' in "
            "id_test.npz."
        )
    check_methods(path, given.id[TEST], given.ood)
    return replace(
        given,
        id={split: _only_scores(arrays) for split, arrays in given.id.items() if arrays.scores},
        ood={name: _only_scores(arrays) for name, arrays in given.ood.items() if arrays.scores},
        classes=(),
        head=None,
    )


def _only_scores(arrays: GivenArrays) -> GivenArrays:
    return GivenArrays(arrays.count, names=arrays.names, scores=arrays.scores)
