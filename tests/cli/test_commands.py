"""The command line: exit codes, one-sentence errors, and what each command prints."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from oodbench.benchmark.cli import main
from oodbench.benchmark.data.image_statistics import largest_gradient
from tests.support import bench, write_suite

MATRIX = """
[[id]]
set = "digits[0-2]"
ood = [{ set = "greek", group = "near" }]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite and one finished run of it."""
    folder = tmp_path_factory.mktemp("cli")
    write_suite(folder, MATRIX, title="Tiny", backbone="small_cnn")
    result = bench_in(folder, "run", "--detectors", "msp,energy")
    assert result.exit_code == 0, result.output
    return folder


def bench_in(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run the command line in this process, on the folder's suite and results."""
    defaults: Sequence[str] = ()
    if arguments[0] == "run":
        defaults = ("--suite", str(folder / "tiny.toml"), "--threads", "1", "--results", str(folder / "results"))
    elif arguments[0] in ("table", "plot", "show", "list"):
        defaults = ("--results", str(folder / "results"))
    # Options given by the test come last and win.
    return bench(arguments[0], *defaults, *arguments[1:], env=env)


def test_run_prints_the_table_and_the_paths_of_the_files(place: Path) -> None:
    result = bench_in(place, "run", "--detectors", "msp,energy", "--quiet")
    assert result.exit_code == 0
    assert "ID set digits[0-2]" in result.output
    assert "greek (near)" in result.output
    assert "table.tex" in result.output
    assert result.stderr == ""


def test_dry_run_changes_nothing(place: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (place / "results").rglob("*")}
    result = bench_in(place, "run", "--detectors", "msp,energy,max_logit", "--dry-run")
    assert result.exit_code == 0
    assert "train        1 job, 1 cached or done, 0 to do" in result.output
    assert "score        9 jobs, 6 cached or done, 3 to do" in result.output
    assert "to do: score greek (test) with max_logit" in result.output
    assert {p: p.stat().st_mtime_ns for p in (place / "results").rglob("*")} == before


def test_a_failed_cell_gives_exit_code_one(place: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from oodbench.benchmark import Detector, detector\n"
        "@detector('test_cli_bad', title='Bad')\n"
        "class Bad(Detector):\n"
        "    def score(self, batch):\n"
        "        raise ValueError('on purpose')\n"
    )
    result = bench_in(
        place, "run", "--plugin", str(plugin), "--detectors", "msp,test_cli_bad", "--name", "bad", "--quiet"
    )
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
    "recipe without classifier": (["--detectors", "msp@gan"], "does not train a classifier"),
    "beta": (["--detectors", "msp@confidence[beta=-1]"], "beta must not be negative"),
    "beta of a detector": (["--detectors", "joint[beta=-1]"], "Write joint@joint[beta=-1]."),
    "no such setting": (["--detectors", "msp[heat=1]"], "The detector 'msp' has no settings, got 'heat'."),
    "NaN rate": (["--detectors", "msp@cross_entropy[learning_rate=nan]"], "must be a float like 0.001, got 'nan'"),
    "negative rate": (["--detectors", "msp@cross_entropy[learning_rate=-0.1]"], "must not be negative, got -0.1"),
    "another negative rate": (
        ["--detectors", "msp@joint[generator_learning_rate=-1]"],
        "must not be negative, got -1.0",
    ),
    "one class": (["--id", "digits[3]", "--ood", "greek"], "'digits[3]' has one class, and a classifier needs two"),
    "data set": (["--id", "digts"], "Unknown data set 'digts'. Did you mean 'digits'?"),
    "form": (["--id", "digits+inverte"], "Unknown form 'inverte'. Did you mean 'inverted'?"),
    "class": (["--id", "digits[0-12]"], "asks for class 12"),
    "class range": (["--id", "digits[5-2]"], "is not a class or range of classes"),
    "unlabelled ID set": (["--id", "gaussian", "--ood", "greek"], "has no train split"),
    "itself": (["--id", "digits", "--ood", "digits"], "they share images"),
    "part of itself": (["--id", "digits[0-4]", "--ood", "digits[4-9]"], "they share images"),
    "unknown pair": (["--id", "glyphs"], "has no OOD sets for 'glyphs'. Name some with --ood"),
    "suite": (["--suite", "digit"], "Unknown suite 'digit'. Did you mean 'digits'?"),
    "suite file": (["--suite", "nowhere.toml"], "cannot be read"),
    "backbone": (["--backbone", "smallcnn"], "Unknown backbone 'smallcnn'. Did you mean 'small_cnn'?"),
    "device": (["--device", "tpu"], "Unknown device 'tpu'"),
    "seeds": (["--seeds", "two"], "'two' is not a whole number or a list of them"),
    "no seed": (["--seeds", "0"], "gives no valid seeds"),
    "negative seed": (["--seeds", "-1,"], "gives no valid seeds"),
    "plug-in": (["--plugin", "nowhere.py"], "does not exist"),
    "rerun": (["--rerun", "some"], "'some' is not one of"),
    "threads": (["--threads", "-2"], "--threads"),
    "nothing": (["--detectors", ","], "Nothing to run"),
}


