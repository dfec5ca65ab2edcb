"""Paths and names as users have them: '~', other scripts, a byte-order mark, an empty variable."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark import run
from oodbench.benchmark.data.files.user_folder import adopt
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.papers.published import read_reference
from oodbench.benchmark.plan.suite_file import read_suite
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.run import read_stored_run
from tests.support import bench, encode_image, write_suite

MATRIX = '[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek" }]'

PLUGIN = """
from oodbench.benchmark import Detector, detector
@detector("test_in_odd_file")
class Odd(Detector):
    def score(self, batch):
        return -batch.logits[:, 0].double()
"""

BOM = b"\xef\xbb\xbf"


# '~', which a shell does not expand in --option=~/x, nor in a variable of an .env file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_suite(tmp_path, MATRIX)
    (tmp_path / "odd.py").write_text(PLUGIN)
    return tmp_path


@pytest.mark.usefixtures("undrawn")
def test_a_tilde_is_the_home_folder_in_every_option(home: Path) -> None:
    options = ["--suite=~/tiny.toml", "--results=~/mine", "--plugin=~/odd.py", "--data-dir=~/data"]
    done = bench("run", *options, "--detectors", "msp,test_in_odd_file", "--quiet")
    assert done.exit_code == 0, done.output
    assert (home / "mine" / "runs" / "tiny" / "table.csv").is_file()
    for command in (["list", "runs"], ["table", "tiny"], ["show", "tiny"], ["cache", "prune", "--dry-run"]):
        result = bench(*command, "--results=~/mine")
        assert result.exit_code == 0, result.output
    assert bench("table", "~/mine/runs/tiny").exit_code == 0
    assert bench("table", "tiny", env={"OODBENCH_RESULTS": "~/mine"}).exit_code == 0
    assert bench("run", "--from=~/mine/runs/tiny/run.json", "--dry-run").exit_code == 0
    assert bench("new", "detector", "made", "--folder=~/plugins").exit_code == 0
    assert (home / "plugins" / "made.py").is_file()
    checkpoint = next((home / "mine" / "cache" / "checkpoint").glob("*.safetensors"))
    checkpoint.rename(home / "weights.safetensors")
    weights = bench("run", *options[:2], "--checkpoint=~/weights.safetensors", "--detectors", "msp", "--dry-run")
    assert weights.exit_code == 0, weights.output


@pytest.mark.usefixtures("undrawn")
def test_a_tilde_is_the_home_folder_in_python(home: Path) -> None:
    done = run("test_in_odd_file", suite="~/tiny.toml", results="~/mine", plugins=["~/odd.py"], threads=1)
    assert done.path == home / "mine" / "runs" / "tiny"


@pytest.mark.parametrize("option", ["--results", "--data-dir", "--plugin", "--suite", "--checkpoint", "--ood"])
def test_an_unknown_home_is_one_sentence(option: str) -> None:
    value = "folder:~no_such_user/x" if option == "--ood" else "~no_such_user/x.toml"
    result = bench("run", f"{option}={value}")
    assert result.exit_code == 2
    assert "begins with '~', but that home folder is not known" in " ".join(result.stderr.split())


# Empty variables


@pytest.mark.parametrize(
    "option, value", [("--ood", "folder:"), ("--id", "folder:"), ("--ood", "folder: "), ("--ood", "greek,folder:")]
)
def test_a_folder_without_a_path_is_not_the_working_folder(option: str, value: str, tmp_path: Path) -> None:
    result = bench("run", option, value, "--results", tmp_path)
    assert result.exit_code == 2
    assert "'folder:' names no folder." in result.stderr


@pytest.mark.parametrize("option", ["--checkpoint", "--from", "--results", "--plugin", "--suite", "--name", "--ood"])
def test_an_option_without_a_value_is_refused(option: str) -> None:
    result = bench("run", option, "")
    assert result.exit_code == 2
    assert f"{option} is empty. If a variable gives its value, is that set?" in result.stderr


# Byte-order marks


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    plain = read_suite(str(suite))
    suite.write_bytes(BOM + suite.read_bytes())
    assert read_suite(str(suite)) == plain
    reference = Path(__file__).parents[2] / "benchmark" / "papers" / "reference" / "lee2018.csv"
    if not reference.is_file():
        pytest.skip("published numbers are elsewhere")
    copy = tmp_path / "mine.csv"
    copy.write_bytes(BOM + reference.read_bytes())
    assert read_reference(str(copy)).values == read_reference("lee2018").values


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_a_suite_with_a_mark_is_read_and_repeated(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, MATRIX)
    suite.write_bytes(BOM + suite.read_bytes())
    results = tmp_path / "results"
    assert bench("run", "--suite", suite, "--results", results, "--detectors", "msp", "--quiet").exit_code == 0
    run_json = results / "runs" / "tiny" / "run.json"
    run_json.write_bytes(BOM + run_json.read_bytes())  # saved by an editor
    assert read_stored_run(run_json.parent).info["name"] == "tiny"
    suite.unlink()
    assert bench("run", "--from", run_json, "--dry-run").exit_code == 0


# Names in other scripts and encodings

ODD = {"latin": b"caf\xe9", "other script": "图片".encode(), "writing direction": b"na me\xe2\x80\xae"}


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode")
@pytest.mark.parametrize("name", ODD.values(), ids=ODD.keys())
@pytest.mark.usefixtures("undrawn")
def test_names_of_every_encoding(tmp_path: Path, name: bytes) -> None:
    text = os.fsdecode(name)
    place = tmp_path / text
    try:
        place.mkdir()
    except OSError:
        pytest.skip("the file system refuses this name")
    suite = write_suite(place, MATRIX, name=text)
    (place / f"{text}.py").write_text(PLUGIN)
    images = place / f"{text}-images"
    images.mkdir()
    for k in range(3):
        pixels = np.random.RandomState(k).randint(0, 255, (32, 32, 3)).astype(np.uint8)
        (images / f"{text}{k}.png").write_bytes(encode_image(pixels))
    results = tmp_path / "results"
    common: list[str | Path] = ["run", "--suite", suite, "--results", results, "--plugin"]
    common += [place / f"{text}.py", "--detectors", "msp,test_in_odd_file", "--ood", f"folder:{images}", "--quiet"]
    done = bench(*common)
    assert done.exit_code == 0, done.output
    for command in ("table", "show", "verify"):
        result = bench(command, text, "--results", results)
        assert result.exit_code == 0, result.output
    (folder,) = (results / "runs").iterdir()
    assert bench("run", "--from", folder / "run.json", "--plugin", place / f"{text}.py", "--dry-run").exit_code == 0


@pytest.mark.parametrize("option", ["--results", "--checkpoint"])
def test_weights_need_paths_in_utf8(tmp_path: Path, option: str) -> None:
    """The library that reads and writes weights takes no other."""
    result = bench("run", option, tmp_path / "caf\udce9.safetensors", "--detectors", "msp")
    assert result.exit_code == 2
    assert f"of {option} is not valid UTF-8, which files of weights need. Choose another path." in result.stderr


def test_folders_in_other_scripts_have_different_names(tmp_path: Path) -> None:
    names = []
    for text in ("图片", "图像", "слики"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "1.png").write_bytes(encode_image(np.zeros((32, 32, 3), np.uint8)))
        names.append(adopt(parse_set(f"folder:{tmp_path / text}")).name)
    assert len(set(names)) == 3
    with pytest.raises(UserError, match="does not exist"):
        adopt(parse_set(f"folder:{tmp_path / '不存在'}"))
