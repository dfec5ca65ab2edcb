"""Brings arrays and scores of the same images together, by the names of images where both have them, else by order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.given import GivenArrays, GivenOutputs
from oodbench.benchmark.errors import UserError, counted, did_you_mean


def joined(outputs: GivenOutputs, scores: GivenOutputs) -> GivenOutputs:
    """The outputs with further scores, which may lack OOD sets but have no others.

    Images are matched by name if both sides have names, else by order, which needs equal numbers. A group that only the
    scores state is kept. Raises `UserError` for unknown sets and images, and for a method that both have.
    """
    for name in scores.ood:
        if name not in outputs.ood:
            hint = did_you_mean(name, outputs.ood, f"Known: {', '.join(outputs.ood)}.")
            raise UserError(f"'{scores.source}' has scores of '{name}', which '{outputs.source}' does not have. {hint}")
    for split in scores.id:
        if split not in outputs.id:
            raise UserError(f"'{scores.source}' has scores of id_{split}, which '{outputs.source}' does not have.")
    for name, group in scores.groups.items():
        if outputs.groups.get(name, group) != group:
            raise UserError(
                f"'{outputs.source}' puts '{name}' in the group {outputs.groups[name]}, '{scores.source}' in {group}. "
                "Correct one of them."
            )
    return replace(
        outputs,
        id={split: _set(outputs, scores, f"id_{split}", s, scores.id.get(split)) for split, s in outputs.id.items()},
        ood={name: _set(outputs, scores, name, s, scores.ood.get(name)) for name, s in outputs.ood.items()},
        groups={**scores.groups, **outputs.groups},
        notes=tuple(dict.fromkeys([*outputs.notes, *scores.notes, *_by_order(outputs, scores)])),
    )


def _by_order(outputs: GivenOutputs, scores: GivenOutputs) -> Iterator[str]:
    """A note if only one side names its images: rows in another order would not be noticed."""
    pairs = [(outputs.id[split], scored) for split, scored in scores.id.items()]
    pairs += [(outputs.ood[name], scored) for name, scored in scores.ood.items()]
    for one, other, named in ((outputs, scores, 0), (scores, outputs, 1)):
        if any(pair[named].names is not None and pair[1 - named].names is None for pair in pairs):
            yield (
                f"'{one.source}' names its images and '{other.source}' does not: the scores were matched to the arrays "
                "by their order."
            )


def _set(
    outputs: GivenOutputs, scores: GivenOutputs, name: str, arrays: GivenArrays, scored: GivenArrays | None
) -> GivenArrays:
    if scored is None:
        return arrays
    for method in scored.scores:
        if method in arrays.scores:
            raise UserError(
                f"Both '{outputs.source}' and '{scores.source}' have scores of '{method}'. Rename one of them."
            )
    both = f"'{scores.source}' has scores of {counted(scored.count, 'image')} of '{name}', and '{outputs.source}' "
    if arrays.names is None or scored.names is None:
        if arrays.count != scored.count:
            raise UserError(f"{both}{counted(arrays.count, 'image')}; expected the same ones, in the same order.")
        added = dict(scored.scores)
    else:
        order = _order(arrays.names, scored.names, both)
        added = {m: {seed: s[order] for seed, s in by_seed.items()} for m, by_seed in scored.scores.items()}
    return replace(arrays, names=arrays.names or scored.names, scores={**arrays.scores, **added})


def _order(names: tuple[str, ...], scored: tuple[str, ...], both: str) -> NDArray[np.intp]:
    """Which row of the scores belongs to each of the images."""
    if names == scored:
        return np.arange(len(names))
    place = {name: row for row, name in enumerate(scored)}
    for name in names:
        if name not in place:
            raise UserError(f"{both}{len(names):,} images, of which '{name}' has no score.")
    if len(scored) > len(names):
        extra = next(iter(place.keys() - set(names)))
        raise UserError(f"{both}{len(names):,} images, which do not include '{extra}'.")
    return np.array([place[name] for name in names], dtype=np.intp)
