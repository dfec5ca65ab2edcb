"""Names of the classes of an ID set, from its card or a user's file, and heads that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.data.imagenet_classes import WNID, imagenet_classes
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.store.safe_read import read_bounded
from oodbench.benchmark.store.user_path import user_path

if TYPE_CHECKING:
    from torch import Tensor, nn

    from oodbench.benchmark.plan.plan import Request

MAX_FILE = 1 << 24
"""Largest file of class names, in bytes."""


def makes_heads(backbone: Backbone) -> bool:
    """Whether a backbone makes its head of the names of classes, so that no training is needed."""
    return type(backbone).head_from_names is not Backbone.head_from_names


def read_class_names(path: Path) -> tuple[str, ...]:
    """The lines of a file, without those that are empty. Raises `UserError` if it cannot be read, or is empty."""
    try:
        text = read_bounded(user_path(path), MAX_FILE).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The class names in '{path}' cannot be read: {reason}. Give a text file in UTF-8.") from error
    names = tuple(name for line in text.splitlines() if (name := line.strip()))
    if not names:
        raise UserError(f"'{path}' holds no class names; write one in each line, in the order of the labels.")
    return names


def class_names(entry: IDEntry, request: Request, library: Library) -> tuple[str, ...]:
    """The names of an ID set's classes in the order of its labels: those of `--classes`, the suite, or its card.

    Raises `UserError` for a file with another number of names.
    """
    source = request.classes or entry.classes
    if not source:
        return library.class_names(entry.set)
    names, classes = read_class_names(Path(source)), library.num_classes(entry.set)
    if len(names) != classes:
        raise UserError(
            f"'{source}' has {len(names):,} class names, and '{entry.set}' has {classes:,} classes; write one in each "
            "line, in the order of the labels."
        )
    return names


def as_words(name: str) -> str:
    """A class's name as it stands in a text: of a WordNet identifier its usual name, underscores as spaces."""
    if wnid := WNID.fullmatch(name):
        known = {one.wnid: one.names[0] for one in imagenet_classes()}.get(wnid[1])
        name = known or name.removeprefix(wnid[1]) or name
    return " ".join(name.replace("_", " ").split())


def note_on(entry: IDEntry, names: tuple[str, ...], backbone: Backbone) -> str:
    """A sentence about a head that is made of names, for under the tables."""
    first = names[0] if len(names) == 1 else f"{names[0]}' to '{names[-1]}"
    note = (
        f"Nothing is trained: the head of '{backbone.name}' is made of the names of the {len(names):,} classes of "
        f"'{entry.set}', from '{first}'."
    )
    shared = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if shared:
        note = f"{note[:-1]}; several are called '{shared[0]}', and have the same text: name them with --classes."
    return note


def named_head(backbone: Backbone, network: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights of a head of class names, float32 (K, D) and (K,), by their names in the network.

    Raises `PluginError` unless the backbone returns finite numbers of these shapes.
    """
    found = asked(backbone, "head_from_names", network, names)
    own = {name: value for name, value in network.state_dict().items() if name.startswith("head.")}
    head = {f"head.{name}": getattr(found, name).detach().float().cpu() for name in ("weight", "bias")}
    for name, value in head.items():
        if name not in own or value.shape != own[name].shape or not value.isfinite().all():
            raise PluginError(
                f"head_from_names() of backbone '{backbone.name}' returned {tuple(value.shape)} as the {name[5:]}; "
                f"expected finite numbers {tuple(own[name].shape) if name in own else ''}."
            )
    return head
