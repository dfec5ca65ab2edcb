"""`patches` are crops of the photographs that dependencies ship, and a photograph that is not there is said to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark import DataError
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.datasets import _pixels, patches
from oodbench.datasets.patches import PHOTOGRAPHS, Patches
from tests.support import bench

NOWHERE = Path("/nowhere")


def photograph(name: str) -> np.ndarray:
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_image

    if name == "grace_hopper.jpg":
        return np.asarray(Image.open(get_sample_data(name, asfileobj=False)))
    pixels: np.ndarray = load_sample_image(name)
    return pixels


@pytest.mark.parametrize(
    "name, first, across, row, column",
    [("china.jpg", 0, 20, 0, 19), ("flower.jpg", 260, 20, 1, 3), ("grace_hopper.jpg", 520, 16, 17, 15)],
)
def test_crops_are_those_of_the_photographs(name: str, first: int, across: int, row: int, column: int) -> None:
    crop = Patches().load("test", NOWHERE).images[first + across * row + column].transpose(1, 2, 0)
    top, left = 32 * row, 32 * column
    assert np.array_equal(crop, photograph(name)[top : top + 32, left : left + 32])


def test_every_photograph_is_a_group() -> None:
    groups = Patches().load("test", NOWHERE).groups
    assert groups is not None
    assert list(np.bincount(groups)) == [13 * 20, 13 * 20, 18 * 16]


def test_the_card_says_how_many_photographs_there_are() -> None:
    assert len(PHOTOGRAPHS) == 3
    assert "three photographs" in Patches.title
    assert Patches.caveats.startswith("Three photographs")
    assert all(Path(one.name).name in Patches.licence and Path(one.name).name in Patches.origin for one in PHOTOGRAPHS)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("damage", ["absent", "exchanged"])
def test_a_photograph_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, damage: str
) -> None:
    lacking = PHOTOGRAPHS[number]
    other = tmp_path / "other.jpg"
    other.write_bytes(b"not a photograph")

    def find_others(package: str, name: str) -> Path | None:
        if name != lacking.name:
            return _pixels.package_file(package, name)
        return None if damage == "absent" else other

    monkeypatch.setattr(patches, "package_file", find_others)
    missing = Patches().missing(NOWHERE)
    assert missing is not None
    assert missing.endswith(f"Install {lacking.distribution} from PyPI.")
    if damage == "absent":
        assert f"The photograph '{lacking.name}' is not in the installed {lacking.distribution}" in missing
    else:
        assert f"The photograph '{other}' is not the one" in missing
    with pytest.raises(DataError, match=r"^The photograph '.*' is not "):
        Library(NOWHERE).split(parse_set("patches"), "test")


def test_finding_the_photographs_imports_neither_package() -> None:
    import subprocess
    import sys

    script = (
        "import sys; from pathlib import Path; from oodbench.datasets.patches import Patches; "
        "assert Patches().missing(Path('.')) is None; assert len(Patches().load('test', Path('.'))) == 808; "
        "print(sorted({'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_a_photograph_the_default_run_skips_the_set_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(patches, "package_file", lambda package, name: None)
    reason = "The photograph 'datasets/images/china.jpg' is not in the installed scikit-learn"
    planned = bench("run", "--id", "digits", "--detectors", "msp", "--dry-run", "--results", tmp_path)
    assert planned.exit_code == 0, planned.output
    assert reason in " ".join(planned.output.split())
    asked_for = bench("run", "--id", "digits", "--ood", "patches", "--detectors", "msp", "--results", tmp_path)
    assert asked_for.exit_code == 2
    assert reason in " ".join(asked_for.output.split())
