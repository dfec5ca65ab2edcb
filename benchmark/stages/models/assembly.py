"""From sets as the user gives them to the outputs of one network, with all that is recorded about them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from oodbench.benchmark.data.outputs import GivenArrays, GivenHead, GivenOutputs
from oodbench.benchmark.errors import UserError, did_you_mean
from oodbench.benchmark.plugins.networks.parts import head_of_layer
from oodbench.benchmark.plugins.specs import split_list
from oodbench.benchmark.stages.models.extraction import Pass
from oodbench.benchmark.stages.models.set_outputs import SetOutputs
from oodbench.benchmark.stages.models.sources import Source, opened

logger = logging.getLogger(__name__)

GROUPS = ("near", "far")

LONGEST = 500
"""Characters of a transform that are recorded."""

UNSTATED = "by the caller's code"
"""Stands for a preprocessing of which nothing is known."""

Key = tuple[str, str]
"""('id', split) or ('ood', name)."""


def sources_of(
    id_sets: Mapping[str, Any], ood: Mapping[str, Any] | None, near: Any, far: Any, size: int
) -> tuple[dict[Key, Source], dict[str, str]]:
    """The sets in the order in which they are read, and the groups of OOD sets."""
    if id_sets["test"] is None:
        raise UserError("There is no id_test: give the ID images to score, such as id_test=loader.")
    if ood is not None and not isinstance(ood, Mapping):
        raise UserError(
            f"ood is of type {type(ood).__name__}, expected a dictionary of sets by name: ood={{'svhn': loader}}."
        )
    sets = dict(ood or {})
    groups: dict[str, str] = {}
    for group, named in zip(GROUPS, (near, far), strict=True):
        if isinstance(named, Mapping):
            if both := sorted(named.keys() & sets.keys()):
                raise UserError(f"'{both[0]}' is given twice, in {group} and before it. Leave it in one place.")
            sets |= named
        for name in split_list(named) if isinstance(named, str) else named:
            if name not in sets:
                hint = did_you_mean(name, sets, f"Known: {', '.join(sets) or 'none'}.")
                raise UserError(f"{group} names '{name}', which is not among the OOD sets. {hint}")
            if groups.setdefault(name, group) != group:
                raise UserError(f"'{name}' is in both near and far. Leave it in one of them.")
    if not sets:
        raise UserError("There is no OOD set: give some by name, such as ood={'svhn': loader}.")
    for name in sets:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"The name of an OOD set is {name!r}, expected a word, such as 'svhn'.")
    found: dict[Key, Source] = {
        ("id", split): opened(data, f"id_{split}", size) for split, data in id_sets.items() if data is not None
    }
    return found | {("ood", name): opened(data, f"'{name}'", size) for name, data in sets.items()}, groups


def refuse_read_once(sources: Mapping[Key, Source], models: int) -> None:
    """Raise `UserError` for a set that is used up by the first of several networks."""
    for source in sources.values():
        if source.is_read_once and models > 1:
            raise UserError(
                f"{source.title} can be read once, as a generator, and {models} networks need it {models} times. Give "
                "a DataLoader, a data set or a list."
            )


def one_set(passing: Pass, source: Source) -> SetOutputs:
    """The outputs of one set; notes are logged as well."""
    arrays = passing.arrays(source)
    assert arrays.logits is not None
    assert arrays.features is not None
    assert passing.parts is not None
    notes = (*passing.parts.notes, *source.notes)
    for note in notes:
        logger.warning(_sentence(note))
    return SetOutputs(
        arrays.logits,
        arrays.features.astype(np.float32, copy=False),
        arrays.labels,
        arrays.names,
        _head(passing),
        notes,
    )


def _head(passing: Pass) -> GivenHead | None:
    assert passing.parts is not None
    if not passing.parts.head:
        return None
    layer = passing.network.get_submodule(passing.parts.head)
    weight, bias = (part.cpu() for part in head_of_layer(layer))
    arrays = [(part.double() if part.itemsize == 8 else part.float()).numpy().copy() for part in (weight, bias)]
    return GivenHead(*arrays)


def given_outputs(
    passing: Pass,
    sources: Mapping[Key, Source],
    found: Mapping[Key, GivenArrays],
    groups: Mapping[str, str],
    preprocessing: str,
    name: str,
) -> GivenOutputs:
    """The outputs of one network with all that is recorded about it."""
    test = sources["id", "test"]
    own = test.transform if len(test.transform) <= LONGEST else f"{test.transform[:LONGEST]}..."
    id_sources = [source for (kind, _), source in sources.items() if kind == "id"]
    classes = next((source.classes for source in id_sources if source.classes), ())
    logits = found["id", "test"].logits
    assert passing.parts is not None
    assert logits is not None
    given = GivenOutputs(
        source=Path("a network in memory"),
        title=type(passing.network).__name__,
        id_set=next((source.set_name for source in id_sources if source.set_name), "ID"),
        id={split: arrays for (kind, split), arrays in found.items() if kind == "id"},
        ood={name: arrays for (kind, name), arrays in found.items() if kind == "ood"},
        groups=dict(groups),
        classes=classes if len(classes) == logits.shape[1] else tuple(map(str, range(logits.shape[1]))),
        head=_head(passing),
        network=name or described(passing.network),
        preprocessing=preprocessing or own or UNSTATED,
        notes=tuple(dict.fromkeys(map(_sentence, [*passing.parts.notes, *_notes(sources)]))),
    )
    _check_labels(given)
    return given


def _sentence(note: str) -> str:
    return f"{note[0].upper()}{note[1:]}."


def _notes(sources: Mapping[Key, Source]) -> list[str]:
    notes = [note for source in sources.values() for note in source.notes]
    test = sources["id", "test"]
    others = [s.title for s in sources.values() if s.transform and test.transform and s.transform != test.transform]
    if others:
        notes.append(f"images of {', '.join(others)} pass another transform than those of id_test")
    return notes


def _check_labels(given: GivenOutputs) -> None:
    """Raise `UserError` for labels that are no numbers of outputs."""
    for split, arrays in given.id.items():
        if arrays.labels is None:
            continue
        wrong = np.flatnonzero((arrays.labels < 0) | (arrays.labels >= len(given.classes)))
        if len(wrong):
            hint = " Do they count from 1? Give labels - 1." if arrays.labels.min() == 1 else ""
            raise UserError(
                f"The label of image {wrong[0]} of id_{split} is {arrays.labels[wrong[0]]}, and the network has the "
                f"outputs 0 to {len(given.classes) - 1}.{hint}"
            )


def refuse_unlike(networks: Sequence[GivenOutputs]) -> None:
    """Raise `UserError` unless all networks have the same classes, and so are trainings of one network."""
    first = networks[0]
    for index, other in enumerate(networks[1:], start=1):
        if len(other.classes) != len(first.classes):
            raise UserError(
                f"Network {index} has {len(other.classes)} outputs and network 0 {len(first.classes)}; several "
                "networks are trainings of one. Run others on their own, with add=True for one table."
            )
        if other.head is not None and first.head is not None and _same(other.head, first.head):
            raise UserError(f"Networks 0 and {index} have the same head: they are one network given twice.")


def _same(one: GivenHead, other: GivenHead) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def described(network: nn.Module) -> str:
    """A network in words: its class, number of parameters and a hash of its weights."""
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{type(network).__name__}, {count:,} parameters, weights {weights_hash(network)[:12]}"


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if hasattr(value, "detach"):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            numbers = value.int_repr() if value.is_quantized else value.detach()
            digest.update(numbers.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
