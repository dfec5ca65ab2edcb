"""Shared by tests of bundles: a tiny run on digits, its bundles, and pictures on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.paths import cache_of
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.standalone.bundle.export import bundle_of
from oodbench.benchmark.standalone.bundle.find import Planned, choose, planned
from tests.support import run_suite, write_suite

MATRIX = """
[[id]]
set = "digits"
ood = [{ set = "greek", group = "near" }, { set = "patches", group = "far" }]
"""

TESTED_ON = 70

BACKBONE = "small_cnn[hidden=24,width=6]"
"""Small, but large enough that its features vary after two epochs."""

TRAINING = """epochs = 2
batch_size = 32

[recipes.cross_entropy]
learning_rate = 0.003"""

DETECTORS = "msp,energy,vim,react,mahalanobis,knn,gram,odin,mahalanobis_ensemble"


def digits_run(folder: Path, detectors: str = DETECTORS, **options: Any) -> Path:
    """Run detectors on digits with a tiny network; returns the run's folder."""
    suite = write_suite(folder, MATRIX, backbone=BACKBONE, training=TRAINING)
    return run_suite(suite, detectors, **{"limit_test": TESTED_ON, **options}).path


def plan_of(run_dir: Path, label: str) -> Planned:
    """The jobs behind a detector of a run."""
    return planned(choose(read_stored_run(run_dir), label), cache_of(run_dir, run_dir.parent.parent))


def write_bundle(run_dir: Path, label: str, path: Path, weights: str = "include") -> Planned:
    """Write the bundle of a detector of a run; returns the jobs behind it."""
    found = plan_of(run_dir, label)
    bundle_of(found, 0.95, weights).write(path)
    return found


def test_images(found: Planned) -> np.ndarray:
    """The ID test images that a run scored."""
    data = found.score.outputs.data
    images = found.context.library.part(parse_set(data.set), data.part, data.limit).images
    assert isinstance(images, np.ndarray)
    return images


test_images.__test__ = False  # type: ignore[attr-defined]


def save_pictures(folder: Path, name: str, count: int) -> list[Path]:
    """Write the first test images of a data set as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    images = Library(folder).part(parse_set(name), "test").images
    paths = []
    for row in range(count):
        image = images[row]
        paths.append(folder / f"{name}-{row:03}.png")
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(paths[-1])
    return paths
