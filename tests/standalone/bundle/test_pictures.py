"""Bundles of runs on pictures of their own sizes, and of rows whose settings were tuned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark import load_monitor
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.standalone.bundle.export import bundle_of
from tests.standalone.bundle.bundles import BACKBONE, TRAINING, plan_of, write_bundle
from tests.support import run_suite, write_suite


def write_photos(folder: Path, count: int, seed: int) -> None:
    """Pictures of two classes and of several sizes, some of them in grey."""
    random = np.random.RandomState(seed)
    for row in range(count):
        place = folder / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        shape = (40 + row % 5, 44 + row % 3, 3) if row % 3 else (41, 45)
        pixels = random.randint(0, 128, shape) + 100 * (row % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{row:03}.png")


def test_files_are_scored_as_the_run_scored_them(tmp_path: Path) -> None:
    for split, count in (("train", 60), ("test", 20)):
        write_photos(tmp_path / "photos" / split, count, count)
    matrix = f"""
[[id]]
set = "folder:{tmp_path / "photos"}"
ood = [{{ set = "greek" }}]
"""
    suite = write_suite(tmp_path, matrix, backbone=BACKBONE, training=TRAINING)
    run_dir = run_suite(suite, "energy,odin", resize="36", crop="32", data_dir=tmp_path).path
    for label in ("energy", "odin"):
        path = tmp_path / f"{label}.safetensors"
        found = write_bundle(run_dir, label, path)
        monitor, data = load_monitor(path), found.score.outputs.data
        images = found.context.library.part(parse_set(data.set), data.part)
        stored = found.context.store.load_array(found.score.makes[0])
        assert images.names is not None
        files = [tmp_path / "photos" / name for name in images.names]
        scores = [verdict.score for verdict in monitor.score_files(files)]
        np.testing.assert_array_equal(scores, stored)
        np.testing.assert_array_equal(monitor([Image.open(file) for file in files[:3]]).scores, stored[:3])
        np.testing.assert_array_equal(monitor.as_in_run(images.images[np.arange(len(images))]), stored)
        assert str(monitor.bundle.input.preprocessing) == "shorter side 36 bilinear, centre 32x32"
    with pytest.raises(DataError, match=r"Pass Pillow images or paths to have them resized \(shorter side 36"):
        monitor(np.zeros((40, 44, 3), np.uint8))


def test_settings_that_were_tuned_for_each_ood_set_are_refused(run_dir: Path) -> None:
    found = plan_of(run_dir, "knn")
    first, second = found.chosen.cells
    tuned = [replace(cell, tuned={"settings": {"k": k}}) for cell, k in ((first, 1), (second, 10))]
    with pytest.raises(UserError, match=r"The settings of 'knn' were chosen for each OOD set, and they differ"):
        bundle_of(replace(found, chosen=replace(found.chosen, cells=tuple(tuned))), 0.95, "include")
    alike = [replace(cell, tuned={"settings": {"k": 1}}) for cell in (first, second)]
    bundle = bundle_of(replace(found, chosen=replace(found.chosen, cells=tuple(alike))), 0.95, "include")
    assert bundle.tuned == {"settings": {"k": 1}}
