"""Stored arrays of numbers, as .npy files: never an object, never more memory than the file has bytes."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from oodbench.benchmark.errors import first_line


def load_array(path: Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """A .npy file, memory-mapped read-only ('r') or copy-on-write ('c'). ValueError if it holds no array of numbers."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "there is no such file", str(path))
    try:
        # Mapped, a header that declares more than the file holds is an error instead of an allocation.
        found = np.load(path, mmap_mode=mode, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy's parser of headers lets the tokenizer's errors and others through
        raise ValueError(f"it holds no array that can be read safely ({first_line(error).rstrip('.')})") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("it holds an archive, expected one array")
    if found.dtype.kind not in "biuf":
        raise ValueError(f"it holds {found.dtype}, expected numbers")
    return found


def stored_scores(cache: Path, artifacts: Mapping[str, str], name: str) -> np.ndarray | None:
    """The scores that a record's `artifacts` name, (N,); None where they are not there or are no finite numbers."""
    try:
        scores = load_array(cache / artifacts[name])
    except (KeyError, OSError, ValueError):
        return None
    return scores if scores.ndim == 1 and np.isfinite(scores).all() else None
