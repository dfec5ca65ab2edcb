"""`run(model=...)` and `run(outputs=Outputs(...))` as options of a run on a folder of outputs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodbench.benchmark.data.outputs import GivenArrays, GivenOutputs
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.outputs.digests import array_sha256, combined_sha256
from oodbench.benchmark.records.unused_outputs import FOLDER
from oodbench.benchmark.stages.models.outputs import Outputs, folders
from oodbench.benchmark.store.atomic import make_folder, unique_slug
from oodbench.benchmark.store.user_path import user_path

logger = logging.getLogger(__name__)

IN_MEMORY = ("model", "models", "id_train", "id_val", "id_test", "ood", "features", "preprocessing")
"""Parameters of `run` that no option of the command line has."""

SETS = ("id_train", "id_val", "id_test", "ood")

REPLACED = {
    **{"suite": "", "id_sets": "all", "ood_sets": "", "backbone": "", "checkpoint": "", "outputs": "", "recipe": ""},
    **{"resize": "", "crop": "", "interpolation": "", "mean": "", "std": "", "exif": False, "block": 0, "epochs": 0},
    **{"limit_train": 0, "precision": "", "store_features": ""},
}
"""Options that say which network and images, and how they meet -> what stands for nothing."""


def with_outputs(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run, with networks and sets in memory replaced by the folder of their outputs.

    The networks pass over all sets whenever this is called: what they compute, the weights alone do not tell. Equal
    outputs are the same folder, on which nothing is computed again. Raises `UserError` for options that do not go
    together.
    """
    others = {name: value for name, value in options.items() if name not in IN_MEMORY}
    given = {name: options[name] for name in IN_MEMORY}
    folder = user_path(options["results"]) / FOLDER
    if isinstance(options["outputs"], Outputs):
        _refuse_both(given, "outputs")
        outputs = options["outputs"]
    elif (models := _models(given)) is not None:
        _refuse_replaced(options)
        make_folder(folder)
        outputs = Outputs.from_model(
            models,
            **{name: given[name] for name in SETS},
            near=options["near"],
            far=options["far"],
            features=given["features"],
            head=options["head"],
            preprocessing=given["preprocessing"],
            folder=folder,
        )
        others |= {"near": "", "far": "", "head": ""}
    else:
        return others
    return others | {"outputs": _written(outputs, folder, options["name"])}


def _models(given: Mapping[str, Any]) -> list[Any] | None:
    """The networks; None if there are none."""
    one, several = given["model"], given["models"]
    if one is not None and several is not None:
        raise UserError("Both model and models are given. Give model for one network, or models for one for each seed.")
    if several is not None:
        if not isinstance(several, list | tuple) or not several:
            raise UserError("models must be a list of networks, one for each seed. Give model for one network.")
        return list(several)
    if one is None:
        if unused := _given(given):
            raise UserError(f"run got {unused} without a model. Give the network, model=..., or leave this out.")
        return None
    return list(one) if isinstance(one, list | tuple) else [one]


def _refuse_both(given: Mapping[str, Any], name: str) -> None:
    if unused := _given(given):
        raise UserError(f"run got {name} and {unused}. Outputs hold all of this, so leave it out.")


def _refuse_replaced(options: Mapping[str, Any]) -> None:
    """Raise `UserError` for options about networks and images, which model brings with it."""
    if unused := [name for name, nothing in REPLACED.items() if options[name] != nothing]:
        raise UserError(
            f"run got a model and {' and '.join(unused)}. A model comes with its own weights, images and "
            "preprocessing, so leave this out, or leave model out."
        )


def _given(values: Mapping[str, Any]) -> str:
    """The names of the values that are there."""
    return " and ".join(name for name, one in values.items() if not (one is None or (isinstance(one, str) and not one)))


def _written(outputs: Outputs, folder: Path, name: str) -> list[str]:
    """Write the outputs unless they are there; returns the folder of each network."""
    digest = combined_sha256(*map(_digest, outputs.networks))
    place = folder / f"{unique_slug(name or outputs.networks[0].title)}-{digest[:12]}"
    paths = folders(place, len(outputs.networks))
    if not all((path / "outputs.toml").is_file() for path in paths):
        outputs.save(place)
        logger.info(f"Logits and features are in '{place}'.")
    return [str(path) for path in paths]


def _digest(given: GivenOutputs) -> str:
    """A hash of all that is written about a network."""
    sets = [("id", split, arrays) for split, arrays in given.id.items()]
    sets += [("ood", name, arrays) for name, arrays in given.ood.items()]
    facts: list[Any] = [given.title, given.id_set, given.classes, sorted(given.groups.items()), given.network]
    facts += [given.preprocessing, given.notes, *((kind, name, arrays.names) for kind, name, arrays in sets)]
    arrays = [array for *_, one in sets for array in _arrays(one)] + list(given.head or ())
    return combined_sha256(hashlib.sha256(repr(facts).encode()).hexdigest(), *map(array_sha256, arrays))


def _arrays(arrays: GivenArrays) -> list[Any]:
    return [array for array in (arrays.logits, arrays.features, arrays.labels) if array is not None]
