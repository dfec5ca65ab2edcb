"""Finds the network of the run's backbone in a user's file of weights, whatever the file wraps it in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.weights.file import NESTS, Weights
from oodbench.benchmark.plugins.backbone import Backbone

PREFIXES = ("module", "model", "_orig_mod", "net", "classifier")
"""Prefixes of wrappers (data parallel, compiled, checkpoints of this package), which come before other prefixes."""

HEAD = "head."
"""How the names of a network's last layer begin."""

MAX_PREFIXES = 32
"""Number of prefixes that are tried in each dictionary of a file, those of most tensors first."""

MAX_PARTS = 8
"""Number of names in a prefix."""

POSITIONS = re.compile(r"pos_embed|position")
"""In the name of a weight whose shape follows the size of the images, in transformers."""

SHOWN = 3
"""Number of tensors of each kind that an error names before it counts the rest."""

Shapes = Mapping[str, tuple[int, ...]]


class OtherClassesError(UserError):
    """A file fits a network, but for the number of classes of its head."""


class Match(NamedTuple):
    """A network in a user's file."""

    tensors: dict[str, Tensor]
    """The network's state dict, with its names and types."""
    note: str
    """What else the file holds that could be meant or is not used, as a sentence; empty if nothing."""


class _Reading(NamedTuple):
    """One dictionary of a file, read as a network whose names have one prefix."""

    where: str
    prefix: str
    names: dict[str, str]
    """The network's name of a tensor -> its name in the file."""
    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]
    left_out: list[str]

    @property
    def fits(self) -> bool:
        """Whether it is the whole network and nothing else."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def rank(self) -> tuple[int, ...]:
        """Lower is taken first: usual keys before others, no prefix before usual prefixes before others."""
        keys, parts = self.where.split(".") if self.where else [], self.prefix.split(".")[:-1]
        place = [NESTS.index(key) if key in NESTS else len(NESTS) for key in keys]
        return (
            int(any(part not in PREFIXES for part in parts)) + int(len(NESTS) in place),
            *(int(bool(parts)), len(place), *place),
        )

    @property
    def origin(self) -> str:
        """Where the network is in the file, for messages."""
        return f"'{'.'.join(filter(None, (self.where, self.prefix.rstrip('.'))))}'"


def match_weights(weights: Weights, backbone: Backbone, network: nn.Module, without_head: bool = False) -> Match:
    """Find a network's weights in a file: at the top level or inside other entries, with or without a prefix.

    Tensors outside the prefix may be of other networks and are left out; inside it, and where there is none, only
    counters (integers of no dimension) are. Batch counters of batch norm may be missing, because evaluation does not
    use them. `without_head`: the file's head, of whatever shape, is ignored, and the match has zeros in its place.

    Raises `UserError` with the first tensors that are missing, not expected or of another shape in the dictionary that
    comes nearest, or if several networks fit and none is where weights usually are.
    """
    expected = network.state_dict()
    wanted = {n: value for n, value in expected.items() if not (without_head and n.startswith(HEAD))}
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    readings = list(_readings(weights, shapes, lambda name: backbone.weight_name(network, name)))
    fits = sorted((reading for reading in readings if reading.fits), key=lambda reading: reading.rank)
    if not fits:
        raise _mismatch(weights, backbone, shapes, max(readings, key=lambda reading: len(reading.names)))
    best, *others = fits
    found = _tensors(weights, best)
    others = [other for other in others if not _same(found, _tensors(weights, other))]
    if ties := [other for other in others if other.rank == best.rank]:
        raise UserError(
            f"'{weights.path}' holds several networks that fit backbone '{backbone.name}', {best.origin} and "
            f"{', '.join(other.origin for other in ties[:SHOWN])}. Save the one that is meant in a file of its own."
        )
    tensors = {
        name: found[name].to(value.dtype) if name in found else torch.zeros(value.shape, dtype=value.dtype)
        for name, value in expected.items()
    }
    return Match(tensors, _note(weights, best, others))


def fitting_tensors(weights: Weights, backbone: Backbone, network: nn.Module) -> int:
    """The largest number of a network's tensors that one dictionary of a file has under their names, in their shape."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    readings = _readings(weights, shapes, lambda name: backbone.weight_name(network, name))
    return max((len(reading.names) - len(reading.misshapen) for reading in readings), default=0)


