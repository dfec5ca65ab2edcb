"""The code in the documentation runs: plug-ins keep the contract and serve in a run, scripts run, suites are read."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from oodbench.benchmark.plan.suite_file import default_suite, read_suite
from oodbench.benchmark.plugins.specs import create, parse_spec
from tests.docs.pages import PAGES, Block, blocks, shell_commands
from tests.support import bench, encode_image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLUGINS = {
    "guides/add_a_detector.md": {"my_detector.py": "margin", "class_means.py": "class_means", "shift.py": "shift"},
    "guides/add_a_recipe.md": {
        "label_smoothing.py": "label_smoothing",
        "my_exposure.py": "my_exposure oe",
        "expected_loss.py": "expected_loss",
        "to_a_point.py": "to_a_point",
        "class_mean_head.py": "class_mean_head",
    },
    "guides/add_a_dataset.md": {"squares.py": "squares", "pets.py": "pets", "noisy.py": "noisy"},
    "guides/add_a_backbone.md": {"tiny_net.py": "tiny_net"},
    "guides/figures.md": {"my_figures.py": "mine"},
}
"""Page -> file of a block -> the names that it registers."""

UNTRAINED = "check_oriented: it reads outputs of its recipe's network, which is not trained here"
"""How the line of the one check ends that is skipped for detectors of named outputs."""

SCRIPTS = {
    "quickstart.md": 2,
    "guides/add_a_detector.md": 1,
    "guides/into_service.md": 2,
    "guides/leaderboard.md": 1,
    "guides/tables_for_papers.md": 1,
    "guides/your_own_network.md": 3,
    "reference/api.md": 1,
}
"""Page -> number of blocks of Python that are no plug-ins."""

NOTEBOOKS = {"guides/arrays_in_python.md": 9, "guides/plots.md": 4, "guides/zero_shot.md": 3}
"""Page -> number of blocks of Python that run in order, as the cells of a notebook do."""

SUITES = {"reference/suite_file.md": 1}
"""Page -> number of suite files."""

LANGUAGES = {"", "bash", "bibtex", "dockerfile", "python", "text", "toml"}

FILES = [(page, file) for page, files in PLUGINS.items() for file in files]

RUN_FILES = [
    pytest.param(page, file, marks=[pytest.mark.slow] if k else [])
    for page, files in PLUGINS.items()
    for k, file in enumerate(files)
]
"""The commands of the first plug-in of a page run by default; those of others in the slow tests."""


def code(page: str, language: str = "python") -> list[Block]:
    return [block for block in blocks(page) if block.language == language]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_tested(page: str) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES
    files = [block.file for block in code(page) if block.file in PLUGINS.get(page, {})]
    assert sorted(files) == sorted(PLUGINS.get(page, {}))
    assert len(code(page)) == len(files) + SCRIPTS.get(page, 0) + NOTEBOOKS.get(page, 0)
    assert sum(block.file != "" for block in code(page, "toml")) == SUITES.get(page, 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which a reader would write the files; `DIR` holds the data, and `mine.pt` weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    random = np.random.RandomState(0)
    with zipfile.ZipFile(tmp_path / "DIR" / "pets.zip", "w") as archive:
        for k in range(24):
            image = encode_image(random.randint(0, 256, (40, 48, 3)).astype(np.uint8))
            place = f"{('train', 'test')[k % 2]}/{('cat', 'dog')[k // 2 % 2]}/{k}.png"
            archive.writestr(place, image)
    network = create("backbone", parse_spec(read_suite(default_suite()).backbone)).build(10, (1, 32, 32))
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    return tmp_path


def write(page: str, file: str, folder: Path) -> Path:
    text = next(block.text for block in blocks(page) if block.file == file)
    (folder / file).write_text(text, encoding="utf-8")
    return folder / file


def output_of(*arguments: str) -> str:
    """What a command prints, if it succeeds."""
    result = bench(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("page, file", FILES)
def test_plug_ins_keep_the_contract(page: str, file: str, folder: Path) -> None:
    write(page, file, folder)
    for name in PLUGINS[page][file].split():
        lines = output_of("check", name, "--plugin", file, "--data-dir", "DIR").splitlines()
        assert lines
        assert [line for line in lines if not line.startswith("ok ") and not line.endswith(UNTRAINED)] == []


def shortened(words: list[str]) -> list[str]:
    """A command of the documentation, on few images and for one epoch."""
    if words[0] != "run":
        return words
    sets = {"--id": "digits[0-2]", "--ood": "greek"}
    missing = [word for option, value in sets.items() if option not in words for word in (option, value)]
    epochs = [] if "--checkpoint" in words else ["--epochs", "1"]
    quick = [*epochs, "--limit-train", "120", "--threads", "1", "--quiet"]
    return [*words, *missing, *quick]


@pytest.mark.usefixtures("undrawn", "one_thread")
@pytest.mark.parametrize("page, file", RUN_FILES)
@pytest.mark.slow
def test_commands_with_a_plug_in_run(page: str, file: str, folder: Path) -> None:
    write(page, file, folder)
    lines = [words for words in shell_commands(page) if file in words]
    assert lines
    for words in lines:
        assert "failed" not in output_of(*shortened(words))


@pytest.fixture
def imported() -> Iterator[list[str]]:
    """The names of modules to forget after the test."""
    names: list[str] = []
    yield names
    for name in names:
        sys.modules.pop(name, None)


def run_script(name: str, text: str, folder: Path, imported: list[str]) -> None:
    """Run a script as a module of its own, whose source can be found."""
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    imported.append(name)
    spec.loader.exec_module(sys.modules[name])


def bring_into_service(folder: Path) -> None:
    """Run the commands of the page before its scripts; images to score are in `photos`, and one beside it."""
    run, export, *scores = shell_commands("guides/into_service.md")[:4]
    output_of(*run, "--ood", "greek", "--epochs", "2", "--quiet")
    output_of(*export)
    (folder / "photos").mkdir()
    for place in ("photo.png", "photos/a.png", "photos/b.png"):
        (folder / place).write_bytes(
            encode_image(np.random.RandomState(0).randint(0, 256, (40, 48, 3)).astype(np.uint8))
        )
    for words in scores:
        assert words[0] == "score"
        assert bench(*words).exit_code in (0, 1)


def run_digits(folder: Path) -> None:
    """Make the run that the page shows."""
    output_of("run", "--detectors", "msp,odin,vim", "--id", "digits", "--epochs", "1", "--no-stability", "--quiet")


PREPARED = {
    "guides/into_service.md": bring_into_service,
    "guides/leaderboard.md": run_digits,
    "guides/tables_for_papers.md": run_digits,
}
"""Page -> what makes the files that its scripts read."""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", NOTEBOOKS)
def test_notebooks_run_and_print_what_the_page_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logged: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    compared = 0
    cells = [block for block in blocks(page) if block.language in ("python", "text")]
    for block, following in zip(cells, [*cells[1:], Block("", "")], strict=True):
        if block.language == "text":
            continue
        exec(compile(block.text, page, "exec"), names)
        printed = capsys.readouterr().out
        if following.language == "text":
            assert printed.rstrip() == following.text.rstrip()
            compared += 1
    assert compared == sum(block.language == "text" for block in cells) > 2
    assert logged == []


def test_two_files_become_a_row_of_a_paper_in_six_lines() -> None:
    (block,) = [block for block in code("guides/arrays_in_python.md") if "np.load" in block.text]
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 6
    assert "to_latex" in block.text


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn", "one_thread")
@pytest.mark.parametrize("page", SCRIPTS)
def test_scripts_run(page: str, folder: Path, imported: list[str]) -> None:
    if page in PREPARED:
        PREPARED[page](folder)
    for k, block in enumerate(block for block in code(page) if block.file not in PLUGINS.get(page, {})):
        run_script(f"docs_script_{k}", block.text, folder, imported)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn", "one_thread")
def test_weights_of_the_guide_can_be_scored(folder: Path, imported: list[str]) -> None:
    page = "guides/your_own_network.md"
    (script,) = [block for block in code(page) if block.file == "save_weights.py"]
    run_script("save_weights", script.text, folder, imported)
    (words,) = [words for words in shell_commands(page) if {"mine.pt", "torchvision:resnet18"} <= set(words)]
    assert "checkpoint[file=mine.pt]" in output_of(*words, "--threads", "1", "--quiet")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn", "one_thread")
def test_the_network_in_memory_of_the_guide_is_scored(folder: Path, imported: list[str]) -> None:
    (script,) = [block for block in code("guides/your_own_network.md") if block.file == "in_memory.py"]
    run_script("in_memory", script.text, folder, imported)
    result = sys.modules["in_memory"].result
    assert [record.status for record in result.records] == ["ok"] * 8
    assert min(record.id_accuracy for record in result.records) > 0.9
    best = {
        record.group: max(r.metrics["auroc"] for r in result.records if r.group == record.group)
        for record in result.records
    }
    assert best["far"] > best["near"] > 0.8
    assert "grey levels divided by 16" in sys.modules["in_memory"].table


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn", "one_thread")
def test_the_network_of_the_guide_is_trained(folder: Path) -> None:
    page = "guides/your_own_network.md"
    write(page, "net.py", folder)
    words, _ = [words for words in shell_commands(page) if "net.py:make" in words]
    assert "net.py:make" in output_of(*shortened(words))


@pytest.mark.parametrize("page", PAGES)
def test_toml_is_read(page: str, folder: Path) -> None:
    for block in code(page, "toml"):
        assert tomllib.loads(block.text)
        if block.file:
            assert read_suite(str(write(page, block.file, folder))).entries


@pytest.mark.usefixtures("one_thread")
def test_the_suite_of_the_reference_can_be_planned(folder: Path) -> None:
    page = "reference/suite_file.md"
    write(page, "my_suite.toml", folder)
    (words,) = [words for words in shell_commands(page) if "--dry-run" in words]
    assert "Suite my_suite: " in output_of(*words)
