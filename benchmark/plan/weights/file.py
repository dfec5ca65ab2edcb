"""Reads a user's file of trained weights, safely; `match.py` finds the run's backbone in it.

A file is in safetensors format, or a torch file that is read with `weights_only=True`, because objects other than
tensors could run code. The objects that training scripts often save beside the weights are replaced by empty ones.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import UserError, first_line, visible
from oodbench.benchmark.plugins.recipe import Recipe, Task
from oodbench.benchmark.records.record import IMPORTED as IMPORTED
from oodbench.benchmark.records.record import OUTPUTS as OUTPUTS
from oodbench.benchmark.records.record import PRETRAINED as PRETRAINED
from oodbench.benchmark.records.record import SCORES as SCORES
from oodbench.benchmark.store.safe_read import read_bounded

GIVEN = (IMPORTED, PRETRAINED, OUTPUTS)
"""What takes the place of a recipe's name for a classifier that was not trained here."""

NESTS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Keys under which files usually hold their weights, next to other entries; the first that fits is taken."""

MAX_FILE = 1 << 34
"""Largest file of weights that is read, in bytes."""

DTYPES = frozenset({
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
})  # fmt: skip
"""Types that a weight may be stored as."""

DEPTH = 4
"""Number of dictionaries inside each other in which weights are looked for."""

MAX_DICTS = 1000
"""Number of dictionaries of a file that are looked at: a dictionary may contain itself."""

REPLACED = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
    "numpy.dtype",
    *(f"numpy.dtypes.{name}DType" for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")),
    *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
)
"""Objects that training scripts save beside the weights: options, best accuracies, paths. They are never created."""

REPLACED_DICTS = tuple(
    f"{package}.AttributeDict"
    for package in (
        "pytorch_lightning.utilities.parsing",
        "lightning.pytorch.utilities.parsing",
        "lightning_fabric.utilities.data",
        "lightning.fabric.utilities.data",
    )
)
"""The same for classes derived from dict: the hyperparameters of Lightning."""


class Weights(NamedTuple):
    """The content of a user's file."""

    path: Path
    sha256: str
    state_dicts: dict[str, dict[str, Tensor]]
    """The file's dictionaries of tensors, by where they are: "" for the top level, "model", "model.state_dict"."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The largest dictionary of tensors."""
        return max(self.state_dicts.values(), key=len)


class Imported(Recipe):
    """Takes the place of the recipe for a classifier trained elsewhere. Not registered, because it cannot train."""

    file: str = ""
    sha256: str = ""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier alone."""
        return {"classifier": task.build_classifier()}


class PretrainedWeights(Imported):
    """The same for the weights that a backbone's settings ask for."""


PretrainedWeights.name, PretrainedWeights.title = PRETRAINED, "Pretrained weights of the backbone"
Imported.name, Imported.title = IMPORTED, "Weights from a file"


def read_weights(path: Path) -> Weights:
    """Read a file's tensors. Raises `UserError` if it cannot be read safely or holds no usable tensors."""
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
    found = _state_dicts(data)
    if not found:
        raise UserError(
            f"'{path}' holds no weights: expected tensors by name, at the top level or under {', '.join(NESTS)}; save "
            "them with torch.save(model.state_dict(), FILE)."
        )
    problems = {where: _problem(tensors, len(content)) for where, tensors in found.items()}
    if problem := problems[max(found, key=lambda where: len(found[where]))]:
        raise UserError(f"'{path}' {problem}.")
    return Weights(path, sha256, {where: tensors for where, tensors in found.items() if not problems[where]})


def _problem(tensors: Mapping[str, Tensor], size: int) -> str:
    """Why tensors cannot be weights: one is not dense, not finite, or larger than the file's `size` in bytes."""
    for name, value in tensors.items():
        if not _is_plain(value):
            return f"holds '{name}' as {_kind(value)}; expected dense tensors of 16 to 64 bits"
        if value.numel() * value.element_size() > size:
            return f"declares {value.numel():,} numbers in '{name}' but has fewer bytes"
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            return f"holds weights that are not finite, first in '{name}'"
    return ""


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
        with _replaced_objects():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its type depends on the content of the file
        raise UserError(
            f"'{path}' cannot be read safely: {_why_unreadable(path)}. Objects other than tensors can run code "
            "when a file is opened, so they are rejected; save only the weights, with torch.save(model.state_dict(), "
            "FILE) or as safetensors."
        ) from error


def _why_unreadable(path: Path) -> str:
    """Why `torch.load` refused a file, from the file's content: torch has one type of error for several reasons."""
    if _is_program(path):
        return "it is a TorchScript program"
    damaged, unknown = "it is damaged or not a torch file", "it holds more than tensors, or is damaged"
    if not zipfile.is_zipfile(path):  # one that was cut, or torch's format before 1.6, a series of pickles
        with path.open("rb") as file:
            return damaged if file.read(1) == b"P" else unknown
    try:
        with _replaced_objects():
            objects = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except AttributeError:  # torch before 2.6
        return unknown
    except Exception:  # its type depends on the content of the file
        objects = []
    return f"it holds more than tensors ({visible(objects[0])})" if objects else damaged


def _is_program(path: Path) -> bool:
    """Whether a file was written by `torch.jit.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


class _Replacement:
    """An empty object in place of one that is not created. It ignores what the file holds for it."""

    def __new__(cls, *_: Any) -> Any:
        """Ignore the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        """Ignore the arguments."""

    def __setstate__(self, _: Any) -> None:
        """Ignore the state."""


class _DictReplacement(_Replacement, dict[str, Any]):
    """The same with items, which the file may add."""


def _replacement(name: str, base: type) -> type:
    """A class that `torch.load` takes for the one of this full name."""
    module, _, own = name.rpartition(".")
    return type(own, (base,), {"__module__": module, "__qualname__": own})


REPLACEMENTS: list[Any] = [
    *(_replacement(name, _Replacement) for name in REPLACED),
    *(_replacement(name, _DictReplacement) for name in REPLACED_DICTS),
]


@contextmanager
def _replaced_objects() -> Iterator[None]:
    """Let `torch.load` put empty objects in place of `REPLACED`."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(REPLACEMENTS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _unpacked_size(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _is_plain(value: Tensor) -> bool:
    dense = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return dense and value.dtype in DTYPES


def _kind(value: Tensor) -> str:
    parts = (value.layout, value.dtype, "" if value.device.type == "cpu" else value.device.type)
    return " ".join(str(part).removeprefix("torch.") for part in parts if part)


def _state_dicts(data: Any) -> dict[str, dict[str, Tensor]]:
    """The dictionaries of tensors by name in a file's data, by where they are."""
    found: dict[str, dict[str, Tensor]] = {}
    todo = [("", data, 1)] if isinstance(data, Mapping) else []
    for where, entries, depth in todo:  # grows while it is read
        named = {name: value for name, value in entries.items() if isinstance(name, str)}
        if tensors := {name: value for name, value in named.items() if isinstance(value, Tensor)}:
            found[where] = tensors
        inner = [(f"{where}.{name}".lstrip("."), value, depth + 1) for name, value in named.items()]
        room = MAX_DICTS - len(todo) if depth < DEPTH else 0
        todo += [item for item in inner if isinstance(item[1], Mapping)][:room]
    return found
