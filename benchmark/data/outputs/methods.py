"""Methods whose scores are given: on which sets, and whether a score grows towards OOD images, as it should."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.given import TEST, GivenArrays, GivenOutputs
from oodbench.benchmark.errors import MetricError, UserError
from oodbench.benchmark.metrics.exact import auroc


def methods_of(sets: Iterable[GivenArrays]) -> dict[str, tuple[int, ...]]:
    """Method -> its seeds, over all sets, in the order of first appearance."""
    found: dict[str, set[int]] = {}
    for arrays in sets:
        for method, by_seed in arrays.scores.items():
            found.setdefault(method, set()).update(by_seed)
    return {method: tuple(sorted(seeds)) for method, seeds in found.items()}


def check_methods(source: Path, id_test: GivenArrays, ood: Mapping[str, GivenArrays]) -> None:
    """Raise `UserError` for a method, or a seed of one, without scores of the ID test images or of any OOD set.

    A method may lack some of the OOD sets.
    """
    for name, arrays in ood.items():
        for method, by_seed in arrays.scores.items():
            if lacking := sorted(by_seed.keys() - id_test.scores.get(method, {}).keys()):
                seed = f" with seed {lacking[0]}" if method in id_test.scores else ""
                raise UserError(
                    f"'{source}' has scores of '{method}'{seed} on '{name}', but none on the ID test images; a "
                    "method needs both."
                )
    on_ood = methods_of(ood.values())
    for method, by_seed in id_test.scores.items():
        if lacking := sorted(by_seed.keys() - set(on_ood.get(method, ()))):
            seed = f" with seed {lacking[0]}" if method in on_ood else ""
            raise UserError(f"'{source}' has scores of '{method}'{seed} on the ID test images, but on no OOD set.")


def turned_methods(given: GivenOutputs) -> tuple[str, ...]:
    """Methods whose AUROC is under 0.5 on every OOD set and with every seed."""
    found = []
    for method, by_seed in given.id[TEST].scores.items():
        pairs = [
            (scores, arrays.scores[method][seed])
            for arrays in given.ood.values()
            for seed, scores in by_seed.items()
            if seed in arrays.scores.get(method, {})
        ]
        if pairs and all(under_half(*pair) for pair in pairs):
            found.append(method)
    return tuple(found)


def under_half(id_scores: NDArray[np.float64], ood_scores: NDArray[np.float64]) -> bool:
    """Whether the AUROC is under 0.5."""
    try:
        return auroc(id_scores, ood_scores) < 0.5
    except MetricError:  # such as numbers that cannot be compared exactly; the run reports it
        return False
