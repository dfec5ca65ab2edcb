"""The weights that a run is given: one file for all seeds, or one for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.weights.file import (
    IMPORTED,
    PRETRAINED,
    Imported,
    PretrainedWeights,
    Weights,
    read_weights,
)
from oodbench.benchmark.plan.weights.match import Match, match_weights
from oodbench.benchmark.plugins.backbone import Backbone, Pretrained
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.plugins.specs import Spec
from oodbench.benchmark.store.atomic import slug
from oodbench.benchmark.store.user_path import user_path


class Given(NamedTuple):
    """Files of weights, in the order of the run's seeds; a single one serves all seeds."""

    files: tuple[Weights, ...]
    seeds: tuple[int, ...]
    pretrained: Pretrained | None = None
    """What the run's backbone asks for, where the file is not a user's."""

    @property
    def first(self) -> Weights:
        """The file by which the network's shape is found; the others must fit the same network."""
        return self.files[0]

    def of(self, seed: int) -> Weights:
        """The file of a seed."""
        return self.first if len(self.files) == 1 else self.files[self.seeds.index(seed)]

    def imported(self, seed: int) -> Imported:
        """What takes the place of the recipe of a classifier that is evaluated as it is."""
        file = self.of(seed)
        kind = PretrainedWeights if self.pretrained else Imported
        return kind(file=file.path.name, sha256=file.sha256)

    @property
    def label(self) -> Spec:
        """The recipe in labels: `checkpoint[file=a.pt]`, or `checkpoint[file=a.pt+2]` for it and two others.

        Of a backbone's own weights it is `pretrained`: its settings say which.
        """
        if self.pretrained:
            return Spec(PRETRAINED)
        more = f"+{len(self.files) - 1}" if len(self.files) > 1 else ""
        return Spec(IMPORTED, (("file", slug(self.first.path.name) + more),))


def checkpoint_paths(given: str | Path | Iterable[str | Path]) -> tuple[str, ...]:
    """The paths of `--checkpoint`: one, or several in a list or with commas; a file may have commas in its name."""
    if isinstance(given, Path):
        given = [given]
    elif isinstance(given, str):
        whole = "," not in given or user_path(given).is_file()
        given = [given] if whole else [path.strip() for path in given.split(",")]
        if len(given) > 1 and "" in given:
            raise UserError("--checkpoint names no file between two commas. Leave out one of them.")
    return tuple(str(user_path(path)) for path in given if str(path))


def read_given(paths: Sequence[str], seeds: tuple[int, ...], backbone: Backbone) -> Given | None:
    """Read the files of `--checkpoint`, or the weights that the backbone's settings ask for; None without any.

    Raises `UserError` if one cannot be read, if two are the same, or if several are not one for each seed.
    """
    pretrained = asked(backbone, "pretrained_weights")
    if paths and pretrained:
        raise UserError(
            f"--checkpoint gives weights, and the backbone asks for others ({pretrained.title}). Leave out "
            "--checkpoint, or the backbone's setting for weights."
        )
    if not paths:
        return Given((read_weights(pretrained.file()),), seeds, pretrained) if pretrained else None
    if len(paths) > 1 and len(paths) != len(seeds):
        raise UserError(
            f"--checkpoint gives {len(paths)} files, one for each seed, so leave out --seeds or give {len(paths)} in "
            f"place of {len(seeds)}."
        )
    files = tuple(read_weights(Path(path)) for path in paths)
    for place, file in enumerate(files):
        for other in files[:place]:
            if other.sha256 == file.sha256:
                raise UserError(
                    f"'{other.path}' and '{file.path}' of --checkpoint hold the same bytes, and every file counts as a "
                    "training of its own. Give each once."
                )
    return Given(files, seeds)


class StartMatch(NamedTuple):
    """A network in a user's file from which a training starts."""

    keeps_head: bool
    """Whether the file's head has outputs for the ID set's classes; it is left out otherwise."""
    note: str


def match_start(weights: Weights, backbone: Backbone, network: Callable[[bool], nn.Module]) -> StartMatch:
    """Find the network that a training starts from; its head may be of other classes, or absent.

    `network`: returns the network to look for, with or without regard to the given head. Raises `UserError` if the
    weights below the head do not fit.
    """
    try:
        return StartMatch(True, match_weights(weights, backbone, network(True)).note)
    except UserError:
        match: Match = match_weights(weights, backbone, network(False), without_head=True)
        return StartMatch(False, match.note)


def names_of(files: Iterable[Path]) -> tuple[str, str]:
    """Files by their names, and with the folders that they lie in, as texts for labels."""
    paths = [path.absolute() for path in files]
    return ", ".join(path.name for path in paths), ", ".join(f"{path.parent.name}/{path.name}" for path in paths)
