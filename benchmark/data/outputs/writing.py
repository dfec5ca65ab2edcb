"""`write_outputs`: `GivenOutputs` as a folder that `read_outputs` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.data.outputs.files import BIAS, FEATURES, HEAD, LABELS, LOGITS, NAMES, OOD, SCORE, WEIGHT
from oodbench.benchmark.data.outputs.given import GivenArrays, GivenOutputs
from oodbench.benchmark.data.outputs.one_set import SEEDED
from oodbench.benchmark.data.outputs.settings import NAME, Settings, to_toml
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store.atomic import flush, make_folder, rename, temporary_beside, unique_slug, write_atomically


def write_outputs(folder: Path, given: GivenOutputs) -> None:
    """Write a folder, one uncompressed .npz for each set, `head.npz` and `outputs.toml`, which is written last.

    Files of the same names are replaced. Scores are written with higher = more OOD. Raises `StoreError`.
    """
    stems = {name: unique_slug(name) for name in given.ood}
    try:
        for split, arrays in given.id.items():
            _save(folder / f"id_{split}.npz", _arrays(arrays))
        for name, arrays in given.ood.items():
            _save(folder / OOD / f"{stems[name]}.npz", _arrays(arrays))
        if given.head is not None:
            _save(folder / f"{HEAD}.npz", {WEIGHT: given.head.weight, BIAS: given.head.bias})
    except OSError as error:
        raise StoreError(
            f"The outputs cannot be written to '{folder}': {error.strerror or error}. Choose a writable folder."
        ) from error
    settings = Settings(
        title=given.title,
        id_set=given.id_set,
        network=given.network,
        preprocessing=given.preprocessing,
        higher="ood" if any(arrays.scores for arrays in given.id.values()) else "",
        classes=given.classes,
        notes=given.notes,
        titles={stems[name]: name for name in given.ood},
        groups={stems[name]: group for name, group in given.groups.items()},
    )
    write_atomically(folder / NAME, to_toml(settings))


def _arrays(given: GivenArrays) -> dict[str, np.ndarray]:
    named = {LOGITS: given.logits, FEATURES: given.features, LABELS: given.labels}
    found: dict[str, np.ndarray] = {name: array for name, array in named.items() if array is not None}
    if given.names is not None:
        found[NAMES] = np.array(given.names, dtype=str)
    for method, by_seed in given.scores.items():
        for seed, scores in by_seed.items():
            suffix = f"@{seed}" if seed or SEEDED.fullmatch(method) else ""
            found[f"{SCORE}_{method}{suffix}"] = scores
    return found


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    make_folder(path.parent)
    with temporary_beside(path) as temporary:
        with temporary.open("wb") as file:
            save: Any = np.savez  # its stub takes the arrays for its options
            save(file, **arrays)
        flush(temporary)
        rename(temporary, path)
