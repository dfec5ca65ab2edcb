"""What a detector learned, to and from one safetensors file: arrays as tensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from oodbench.benchmark.contract import Detector
from oodbench.benchmark.errors import PluginError


def save_state(detector: Detector, path: Path) -> None:
    """Write what `fit` learned; an error that names the detector if it is no plain data."""
    tensors: dict[str, Tensor] = {}
    try:
        skeleton = json.dumps(_pack(detector.state(), tensors), allow_nan=False)
        content = save(tensors, metadata={"state": skeleton})
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise PluginError(
            f"What detector '{detector.name}' learned cannot be stored: {error}. Attributes that end in '_' must be "
            "finite numbers, words, lists, dicts, arrays or tensors."
        ) from error
    path.write_bytes(content)


def load_state(detector: Detector, path: Path) -> None:
    """Give a detector back what `save_state` wrote."""
    with safe_open(path, framework="pt") as file:
        skeleton = json.loads(file.metadata()["state"])
        detector.load_state(_unpack(skeleton, {name: file.get_tensor(name) for name in file.keys()}))  # noqa: SIM118


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        name = str(len(tensors))
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        tensors[name] = tensor.contiguous().clone()
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_pack(k, tensors), _pack(item, tensors)] for k, item in value.items()]}
    return value


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "array" in packed:
        return tensors[packed["array"]].numpy()
    if "tuple" in packed:
        return tuple(_unpack(item, tensors) for item in packed["tuple"])
    return {_unpack(k, tensors): _unpack(item, tensors) for k, item in packed["dict"]}
