"""Saves and restores a detector's state: what it learned in `fit` or `observe`."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.store.tensor_file import NOT_PLAIN, from_file, to_bytes


def save_state(detector: Detector, path: Path) -> None:
    """Write a detector's state to a file; `PluginError` if it holds anything but plain data, arrays and tensors."""
    try:
        content = to_bytes(detector.state())
    except NOT_PLAIN as error:
        raise PluginError(
            f"What detector '{detector.name}' learned cannot be stored: {error}. Attributes that end in '_' must be "
            "finite numbers, strings, lists, dicts, arrays or tensors."
        ) from error
    path.write_bytes(content)


def load_state(detector: Detector, path: Path) -> None:
    """Restore the state that `save_state` wrote."""
    detector.load_state(from_file(path))
