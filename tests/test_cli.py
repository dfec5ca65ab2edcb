"""The command line: exit codes, one-sentence errors, and what each command prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oodbench.benchmark.cli import main

SUITE = """
schema = 1
title = "Tiny"
[protocol]
backbone = "small_cnn"
recipe = "cross_entropy"
[training]
epochs = 1
[[id]]
set = "digits[0-2]"
ood = [{ set = "greek", group = "near" }]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite and one finished run of it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(SUITE)
    result = bench(folder, "run", "--detectors", "msp,energy")
    assert result.exit_code == 0, result.output
    return folder


def bench(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run the command line in this process, on the folder's suite and results."""
    defaults: Sequence[str] = ()
    if arguments[0] == "run":
        defaults = ("--suite", str(folder / "tiny.toml"), "--threads", "1", "--results", str(folder / "results"))
    elif arguments[0] in ("table", "plot", "show", "list"):
        defaults = ("--results", str(folder / "results"))
    # Options given by the test come last and win.
    return CliRunner().invoke(main, [arguments[0], *defaults, *arguments[1:]], env=env)


def test_run_prints_the_table_and_where_the_files_are(place: Path) -> None:
    result = bench(place, "run", "--detectors", "msp,energy", "--quiet")
    assert result.exit_code == 0
    assert "ID set digits[0-2]" in result.output
    assert "greek (near)" in result.output
    assert "table.tex" in result.output
    assert result.stderr == ""


def test_dry_run_changes_nothing(place: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (place / "results").rglob("*")}
    result = bench(place, "run", "--detectors", "msp,energy,max_logit", "--dry-run")
    assert result.exit_code == 0
    assert "train        1 jobs, 1 cached or done, 0 to do" in result.output
    assert "score        6 jobs, 4 cached or done, 2 to do" in result.output
    assert "to do: score greek (test) with max_logit" in result.output
    assert {p: p.stat().st_mtime_ns for p in (place / "results").rglob("*")} == before


def test_a_failed_cell_is_exit_code_one(place: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from oodbench.benchmark import Detector, detector\n"
        "@detector('test_cli_bad', title='Bad')\n"
        "class Bad(Detector):\n"
        "    def score(self, batch):\n"
        "        raise ValueError('on purpose')\n"
    )
    result = bench(place, "run", "--plugin", str(plugin), "--detectors", "msp,test_cli_bad", "--name", "bad", "--quiet")
    assert result.exit_code == 1
    assert "on purpose" in result.output
    assert "1 of 2 cells failed" in result.output
    assert "Traceback" not in result.output


WRONG = {
    "detector": (["--detectors", "energi"], "Unknown detector 'energi'. Did you mean 'energy'?"),
    "setting": (["--detectors", "energy[temprature=2]"], "Did you mean 'temperature'?"),
    "setting type": (["--detectors", "energy[temperature=hot]"], "must be a float like 1.0, got 'hot'"),
    "setting value": (["--detectors", "energy[temperature=-1]"], "temperature must be positive"),
    "syntax": (["--detectors", "energy[temperature"], "is not of the form"),
    "recipe": (["--detectors", "msp@joit"], "Unknown recipe 'joit'. Did you mean 'joint'?"),
    "recipe without classifier": (["--detectors", "msp@gan"], "trains no classifier"),
    "beta": (["--detectors", "msp@confidence[beta=-1]"], "beta must not be negative"),
    "data set": (["--id", "digts"], "Unknown data set 'digts'. Did you mean 'digits'?"),
    "form": (["--id", "digits+inverte"], "Unknown form 'inverte'. Did you mean 'inverted'?"),
    "class": (["--id", "digits[0-12]"], "asks for class 12"),
    "class range": (["--id", "digits[5-2]"], "no class or range of classes"),
    "unlabelled ID set": (["--id", "gaussian", "--ood", "greek"], "has no train split"),
    "itself": (["--id", "digits", "--ood", "digits"], "they share images"),
    "part of itself": (["--id", "digits[0-4]", "--ood", "digits[4-9]"], "they share images"),
    "unknown pair": (["--id", "glyphs"], "has no OOD sets for 'glyphs'. Name some with --ood"),
    "suite": (["--suite", "digit"], "Unknown suite 'digit'. Did you mean 'digits'?"),
    "suite file": (["--suite", "nowhere.toml"], "cannot be read"),
    "backbone": (["--backbone", "smallcnn"], "Unknown backbone 'smallcnn'. Did you mean 'small_cnn'?"),
    "device": (["--device", "tpu"], "Unknown device 'tpu'"),
    "seeds": (["--seeds", "two"], "'two' is no whole number or list of them"),
    "no seed": (["--seeds", "0"], "names no seed"),
    "negative seed": (["--seeds", "-1,"], "names no seed"),
    "plug-in": (["--plugin", "nowhere.py"], "does not exist"),
    "rerun": (["--rerun", "some"], "'some' is not one of"),
    "threads": (["--threads", "-2"], "--threads"),
    "nothing": (["--detectors", ","], "Nothing to run"),
}


@pytest.mark.parametrize("options, sentence", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_is_one_sentence_and_exit_code_two(place: Path, options: list[str], sentence: str) -> None:
    before = sorted((place / "results").rglob("*"))
    result = bench(place, "run", *options)
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert sorted((place / "results").rglob("*")) == before


def test_cuda_where_there_is_none(place: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    result = bench(place, "run", "--device", "cuda")
    assert result.exit_code == 2
    assert "torch sees no CUDA device" in result.stderr


def test_results_that_cannot_be_written(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    for path in (file, file / "below"):
        result = bench(place, "run", "--results", str(path))
        assert result.exit_code == 2
        assert "is no folder" in result.stderr
    assert file.read_text() == "not a folder"


def test_options_come_from_the_environment(place: Path) -> None:
    environment = {"OODBENCH_SEEDS": "0,4", "OODBENCH_DETECTORS": "energy"}
    result = bench(place, "run", "--dry-run", env=environment)
    assert result.exit_code == 0
    assert "Suite tiny: 2 cells" in result.output
    assert "seed 4" in result.output
    assert bench(place, "run", env={"OODBENCH_SEEDS": "x"}).exit_code == 2


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["list", "detectors"], " Energy\n"),
        (["list", "recipes"], "cross_entropy"),
        (["list", "datasets"], "greek"),
        (["list", "forms"], "inverted"),
        (["list", "backbones"], "small_cnn"),
        (["list", "suites"], "digits"),
        (["list", "runs"], "tiny"),
        (["show", "energy"], "temperature=1.0"),
        (["show", "joint"], "detector joint"),
        (["show", "glyphs"], "600 images (3, 32, 32)"),
        (["show", "digits"], "suite digits"),
        (["show", "small_cnn"], "width=32"),
        (["show", "inverted"], "form inverted"),
        (["show", "tiny"], "2 ok"),
        (["table", "tiny"], "ID set digits[0-2]"),
        (["table", "tiny", "--format", "csv"], "id_set,detector"),
        (["table", "tiny", "--format", "tex"], "\\begin{document}"),
        (["table", "tiny", "--format", "md"], "| `energy` |"),
        (["plot", "tiny"], "heatmap.png"),
        (["check", "msp"], "ok       detector msp: check_oriented"),
        (["cache", "prune", "--help"], "Delete the artifacts"),
    ],
)
def test_commands_print_what_they_are_for(place: Path, arguments: list[str], expected: str) -> None:
    result = bench(place, *arguments)
    assert result.exit_code == 0, result.output
    assert expected in result.output


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["show", "energi"], "Did you mean 'energy'?"),
        (["table", "tny"], "Unknown run 'tny'. Did you mean 'tiny'?"),
        (["plot", "nothing"], "Unknown run 'nothing'"),
        (["check", "mps"], "Did you mean 'msp'?"),
        (["list", "--plugin", "nowhere.py"], "does not exist"),
    ],
)
def test_wrong_names_elsewhere(place: Path, arguments: list[str], sentence: str) -> None:
    result = bench(place, *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr


@pytest.mark.parametrize("command", ["run", "list", "show", "table", "plot", "check"])
def test_every_help_has_examples(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert f"bench {command}" in result.output.partition("Examples:")[2]


def test_table_and_plot_do_not_import_torch(place: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom oodbench.benchmark.cli import main\n"
        "for command in ('table', 'plot'):\n"
        f"    main([command, 'tiny', '--results', {str(place / 'results')!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip().endswith("False")


def test_prune_keeps_what_runs_use(place: Path) -> None:
    assert bench(place, "run", "--detectors", "max_logit", "--name", "other", "--quiet").exit_code == 0
    used = json.loads(next((place / "results/runs/other/cells").iterdir()).read_text())["artifacts"]["ood_scores"]
    command = ["cache", "prune", "--results", str(place / "results")]
    assert "Deleted 0 files" in CliRunner().invoke(main, command).output
    for path in sorted((place / "results/runs/other").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert "Would delete 4 files" in CliRunner().invoke(main, [*command, "--dry-run"]).output
    assert (place / "results/cache" / used).is_file()
    assert "Deleted 4 files" in CliRunner().invoke(main, command).output
    assert not (place / "results/cache" / used).exists()
    before = bench(place, "table", "tiny").output
    assert bench(place, "run", "--detectors", "msp,energy", "--quiet").exit_code == 0
    assert bench(place, "table", "tiny").output == before
