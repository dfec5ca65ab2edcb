"""Weights that a user trained elsewhere, in place of a training: read safely, checked against the backbone, stored.

A file is safetensors, or a torch file of plain tensors (`weights_only=True`; anything else in it could run code).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import UserError, first_line
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.recipe import Recipe, Task
from oodbench.benchmark.store.safe_read import read_bounded

if TYPE_CHECKING:
    pass


IMPORTED = "checkpoint"
"""Stands where the name of a recipe would, in records and labels."""

NESTS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Under which of these keys a file may hold its weights beside other things."""

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "classifier.")
"""What wrappers (data parallel, compiled, this package's own checkpoints) put before every name."""

MAX_FILE = 1 << 34
"""Bytes of a file of weights."""

DTYPES = frozenset({
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
})  # fmt: skip
"""What a weight may be stored as."""

SHOWN = 3
"""Tensors of each kind that an error names before it counts the rest."""


class Weights(NamedTuple):
    """The content of a user's file."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]


class Imported(Recipe):
    """What stands for the recipe of a classifier that was trained elsewhere. Not registered: nothing trains by it."""

    file: str = ""
    sha256: str = ""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier alone."""
        return {"classifier": task.build_classifier()}


Imported.name, Imported.title = IMPORTED, "Weights from a file"


def read_weights(path: Path) -> Weights:
    """Read a file and unwrap its state dict. Raises `UserError` if it is none that can be read safely."""
    try:
        content = read_bounded(path, MAX_FILE)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise UserError(f"The checkpoint '{path}' cannot be read: {told}.") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if content[8:9] == b"{":
        found = _from_safetensors(path, content)
    elif content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        found = _from_torch(path)
    else:
        raise UserError(f"'{path}' is no checkpoint: neither safetensors nor a file that torch.save wrote.")
    tensors = _unwrapped(found)
    if not tensors:
        raise UserError(
            f"'{path}' holds no weights: expected tensors by name, at the top or under {', '.join(NESTS)}; save it "
            "with torch.save(model.state_dict(), FILE)."
        )
    for name, value in tensors.items():
        if not _is_plain(value):
            raise UserError(f"'{path}' holds '{name}' as {_kind(value)}; expected dense tensors of 16 to 64 bits.")
        if value.numel() * value.element_size() > len(content):
            raise UserError(f"'{path}' declares {value.numel():,} numbers in '{name}' and has fewer bytes.")
    bad = [name for name, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise UserError(f"'{path}' holds weights that are not finite, first in '{bad[0]}'.")
    return Weights(path, sha256, tensors)


def _from_safetensors(path: Path, content: bytes) -> Any:
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # of many kinds, depending on what the header happens to say
        raise UserError(f"'{path}' is damaged or no safetensors file: {first_line(error)}.") from error


def _from_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path) and _unpacked_size(path) > path.stat().st_size:
            raise ValueError("a compressed archive, which torch.save does not write")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, depending on what the bytes happen to mean
        why = "it holds more than tensors" if "nsupported" in str(error) else "it is damaged, or no torch file"
        raise UserError(
            f"'{path}' cannot be read safely: {why}. Other objects in a file can run code when it is opened, so they "
            "are refused; save the weights alone with torch.save(model.state_dict(), FILE) or as safetensors."
        ) from error


def _unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _is_plain(value: Tensor) -> bool:
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return dense and value.dtype in DTYPES


def _kind(value: Tensor) -> str:
    parts = (value.layout, value.dtype, "" if value.device.type == "cpu" else value.device.type)
    return " ".join(str(part).removeprefix("torch.") for part in parts if part)


def _unwrapped(found: Any) -> dict[str, Tensor]:
    """The state dict inside what a file holds, without what wrappers put before its names."""
    for _ in NESTS:  # no deeper: a dict may hold itself
        if not isinstance(found, Mapping) or any(isinstance(value, Tensor) for value in found.values()):
            break
        found = next((found[key] for key in NESTS if isinstance(found.get(key), Mapping)), None)
    held = found.items() if isinstance(found, Mapping) else ()
    tensors = {name: value for name, value in held if isinstance(name, str) and isinstance(value, Tensor)}
    while tensors:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def fitted(weights: Weights, backbone: Backbone, network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict from the file's tensors, by the network's names and in its types.

    Raises `UserError` that names the first tensors that are missing, not expected or of another shape. Counters of
    batch norm may be missing: nothing here looks at them.
    """
    wanted = network.state_dict()
    own = {name if name in wanted else backbone.weight_name(network, name): v for name, v in weights.tensors.items()}
    missing = [f"'{n}'" for n in wanted if n not in own and not n.endswith("num_batches_tracked")]
    strange = [
        f"'{n}'" for n in weights.tensors if (n if n in wanted else backbone.weight_name(network, n)) not in wanted
    ]
    shapes = [(n, tuple(own[n].shape), tuple(wanted[n].shape)) for n in wanted if n in own]
    other = [(n, got, expected) for n, got, expected in shapes if got != expected]
    head = {n for n, got, expected in other if n.startswith("head.") and got[1:] == expected[1:] and got and expected}
    if not missing and not strange and other and len(head) == len(other):
        _, got, expected = other[0]
        raise UserError(f"'{weights.path}' is a classifier of {got[0]} classes, and the ID set has {expected[0]}")
    told = [
        f"{word} {_some(names)}"
        for word, names in (
            ("it lacks", missing),
            ("it has beside them", strange),
            ("of another shape are", [f"'{n}' {got} in place of {expected}" for n, got, expected in other]),
        )
        if names
    ]
    if told:
        raise UserError(f"'{weights.path}' does not fit backbone '{backbone.name}': {'; '.join(told)}")
    tracked = {n: torch.zeros(value.shape, dtype=value.dtype) for n, value in wanted.items() if n not in own}
    return {n: own[n].to(value.dtype) if n in own else tracked[n] for n, value in wanted.items()}


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
