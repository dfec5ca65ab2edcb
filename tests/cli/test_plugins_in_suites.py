"""A suite file may name what only a --plugin file registers, with every option and engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark.plugins.registry import registry
from tests.support import bench, prepare_suite, run_suite, tiny_suite

PLUGIN = """
import numpy as np
from oodbench.benchmark import Dataset, Form, ImageSet, backbone, dataset, form, recipe
from oodbench.benchmark.backbones.small_cnn import SmallCNN
from oodbench.detectors.cross_entropy import CrossEntropy

@dataset("suite_noise")
class Noise(Dataset):
    splits = ("test",)
    def load(self, split, data_dir):
        return ImageSet(np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32)).astype(np.uint8))

@form("suite_flipped")
class Flipped(Form):
    def apply(self, images):
        return images[..., ::-1].copy()

@backbone("suite_network")
class Network(SmallCNN):
    pass

@recipe("suite_recipe")
class Training(CrossEntropy):
    pass
"""

GREEK = '[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek" }]'
SUITES = {
    "data set": tiny_suite('[[id]]\nset = "digits[0-2]"\nood = [{ set = "suite_noise" }]'),
    "form": tiny_suite('[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek+suite_flipped" }]'),
    "data set for tuning": tiny_suite('[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek" }]\ntuning = "suite_noise"'),
    "backbone": tiny_suite(GREEK, backbone="suite_network[hidden=4,width=2]"),
    "recipe": tiny_suite(GREEK).replace('"cross_entropy"', '"suite_recipe"'),
}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN, encoding="utf-8")
    return file


def written(folder: Path, text: str) -> Path:
    """The file of a suite called 'tiny'."""
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", SUITES.values(), ids=SUITES.keys())
@pytest.mark.parametrize("options", [[], ["--gpus", "1"], ["--jobs", "2"]], ids=["plain", "gpus", "jobs"])
def test_a_suite_names_what_a_plugin_file_registers(
    tmp_path: Path, plugin: Path, text: str, options: list[str]
) -> None:
    suite = written(tmp_path, text)
    common: list[str | Path] = [
        "run",
        "--suite",
        suite,
        "--detectors",
        "msp",
        "--dry-run",
        "--results",
        tmp_path / "results",
        *options,
    ]
    without = bench(*common)
    assert without.exit_code == 2
    assert "suite_" in without.stderr
    result = bench(*common, "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert "Suite tiny: 1 cell," in result.output


def test_also_from_python_and_when_it_is_repeated(tmp_path: Path, plugin: Path) -> None:
    suite = written(tmp_path, SUITES["data set"])
    assert prepare_suite(suite, plugins=[plugin]).plan.cells[0].record.ood_set == "suite_noise"
    run = run_suite(suite, plugins=[plugin])
    registry._from_files.clear()
    result = bench("run", "--from", run.path / "run.json", "--dry-run")
    assert result.exit_code == 0, result.output


def test_a_missing_plugin_file_is_named_before_the_suite_is_read(tmp_path: Path) -> None:
    suite = written(tmp_path, SUITES["data set"])
    result = bench("run", "--suite", suite, "--plugin", tmp_path / "nowhere.py")
    assert result.exit_code == 2
    assert "nowhere.py' does not exist" in result.stderr