@pytest.mark.parametrize("options, sentence", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_gives_one_sentence_and_exit_code_two(place: Path, options: list[str], sentence: str) -> None:
    before = sorted((place / "results").rglob("*"))
    result = bench_in(place, "run", *options)
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert sorted((place / "results").rglob("*")) == before


SETS = """
import numpy as np
from oodbench.benchmark import Dataset, ImageSet, dataset

def made_of(shape, split, classes=2, low=0):
    pixels = np.random.default_rng(len(split)).integers(0, 256, (40, *shape)).astype(np.uint8)
    return ImageSet(pixels, np.arange(40) % classes + low, ("a", "b"))

@dataset("cli_grey")
class Grey(Dataset):
    classes = ("a", "b")
    def load(self, split, data_dir):
        return made_of((1, 48, 48), split)

@dataset("cli_three_labels")
class ThreeLabels(Dataset):
    classes = ("a", "b")
    def load(self, split, data_dir):
        return made_of((3, 32, 32), split, classes=3)

@dataset("cli_negative_labels")
class NegativeLabels(Dataset):
    classes = ("a", "b")
    def load(self, split, data_dir):
        return made_of((3, 32, 32), split, low=-1)
"""
UNUSABLE = {
    "size and channels for a backbone": (
        ["--id", "cli_grey", "--ood", "cli_grey+inverted", "--backbone", "vgg13"],
        "Detector 'msp' cannot run: 'cli_grey' does not fit: backbone 'vgg13' takes images of 3 channels of 32 x 32 "
        "pixels, got 48 x 48 pixels; choose another --backbone",
    ),
    "nothing else to run": (
        ["--id", "cli_grey", "--ood", "cli_grey+inverted", "--backbone", "vgg13", "--detectors", "all"],
        "Nothing to run: 'cli_grey' does not fit: backbone 'vgg13' takes images of 3 channels",
    ),
    "image shapes of ID and OOD": (
        ["--ood", "cli_grey"],
        "One network cannot process both sets: the images of 'cli_grey' have 1 channel of 48 x 48 pixels, those of "
        "'digits[0-2]' 1 channel of 32 x 32 pixels. Choose another --ood for 'digits[0-2]'.",
    ),
    "labels above": (
        ["--id", "cli_three_labels", "--ood", "greek"],
        "Data set 'cli_three_labels' has no usable train split: labels must lie in 0..1 for 2 classes, got 0..2.",
    ),
    "labels below": (["--id", "cli_negative_labels", "--ood", "greek"], "for 2 classes, got -1..0."),
    "no outliers": (["--detectors", "confidence"], "needs outliers, and the suite names none for 'digits[0-2]'."),
    "empty archive": (["--ood", "folder:{place}/void.zip"], "void.zip' contains no files; expected images"),
    "archive of no byte": (["--ood", "folder:{place}/zero.zip"], "cannot be read as a zip archive"),
    "archive that climbs": (["--ood", "folder:{place}/climb.zip"], "'../evil.png', a path that leads out of it"),
    "folder and archive of a card": (
        ["--ood", "cifar10", "--data-dir", "{place}/data"],
        "The same images exist as",
    ),
    "class folders that differ": (
        ["--id", "folder:{place}/mine", "--ood", "greek"],
        "has the class folder 'c' and lacks 'b'",
    ),
}


@pytest.fixture
def unusable(place: Path, tmp_path: Path) -> Path:
    """Files that cannot be used, and a plug-in with such data sets."""
    (tmp_path / "sets.py").write_text(SETS)
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "png")
    for name, member in (("void", ""), ("climb", "../evil.png"), ("data/cifar10-test", "cat/1.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            if member:
                archive.writestr(member, picture.getvalue())
    (tmp_path / "zero.zip").write_bytes(b"")
    for name in ("data/cifar10-test/cat", "mine/train/a", "mine/train/b", "mine/test/a", "mine/test/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(picture.getvalue())
    return tmp_path


@pytest.mark.parametrize("options, sentence", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_input_gives_one_sentence_and_nothing_is_lost(
    place: Path, unusable: Path, options: list[str], sentence: str
) -> None:
    before = {p: p.read_bytes() for p in (place / "results/runs").rglob("*") if p.is_file()}
    given = [option.format(place=unusable) for option in options]
    result = bench_in(place, "run", "--plugin", str(unusable / "sets.py"), "--detectors", "msp", *given)
    assert result.exit_code == 2, result.output
    assert sentence in " ".join(result.stderr.split())
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert {p: p.read_bytes() for p in (place / "results/runs").rglob("*") if p.is_file()} == before
    assert not (unusable.parent / "evil.png").exists()


def test_images_one_pixel_wide_have_a_gradient() -> None:
    assert largest_gradient(np.zeros((2, 3, 1, 1), np.uint8)).tolist() == [0, 0]
    assert largest_gradient(np.array([0, 7, 3], np.uint8).reshape(1, 1, 1, 3)).tolist() == [7]


def test_a_missing_cuda_device_is_an_error(place: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    result = bench_in(place, "run", "--device", "cuda")
    assert result.exit_code == 2
    assert "torch finds no CUDA device" in result.stderr


def test_a_results_folder_that_cannot_be_written_is_an_error(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    for path in (file, file / "below"):
        result = bench_in(place, "run", "--results", str(path))
        assert result.exit_code == 2
        assert "is not a folder" in result.stderr
    assert file.read_text() == "not a folder"


def test_options_come_from_the_environment(place: Path) -> None:
    environment = {"OODBENCH_SEEDS": "0,4", "OODBENCH_DETECTORS": "energy"}
    result = bench_in(place, "run", "--dry-run", env=environment)
    assert result.exit_code == 0
    assert "Suite tiny: 2 cells" in result.output
    assert "seed 4" in result.output
    assert bench_in(place, "run", env={"OODBENCH_SEEDS": "x"}).exit_code == 2


@pytest.mark.usefixtures("drawn")
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
        (["show", "glyphs"], "600 images (1, 32, 32)"),
        (["show", "glyphs"], "channels:    1 (grey)"),
        (["show", "patches"], "channels:    3 (colour)"),
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
def test_commands_print_the_expected_output(place: Path, arguments: list[str], expected: str) -> None:
    result = bench_in(place, *arguments)
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
def test_unknown_names_give_exit_code_two(place: Path, arguments: list[str], sentence: str) -> None:
    result = bench_in(place, *arguments)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr


def all_commands(group: click.Group = main, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group, with the words that call it."""
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, *path, name)
        else:
            yield (*path, name), command


@pytest.mark.parametrize("path, command", [*all_commands()])
def test_every_help_has_examples_and_explains_every_option(path: tuple[str, ...], command: click.Command) -> None:
    result = bench(*path, "--help")
    assert result.exit_code == 0
    assert " ".join(["bench", *path]) in result.output.partition("Examples:")[2]
    assert all(option.help for option in command.params if isinstance(option, click.Option))
    is_cut_off = "..." in result.output.partition("Commands:")[2]
    assert not is_cut_off


@pytest.mark.parametrize("command", ["run", "list", "show", "table", "compare", "new", "check"])
def test_the_help_shows_the_first_steps(command: str) -> None:
    assert f"bench {command} " in bench("--help").output.partition("Examples:")[2]


@pytest.mark.slow
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


def test_prune_deletes_nothing_if_a_record_is_unreadable(place: Path, tmp_path: Path) -> None:
    absent = bench("cache", "prune", "--results", str(tmp_path / "absent"))
    assert (absent.exit_code, absent.stderr.count("\n")) == (2, 1)
    assert f"The results folder '{tmp_path / 'absent'}' does not exist." in absent.stderr
    record = next((place / "results/runs/tiny/cells").iterdir())
    content = record.read_bytes()
    before = sorted((place / "results").rglob("*"))
    for damaged in (
        content[:100],
        b"[]",
        b'{"schema": 99}',
        content.replace(b'"artifacts": {', b'"artifacts": 3, "x": {'),
    ):
        record.write_bytes(damaged)
        refused = bench("cache", "prune", "--results", str(place / "results"))
        assert refused.exit_code == 2
        assert f"Nothing was deleted, because the record '{record}' cannot be read" in refused.stderr
        assert sorted((place / "results").rglob("*")) == before
    record.write_bytes(content)


def test_prune_keeps_what_runs_use(place: Path) -> None:
    assert bench_in(place, "run", "--detectors", "max_logit", "--name", "other", "--quiet").exit_code == 0
    used = json.loads(next((place / "results/runs/other/cells").iterdir()).read_text())["artifacts"]["ood_scores"]
    command = ["cache", "prune", "--results", str(place / "results")]
    assert "Deleted 0 files" in bench(*command).output
    for path in sorted((place / "results/runs/other").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert "Would delete 6 files" in bench(*command, "--dry-run").output
    assert (place / "results/cache" / used).is_file()
    assert "Deleted 6 files" in bench(*command).output
    assert not (place / "results/cache" / used).exists()
    before = bench_in(place, "table", "tiny").output
    assert bench_in(place, "run", "--detectors", "msp,energy", "--quiet").exit_code == 0
    assert bench_in(place, "table", "tiny").output == before
