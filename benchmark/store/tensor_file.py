"""Stores nested plain data in one safetensors file: tensors and arrays as tensors, the rest as JSON in the header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from oodbench.benchmark.errors import first_line

NOT_PLAIN = (TypeError, ValueError, KeyError, RuntimeError)
"""Exceptions that `to_bytes` raises for values that are not plain data."""


def to_bytes(value: Any) -> bytes:
    """The file's content for tensors, arrays, finite numbers, strings, None, and lists, tuples and dicts of these."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(pack(value, tensors), allow_nan=False)
    # One entry, because the format does not keep their order and equal values must give equal bytes.
    header = json.dumps({"value": skeleton, "sha256": _checksum(skeleton, tensors)})
    return save(tensors, metadata={"state": header})


def from_file(path: Path) -> Any:
    """Read what `to_bytes` wrote. `ValueError` or `OSError` if the file is damaged or unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("state", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not header or header["sha256"] != _checksum(header["value"], tensors):
            raise ValueError("the content does not match its checksum")
        return unpack(json.loads(header["value"]), tensors)
    except (OSError, ValueError):
        raise
    except Exception as error:  # the kind depends on how the header is damaged
        raise ValueError(first_line(error)) from error


def copied(value: Any) -> Any:
    """What `from_file` would return for what `to_bytes` would write, without a file. Raises `NOT_PLAIN`."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(pack(value, tensors), allow_nan=False)
    return unpack(json.loads(skeleton), tensors)


def _checksum(skeleton: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(skeleton.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON values; its tensors and arrays are added to `tensors` under numbers, which stand in their place.

    Raises one of `NOT_PLAIN`, at the latest when the result is written as JSON, for what is no plain data.
    """
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        tensors[name] = tensor.contiguous().clone()
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if isinstance(value, dict):
        return {"dict": [[pack(k, tensors), pack(item, tensors)] for k, item in value.items()]}
    return value


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` was given, from its result and the tensors by number."""
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "array" in packed:
        return tensors[packed["array"]].numpy()
    if "tuple" in packed:
        return tuple(unpack(item, tensors) for item in packed["tuple"])
    return {unpack(k, tensors): unpack(item, tensors) for k, item in packed["dict"]}
