"""Reads a user's file of trained weights, safely, and matches its tensors to the run's backbone.

A file is in safetensors format, or a torch file of plain tensors (`weights_only=True`: other objects could run code).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import UserError, first_line
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.recipe import Recipe, Task
from oodbench.benchmark.store.safe_read import read_bounded

IMPORTED = "checkpoint"
"""Takes the place of a recipe's name in records and labels."""

NESTS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Keys under which a file may hold its weights, next to other entries."""

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "classifier.")
"""Prefixes that wrappers (data parallel, compiled, checkpoints of this package) add to every name."""

MAX_FILE = 1 << 34
"""Largest file of weights that is read, in bytes."""

DTYPES = frozenset({
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
})  # fmt: skip
"""Types that a weight may be stored as."""

SHOWN = 3
"""Number of tensors of each kind that an error names before it counts the rest."""


class Weights(NamedTuple):
    """The content of a user's file."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]


class Imported(Recipe):
    """Takes the place of the recipe for a classifier trained elsewhere. Not registered, because it cannot train."""

    file: str = ""
    sha256: str = ""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier alone."""
        return {"classifier": task.build_classifier()}


Imported.name, Imported.title = IMPORTED, "Weights from a file"


def read_weights(path: Path) -> Weights:
    """Read a file and unwrap its state dict. Raises `UserError` if it cannot be read safely or holds no weights."""
    try:
        content = read_bounded(path, MAX_FILE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The checkpoint '{path}' cannot be read: {reason}.") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if content[8:9] == b"{":
        data = _from_safetensors(path, content)
    elif content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        data = _from_torch(path)
    else:
        raise UserError(f"'{path}' is not a checkpoint: expected a safetensors file or one written by torch.save.")
    tensors = _unwrap(data)
    _check_tensors(path, tensors, len(content))
    return Weights(path, sha256, tensors)


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise `UserError` unless there are tensors, all dense, finite, and no larger than the file of `size` bytes."""
    if not tensors:
        raise UserError(
            f"'{path}' holds no weights: expected tensors by name, at the top level or under {', '.join(NESTS)}; save "
            "them with torch.save(model.state_dict(), FILE)."
        )
    for name, value in tensors.items():
        if not _is_plain(value):
            raise UserError(f"'{path}' holds '{name}' as {_kind(value)}; expected dense tensors of 16 to 64 bits.")
        if value.numel() * value.element_size() > size:
            raise UserError(f"'{path}' declares {value.numel():,} numbers in '{name}' but has fewer bytes.")
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"'{path}' holds weights that are not finite, first in '{name}'.")


def _from_safetensors(path: Path, content: bytes) -> Any:
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # its type depends on the content of the header
        raise UserError(f"'{path}' is damaged or not a safetensors file: {first_line(error)}.") from error


def _from_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path) and _unpacked_size(path) > path.stat().st_size:
            raise ValueError("a compressed archive, which torch.save does not write")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its type depends on the content of the file
        reason = "it holds more than tensors" if "nsupported" in str(error) else "it is damaged or not a torch file"
        raise UserError(
            f"'{path}' cannot be read safely: {reason}. Objects other than tensors can run code when a file is opened, "
            "so they are rejected; save only the weights, with torch.save(model.state_dict(), FILE) or as safetensors."
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


def _unwrap(data: Any) -> dict[str, Tensor]:
    """The state dict in a file's data, without the prefixes that wrappers add to its names."""
    for _ in NESTS:  # a bound, because a dict may contain itself
        if not isinstance(data, Mapping) or any(isinstance(value, Tensor) for value in data.values()):
            break
        data = next((data[key] for key in NESTS if isinstance(data.get(key), Mapping)), None)
    items = data.items() if isinstance(data, Mapping) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    while tensors:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def match_weights(weights: Weights, backbone: Backbone, network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict from the file's tensors, with the network's names and types.

    Raises `UserError` with the first tensors that are missing, not expected or of another shape. Batch counters of
    batch norm may be missing, because evaluation does not use them.
    """
    expected = network.state_dict()
    names = {name: name if name in expected else backbone.weight_name(network, name) for name in weights.tensors}
    tensors = {names[name]: value for name, value in weights.tensors.items()}
    missing = [f"'{n}'" for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    unexpected = [f"'{n}'" for n in weights.tensors if names[n] not in expected]
    pairs = [(n, tuple(tensors[n].shape), tuple(value.shape)) for n, value in expected.items() if n in tensors]
    misshapen = [(n, shape, right) for n, shape, right in pairs if shape != right]
    head = [n for n, shape, right in misshapen if n.startswith("head.") and shape[1:] == right[1:] and shape and right]
    if not missing and not unexpected and misshapen and len(head) == len(misshapen):
        _, shape, right = misshapen[0]
        raise UserError(f"'{weights.path}' is a classifier of {shape[0]} classes, and the ID set has {right[0]}")
    problems = {
        "it lacks": missing,
        "it has beside them": unexpected,
        "of another shape are": [f"'{n}' {shape} in place of {right}" for n, shape, right in misshapen],
    }
    if any(problems.values()):
        text = "; ".join(f"{problem} {_first(affected)}" for problem, affected in problems.items() if affected)
        raise UserError(f"'{weights.path}' does not fit backbone '{backbone.name}': {text}")
    counters = {n: torch.zeros(value.shape, dtype=value.dtype) for n, value in expected.items() if n not in tensors}
    return {n: tensors[n].to(value.dtype) if n in tensors else counters[n] for n, value in expected.items()}


def _first(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
