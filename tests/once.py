"""What hundreds of tests would compute from the same content is computed once in a process of the tests.

Every tiny run has a results folder of its own, in which nothing is known yet: the built-in sets would be drawn,
measured and compared with each other again. All of it follows from the content alone, by which it is remembered.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark import ImageSet
from oodbench.benchmark.data import image_statistics, library, pixel_baseline
from oodbench.benchmark.data.duplicates import CachedDuplicates
from oodbench.benchmark.data.pixel_baseline import CachedBaselines
from oodbench.benchmark.plugins.dataset import Dataset


def computed_once(patch: pytest.MonkeyPatch) -> None:
    """Remember sets that no file is read for, statistics and baselines of images, and counts of copies.

    Files are not flushed to the disk: power does not fail in a test, and what is flushed when is tested in
    tests/store/test_atomic.py.
    """
    patch.setattr(os, "fsync", lambda handle: None)
    patch.setattr(library, "_load_split", _loads_once(library._load_split))
    patch.setattr(pixel_baseline, "statistics", _by_content(image_statistics.statistics))
    patch.setattr(CachedDuplicates, "_count", _counts_once(CachedDuplicates._count))
    patch.setattr(CachedDuplicates, "_count_exact", _counts_once(CachedDuplicates._count_exact))
    patch.setattr(CachedBaselines, "_measured", _measured_once(CachedBaselines._measured))


def _loads_once(load: Callable[[Dataset, str, Path], ImageSet]) -> Callable[[Dataset, str, Path], ImageSet]:
    known: dict[tuple[Any, str], ImageSet] = {}

    def found(card: Dataset, split: str, data_dir: Path) -> ImageSet:
        if not type(card).load.__module__.startswith("oodbench.datasets."):
            return load(card, split, data_dir)
        key = type(card).load, split  # a test may replace the function
        if key not in known:
            known[key] = load(card, split, data_dir)
        return known[key]

    return found


def _by_content(measure: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    known: dict[tuple[Any, ...], Any] = {}

    def found(images: np.ndarray) -> Any:
        key = images.shape, hashlib.sha256(np.ascontiguousarray(images).data).digest()
        if key not in known:
            known[key] = measure(images)
        return dict(known[key])

    return found


def _counts_once(count: Callable[[CachedDuplicates, ImageSet, ImageSet, int], int]) -> Callable[..., int]:
    known: dict[tuple[str, str, int], int] = {}

    def found(self: CachedDuplicates, seen: ImageSet, tested: ImageSet, channels: int) -> int:
        key = seen.checksum, tested.checksum, channels
        if key not in known:
            known[key] = count(self, seen, tested, channels)
        return known[key]

    return found


def _measured_once(measure: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def found(self: CachedBaselines, training: ImageSet | None, id_set: ImageSet, ood_set: ImageSet) -> dict[str, Any]:
        key = tuple(images.checksum if images else "none" for images in (training, id_set, ood_set))
        if key not in known:
            known[key] = measure(self, training, id_set, ood_set)
        return copy.deepcopy(known[key])

    return found