def head_outputs(weights: Weights, backbone: Backbone, network: nn.Module) -> int | None:
    """Number of outputs of the head that a file has for a network, whatever the network's own; None without a head."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    readings = _readings(weights, shapes, lambda name: backbone.weight_name(network, name))
    found = [reading for reading in readings if f"{HEAD}weight" in reading.names]
    if not found:
        return None
    best = max(found, key=lambda reading: (len(reading.names) - len(reading.unexpected), [-r for r in reading.rank]))
    shape = _tensors(weights, best)[f"{HEAD}weight"].shape
    return shape[0] if len(shape) == 2 else None


def _readings(weights: Weights, shapes: Shapes, translate: Callable[[str], str]) -> Iterator[_Reading]:
    for where, tensors in weights.state_dicts.items():
        for prefix in _prefixes(tensors, len(shapes)):
            yield _read(where, tensors, prefix, shapes, translate)


def _prefixes(tensors: Mapping[str, Tensor], size: int) -> list[str]:
    """No prefix, and the dotted beginnings of names that a third of a network's `size` tensors or more share.

    A third, because a file without the counters of batch norm has four fifths, and some names may lack the prefix.
    """
    counts = Counter[str]()
    for name in tensors:
        parts = name.split(".", MAX_PARTS)[:-1]
        counts.update(".".join(parts[: end + 1]) + "." for end in range(len(parts)))
    shared = [(prefix, count) for prefix, count in counts.most_common(MAX_PREFIXES) if 3 * count >= size]
    return ["", *(prefix for prefix, _ in shared)]


def _read(
    where: str, tensors: Mapping[str, Tensor], prefix: str, shapes: Shapes, translate: Callable[[str], str]
) -> _Reading:
    """Compare a dictionary's tensors, without a prefix, to a network. Names without it may complete the network."""
    names: dict[str, str] = {}
    unexpected, left_out = [], []
    has_head = any(name.startswith(HEAD) for name in shapes)
    for name in sorted(tensors, key=lambda name: not name.startswith(prefix)):  # those with the prefix first
        bare = name.removeprefix(prefix)
        own = bare if bare in shapes else translate(bare)
        if own in shapes and own not in names:
            names[own] = name
        elif (prefix and not name.startswith(prefix)) or _is_counter(name, tensors[name]):
            left_out.append(name)
        elif own.startswith(HEAD) and not has_head:
            continue
        else:
            unexpected.append(name)
    missing = [name for name in shapes if name not in names and not name.endswith("num_batches_tracked")]
    misshapen = [name for name, shape in shapes.items() if name in names and tuple(tensors[names[name]].shape) != shape]
    return _Reading(where, prefix, names, missing, unexpected, misshapen, left_out)


def _is_counter(name: str, value: Tensor) -> bool:
    """Whether a tensor counts epochs, steps or averaged networks; a parameter of the network is no integer."""
    return value.ndim == 0 and "." not in name and not value.is_floating_point()


def _tensors(weights: Weights, reading: _Reading) -> dict[str, Tensor]:
    tensors = weights.state_dicts[reading.where]
    return {own: tensors[name] for own, name in reading.names.items()}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _note(weights: Weights, best: _Reading, others: list[_Reading]) -> str:
    """A sentence about other networks of the file that fit, and about tensors that are not used."""
    parts = []
    if others:
        names = ", ".join(other.origin for other in others[:SHOWN])
        parts.append(f"{names} would fit as well (to evaluate those, save those alone in a file)")
    if left := [name for name in best.left_out if not _is_counter(name, weights.state_dicts[best.where][name])]:
        parts.append(f"{_first([repr(name) for name in left])} {'is' if len(left) == 1 else 'are'} not used")
    used = f"the weights {best.origin}" if best.where or best.prefix else "the tensors at the top level"
    return f"Of '{weights.path.name}', {used} are evaluated; {'; '.join(parts)}." if parts else ""


def _mismatch(weights: Weights, backbone: Backbone, shapes: Shapes, nearest: _Reading) -> UserError:
    """The error for a file in which no network fits, about the dictionary that comes nearest."""
    given = {own: tuple(value.shape) for own, value in _tensors(weights, nearest).items()}
    head = [
        name
        for name in nearest.misshapen
        if name.startswith(HEAD) and given[name][1:] == shapes[name][1:] and given[name] and shapes[name]
    ]
    if not nearest.missing and not nearest.unexpected and len(head) == len(nearest.misshapen):
        classes, right = given[head[0]][0], shapes[head[0]][0]
        return OtherClassesError(f"'{weights.path}' is a classifier of {classes} classes, and the ID set has {right}")
    positions = [name for name in nearest.misshapen if POSITIONS.search(name)]
    if positions and not nearest.missing and not nearest.unexpected and len(positions) == len(nearest.misshapen):
        name = positions[0]
        return UserError(
            f"'{weights.path}' has positions for images of another size ('{name}' {given[name]} in place of "
            f"{shapes[name]}): give --crop the size that it was trained at"
        )
    problems = {
        "it lacks": [f"'{name}'" for name in nearest.missing],
        "it has beside them": [f"'{name}'" for name in nearest.unexpected],
        "of another shape are": [f"'{n}' {given[n]} in place of {shapes[n]}" for n in nearest.misshapen],
    }
    text = "; ".join(f"{problem} {_first(affected)}" for problem, affected in problems.items() if affected)
    return UserError(f"'{weights.path}' does not fit backbone '{backbone.name}': {text}")


def _first(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
