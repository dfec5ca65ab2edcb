"""Plug-ins that raise while a run is planned: one sentence, exit code 2, or the cells that need them are left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import bench, run_suite, write_suite

SUITE = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }, { set = "greek+test_bad" }]
"""
PLUGINS = """
import numpy as np
from oodbench.benchmark import Backbone, Dataset, Detector, Form, ImageSet, backbone, dataset, detector, form
from oodbench.benchmark.backbones.small_cnn import SmallCNN

@form("test_bad")
class BadForm(Form):
    def apply(self, images):
        return {apply}

@detector("test_bad")
class Bad(Detector):
    scale: float = 1.0
    grid = {{"scale": (1.0, 0.0)}}

    def __post_init__(self):
        1 / self.scale

    def refuses(self, network):
        return {refuses}

    def passes_for(self, blocks):
        return {passes}

    def score(self, batch):
        return -batch.logits.amax(dim=1)

@backbone("test_bad")
class BadBackbone(SmallCNN):
    hidden: int = 4
    width: int = 2

    def refuses(self, image_shape):
        return {fits}

    def build(self, num_classes, image_shape):
        return super().build({classes}, image_shape)

@dataset("test_bad")
class BadSet(Dataset):
    splits = ("test",)

    def missing(self, data_dir):
        return {missing}

    def load(self, split, data_dir):
        return ImageSet(np.zeros((9, 3, 32, 32), dtype=np.uint8))
"""
GOOD = {"apply": "images[:, ::-1]", "refuses": "None", "passes": "0", "fits": "None", "missing": "None"}
GOOD |= {"classes": "num_classes"}
OOD = ("--ood", "greek+test_bad")
IN_FORM = "for the images of 'greek'; apply() must return uint8 (600, "
CANNOT = "Form 'test_bad' cannot be applied to 'greek', whose images have "


def plugin(folder: Path, **bad: str) -> Path:
    path = folder / "bad.py"
    path.write_text(PLUGINS.format(**{**GOOD, **bad}))
    return path


CASES: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "a form": ({"apply": "images / {}"}, OOD, CANNOT),
    "a form that sees no memory": ({"apply": "np.empty(1 << 50)"}, OOD, CANNOT),
    "a form that makes floats": ({"apply": "images / 255"}, OOD, IN_FORM),
    "a form that drops images": ({"apply": "images[1:]"}, OOD, IN_FORM),
    "a form that returns nothing": ({"apply": "None"}, OOD, IN_FORM),
    "a detector": (
        {"refuses": "network.no_such_part"},
        ("--detectors", "test_bad"),
        "Detector 'test_bad' cannot run: refuses() of detector 'test_bad' failed: AttributeError: ",
    ),
    "a detector's passes": (
        {"passes": "{}[blocks]"},
        ("--detectors", "test_bad"),
        "Detector 'test_bad' cannot run: passes_for() of detector 'test_bad' failed: KeyError: 0.",
    ),
    "a detector's grid": (
        {},
        ("--detectors", "test_bad", "--protocol", "leave_one_out", "--ood", "greek,glyphs"),
        "Detector 'test_bad' cannot run: The grid of detector 'test_bad' has settings that the detector refuses, "
        "test_bad[scale=0.0]: float division by zero.",
    ),
    "a backbone's check": (
        {"fits": "image_shape[7]"},
        ("--backbone", "test_bad"),
        "refuses() of backbone 'test_bad' failed: IndexError: tuple index out of range.",
    ),
    "a backbone": (
        {"classes": "{}[num_classes]"},
        ("--backbone", "test_bad", "--detectors", "knn,gram"),
        "build() of backbone 'test_bad' failed: KeyError: 2.",
    ),
    "a data set": (
        {"missing": "data_dir + 1"},
        ("--ood", "test_bad"),
        "missing() of data set 'test_bad' failed: TypeError: ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_raises_while_planning_is_one_sentence(tmp_path: Path, case: str) -> None:
    bad, options, sentence = CASES[case]
    given = {"--ood": "greek", "--detectors": "msp", **dict(zip(options[::2], options[1::2], strict=True))}
    command = ["run", "--suite", write_suite(tmp_path, SUITE), "--plugin", plugin(tmp_path, **bad), "--dry-run"]
    done = bench(*command, *(text for pair in given.items() for text in pair), "--results", tmp_path / "results")
    assert (done.exit_code, "Traceback" in done.output) == (2, False), done.output
    assert sentence in " ".join(done.stderr.split())


def test_of_a_whole_suite_only_what_needs_the_plugin_is_left_out(tmp_path: Path) -> None:
    suite, file = write_suite(tmp_path, SUITE), plugin(tmp_path, apply="images / {}")
    run = run_suite(suite, "msp", plugins=[file])
    assert [(record.ood_set, record.status) for record in run.records] == [("greek", "ok")]
    [skipped] = run.info["skipped"]
    assert skipped["what"] == "greek+test_bad"
    assert skipped["reason"].startswith(CANNOT)
    run = run_suite(suite, "msp", plugins=[plugin(tmp_path)])
    assert [(record.ood_set, record.status) for record in run.records] == [("greek", "ok"), ("greek+test_bad", "ok")]
