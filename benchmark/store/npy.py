"""Reads .npy files of numbers safely: no Python objects, and no more memory than the file has bytes."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from oodbench.benchmark.errors import first_line


def load_array(path: Path, mode: Literal["r", "c"] = "r") -> np.ndarray:
    """Memory-map a .npy file read-only ('r') or copy-on-write ('c'). `ValueError` if it is not an array of numbers."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "the file does not exist", str(path))
    try:
        # With mapping, a header that declares more data than the file has is an error instead of an allocation.
        found = np.load(path, mmap_mode=mode, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy's header parser lets errors of the tokenizer and others through
        raise ValueError(f"it is not an array that can be read safely ({first_line(error).rstrip('.')})") from error
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("it contains an archive, expected one array")
    if found.dtype.kind not in "biuf":
        raise ValueError(f"it contains {found.dtype}, expected numbers")
    return found


def stored_scores(cache: Path, artifacts: Mapping[str, str], name: str) -> np.ndarray | None:
    """The scores named in a record's `artifacts`, shape (N,), higher = more OOD; None if missing or not finite."""
    try:
        scores = load_array(cache / artifacts[name])
    except (KeyError, OSError, ValueError):
        return None
    return scores if scores.ndim == 1 and np.isfinite(scores).all() else None
