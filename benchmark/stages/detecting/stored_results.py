"""What several detectors compute from the same training images, kept in the store where it took long.

Later commands and other processes with the same folder then read it in place of the training features. Only results
that are the same whoever asks are stored: of functions of this project, with settings that are plain values, tensors,
or functions and dataclasses of this project. Anything else is computed again. No key of another artifact names them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.plugins.source_version import code_version
from oodbench.benchmark.store.store import Key, Store
from oodbench.benchmark.store.tensor_file import NOT_PLAIN, from_file, to_bytes

LEAST = 10_000
"""Number of images from which on results are looked for in the store: of fewer, nothing takes long."""

LONG = 1.0
"""Seconds that a result must have taken to be stored. To read it takes milliseconds."""

OURS = "oodbench."


class Stored(NamedTuple):
    """A result as it was stored."""

    value: Any
    read: frozenset[str]
    """The inputs that it was computed from."""
    seconds: float
    """How long that took."""


class StoredResults:
    """Results of functions of training splits in the folder of a store.

    Detectors reach this object through their batches, and a store would let them reach the test split: so only the
    folder is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, images: str, size: int, function: Callable[..., Any], settings: Sequence[Any]) -> Key | None:
        """The key of a function's result for the images that `images` identifies; None if it cannot be stored."""
        if size < LEAST:
            return None
        modules = set[str]()
        try:
            name = _named(function, modules)
            content = {"function": name, "settings": [_plain(one, modules) for one in settings], "images": images}
        except _NotPlainError:
            return None
        return Key("statistics", ".safetensors", name.partition(":")[2], {**content, "code": code_version(modules)})

    def find(self, key: Key) -> Stored | None:
        """A stored result; None if there is none, or it cannot be read."""
        store = Store(self.folder)
        path = store.find(key)
        if path is None:
            return None
        try:
            found, seconds = from_file(path), float(store.about(key)["seconds"])
            return Stored(_with_type(found["value"], found["type"]), frozenset(found["read"]), seconds)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def keep(self, key: Key, stored: Stored) -> None:
        """Store a result that took long, unless it holds more than plain data, arrays and tensors."""
        if stored.seconds < LONG or any(map(_is_named_tuple, _parts(stored.value))):
            return
        kind = type(stored.value)
        try:
            name = _named(kind, set()) if _is_named_tuple(stored.value) else ""
            content = to_bytes({"value": stored.value, "type": name, "read": sorted(stored.read)})
        except (_NotPlainError, *NOT_PLAIN):
            return
        about = {"seconds": round(stored.seconds, 3), "threads": torch.get_num_threads(), "torch": torch.__version__}
        Store(self.folder).save(key, lambda path: _write(path, content), about)


def tensor_identity(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    """What equal tensors have in common: type, shape and SHA-256."""
    content = np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(-1).view(np.uint8)
    return str(tensor.dtype), tuple(tensor.shape), hashlib.sha256(content.data).hexdigest()


class _NotPlainError(Exception):
    """Something cannot be named in a key."""


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _named(thing: Any, modules: set[str]) -> str:
    """MODULE:NAME of a function or class of this project, whose module is added to `modules`."""
    module, name = str(getattr(thing, "__module__", "")), str(getattr(thing, "__qualname__", ""))
    if not module.startswith(OURS) or _at(module, name) is not thing:
        raise _NotPlainError
    modules.add(module)
    return f"{module}:{name}"


def _at(module: str, name: str) -> Any:
    """What a module has under a name; None if nothing."""
    return reduce(lambda found, part: getattr(found, part, None), name.split("."), sys.modules.get(module))


def _plain(setting: Any, modules: set[str]) -> Any:
    """A setting as JSON values that tell it from any other."""
    if setting is None or isinstance(setting, bool | int | str):
        return setting
    if isinstance(setting, float):
        return {"float": setting.hex()}
    if isinstance(setting, Tensor):
        return {"tensor": tensor_identity(setting)}
    if is_dataclass(setting) and not isinstance(setting, type):
        values = {field.name: _plain(getattr(setting, field.name), modules) for field in fields(setting)}
        return {"instance": _named(type(setting), modules), "fields": values}
    return {"function": _named(setting, modules)}


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and type(value) is not tuple


def _parts(value: Any) -> Iterator[Any]:
    """Everything inside a result, at any depth."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    for part in inside:
        yield part
        yield from _parts(part)


def _with_type(value: Any, name: str) -> Any:
    """A result as the NamedTuple that it was; itself if it was none."""
    if not name:
        return value
    kind = _at(*name.split(":", 1))
    return kind._make(value)
