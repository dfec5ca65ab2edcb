"""Saves and restores a detector's state: what it learned in `fit` or `observe`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.specs import canonical, create
from oodbench.benchmark.store.tensor_file import NOT_PLAIN, copied, from_file, to_bytes


def save_state(detector: Detector, path: Path) -> None:
    """Write a detector's state to a file; `PluginError` if it holds anything but plain data, arrays and tensors."""
    try:
        content = to_bytes(detector.state())
    except NOT_PLAIN as error:
        raise _not_plain(detector, error) from error
    path.write_bytes(content)


def copy_of(detector: Detector) -> Detector:
    """A new detector with the same settings and state as `stored_and_loaded` returns, without a file.

    Raises `PluginError` if the state holds anything but plain data, arrays and tensors.
    """
    copy = type(detector)(**detector.settings)
    try:
        copy.load_state(copied(detector.state()))
    except NOT_PLAIN as error:
        raise _not_plain(detector, error) from error
    return copy


def stored_and_loaded(detector: Detector) -> Detector:
    """A new detector with the same settings and state, as in a run, where what was learned is read from a file.

    Its tensors are on the CPU, need no gradients, and are not those of inference mode, whatever `fit` left.
    """
    loaded: Detector = create("detector", canonical(detector))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        save_state(detector, path)
        load_state(loaded, path)
    return loaded


def _not_plain(detector: Detector, error: Exception) -> PluginError:
    return PluginError(
        f"What detector '{detector.name}' learned cannot be stored: {error}. Attributes that end in '_' must be "
        "finite numbers, strings, lists, dicts, arrays or tensors."
    )


def load_state(detector: Detector, path: Path) -> None:
    """Restore the state that `save_state` wrote."""
    detector.load_state(from_file(path))


def chosen_settings(detector: Detector) -> dict[str, Any]:
    """The values that `fit` chose for settings left to a rule. Raises `PluginError` unless they are plain data."""
    chosen = dict(detector.chosen_)
    for name, value in chosen.items():
        if name not in detector.settings:
            raise PluginError(f"{type(detector).__name__}.chosen_ names '{name}', which is no setting of the detector.")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, int | float | str) for item in values):
            raise PluginError(
                f"{type(detector).__name__}.chosen_['{name}'] must be a number, a string or a list of them, got "
                f"{value!r}."
            )
    return chosen
