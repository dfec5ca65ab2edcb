"""`bench new`: the files it writes keep the contract and run as they are; wrong arguments are refused."""

from __future__ import annotations

import configparser
import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pytest
from click.testing import Result

from oodbench.benchmark.plugins.registry import registry
from tests.support import bench, csv_rows, write_suite

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("detector", "recipe", "dataset", "backbone")
MATRIX = '[[id]]\nset = "digits[0-2]"\nood = [{ set = "greek", group = "near" }]\n'
PACKAGE_FILES = [
    "README.md",
    "pyproject.toml",
    "src/oodbench_my_{kind}/__init__.py",
    "src/oodbench_my_{kind}/{kind}.py",
    "tests/test_my_{kind}.py",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new folder as the current one."""
    current = tmp_path / "current"
    current.mkdir()
    monkeypatch.chdir(current)
    return current


@pytest.fixture
def suite(tmp_path: Path, undrawn: None) -> Path:
    return write_suite(tmp_path, MATRIX)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Make a package importable in this process, with the files that pip would install."""

    def install_package(package: Path) -> None:
        project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
        site = tmp_path / "site"
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(metadata)
        lines = []
        for group, points in project["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.syspath_prepend(str(package / "src"))
        registry.refresh()

    yield install_package
    for name in [name for name in sys.modules if name.startswith("oodbench_my")]:
        del sys.modules[name]
    registry.refresh()


def new(*arguments: str) -> Result:
    result = bench("new", *arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str) -> str:
    """The sentence with which a command is refused."""
    result = bench("new", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip("\n")


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def all_ok(result: Result, kind: str, name: str) -> None:
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines
    assert {tuple(line.split()[:3]) for line in lines} == {("ok", kind, f"{name}:")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_keeps_the_contract_as_written(kind: str, folder: Path) -> None:
    new(kind, f"my_{kind}")
    assert files_of(folder) == [f"my_{kind}.py"]
    all_ok(bench("check", f"my_{kind}", "--plugin", f"my_{kind}.py"), kind, f"my_{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_it_prints_work(kind: str, suite: Path, folder: Path) -> None:
    """The printed commands are those in the file, and they run."""
    printed = new(kind, f"my_{kind}").stdout.splitlines()
    assert printed[0] == f"Wrote my_{kind}.py. Next steps:"
    check, run = (line.strip() for line in printed[1:])
    text = (folder / f"my_{kind}.py").read_text()
    assert f"    {check}\n    {run}\n" in text
    all_ok(bench(*check.split()[1:]), kind, f"my_{kind}")
    done = bench(*run.split()[1:], "--suite", str(suite), "--threads", "1", "--quiet")
    assert done.exit_code == 0, done.output
    rows = csv_rows((folder / "results/runs/tiny/records.csv").read_text())
    assert rows
    assert {row["status"] for row in rows} == {"ok"}
    used = {word for row in rows for column in ("detector", "recipe", "ood_set", "backbone") for word in [row[column]]}
    assert f"my_{kind}" in used


def test_classifiers_are_trained_on_the_data_set(suite: Path, folder: Path) -> None:
    new("dataset", "mine")
    command = ["run", "--plugin", "mine.py", "--id", "mine", "--ood", "greek", "--detectors", "msp", "--quiet"]
    done = bench(*command, "--suite", str(suite), "--threads", "1")
    assert done.exit_code == 0, done.output
    assert "ID set mine" in done.stdout


def test_the_commented_data_set_reads_a_file(folder: Path) -> None:
    import numpy as np

    new("dataset", "mine")
    text = (folder / "mine.py").read_text()
    commented = re.search(r"    #     def missing.*?\n\n", text, re.DOTALL)
    assert commented is not None
    live = re.sub(r"(?m)^    # ?(    )?", "    ", commented[0])
    (folder / "mine.py").write_text(text.replace(commented[0], "").partition("    def load(")[0] + live)
    check = ("check", "mine", "--plugin", "mine.py")
    assert "skipped  dataset mine: check_dataset: 'data/mine.npz' is missing" in bench(*check).stdout.replace("\\", "/")
    images = np.random.RandomState(0).randint(0, 256, (6, 3, 8, 8)).astype(np.uint8)
    (folder / "data").mkdir()
    np.savez(
        folder / "data" / "mine.npz",
        train_images=images[:4],
        train_labels=np.arange(4) % 2,
        test_images=images[4:],
        test_labels=np.arange(2),
    )
    all_ok(bench(*check), "dataset", "mine")


@pytest.mark.parametrize(
    "kind, setting", [("detector", "power=0"), ("recipe", "smoothing=1.5"), ("backbone", "width=0")]
)
def test_invalid_settings_give_one_sentence(kind: str, setting: str, suite: Path, folder: Path) -> None:
    new(kind, "mine")
    spec = f"mine[{setting}]"
    asked = {
        "detector": ["--detectors", spec],
        "recipe": ["--detectors", f"msp@{spec}"],
        "backbone": ["--backbone", spec],
    }
    done = bench("run", "--plugin", "mine.py", "--suite", str(suite), *asked[kind])
    assert done.exit_code == 2, done.output
    assert f"The {kind} '" in done.stderr
    assert f"{setting.partition('=')[0]} must be at least" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_package_is_found_and_keeps_the_contract(kind: str, folder: Path, install: Callable[[Path], None]) -> None:
    printed = new(kind, f"my_{kind}", "--package").stdout
    assert printed.startswith(f"Wrote my_{kind}. Next steps:\n  pip install -e my_{kind}\n  bench check my_{kind}\n")
    assert files_of(folder / f"my_{kind}") == [file.format(kind=kind) for file in PACKAGE_FILES]
    install(folder / f"my_{kind}")
    listed = {line.split()[0]: line for line in bench("list", f"{kind}s").stdout.splitlines()}
    assert listed[f"my_{kind}"].endswith(f"My {kind} (package oodbench-my-{kind} 0.1.0)")
    all_ok(bench("check", f"my_{kind}"), kind, f"my_{kind}")
    assert f"taken by package oodbench-my-{kind} 0.1.0" in refused(kind, f"my_{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_readme_names_the_three_commands(kind: str, folder: Path) -> None:
    printed = new(kind, "mine", "--package").stdout.splitlines()
    readme = (folder / "mine" / "README.md").read_text()
    assert f"pip install -e '.[test]'\n{printed[2].strip()}\n{printed[3].strip()}\n" in readme
    for path in re.findall(r"^- `(.*?)`", readme, re.MULTILINE):
        assert (folder / "mine" / path).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_package_installs_and_passes_its_own_tests(kind: str, folder: Path, tmp_path: Path) -> None:
    """As its author would: pip install, then the command line and pytest, each in its own process."""
    new(kind, "my.own-thing", "--package")
    source, site = folder / "my.own-thing", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--target", str(site), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)

    def python(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, env=environment, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "(package oodbench-my-own-thing 0.1.0)" in python("oodbench.benchmark", "list", f"{kind}s")
    checked = python("oodbench.benchmark", "check", "my.own-thing").splitlines()
    assert {line.split()[0] for line in checked} == {"ok"}
    assert re.search(r"[2-9] passed", python("pytest", "-p", "no:cacheprovider"))


@pytest.mark.parametrize("kind", KINDS)
def test_its_test_fails_if_the_contract_is_broken(kind: str, folder: Path, install: Callable[[Path], None]) -> None:
    new(kind, f"my_{kind}", "--package")
    package = folder / f"my_{kind}"
    break_it = {
        "detector": ("return distances", "return -distances"),
        "recipe": ("optimizer.step()", "pass"),
        "dataset": ('"test": 2}', '"test": 1}'),
        "backbone": ("self.head(self.features(images))", "2 * self.head(self.features(images))"),
    }[kind]
    plugin = package / "src" / f"oodbench_my_{kind}" / f"{kind}.py"
    text = plugin.read_text()
    assert break_it[0] in text
    plugin.write_text(text.replace(*break_it))
    install(package)
    file = package / "tests" / f"test_my_{kind}.py"
    module = runpy.run_path(str(file))
    with pytest.raises(AssertionError):
        module["test_it_keeps_the_contract"]()


@pytest.mark.parametrize(
    "name, module, cls",
    [
        ("my-own.one", "my_own_one", "MyOwnOneDetector"),
        ("2nd", "plugin_2nd", "Plugin2ndDetector"),
        ("class", "plugin_class", "PluginClassDetector"),  # a keyword
        ("signal", "plugin_signal", "PluginSignalDetector"),  # a file of this name would shadow the standard library
        ("numpy", "plugin_numpy", "PluginNumpyDetector"),
        ("batch", "batch", "BatchDetector"),  # not Batch, which the file imports
        ("detector", "detector", "DetectorDetector"),
        ("a__b-", "a__b_", "ABDetector"),
    ],
)
def test_names_become_names_of_modules_and_classes(name: str, module: str, cls: str, folder: Path) -> None:
    new("detector", name)
    assert files_of(folder) == [f"{module}.py"]
    text = (folder / f"{module}.py").read_text()
    assert f"\nclass {cls}(Detector):\n" in text
    assert f'@detector("{name}", ' in text
    assert registry.load_file(folder / f"{module}.py") == [("detector", name)]


@pytest.mark.parametrize("name", ["my-own.one", "2nd", "class", "numpy", "a__b-"])
def test_names_become_names_of_packages(name: str, folder: Path, install: Callable[[Path], None]) -> None:
    new("detector", name, "--package")
    project = tomllib.loads((folder / name / "pyproject.toml").read_text())["project"]
    # The rule of packaging.python.org, "Names and normalization".
    assert re.fullmatch(r"[a-z0-9]|[a-z0-9][a-z0-9._-]*[a-z0-9]", project["name"])
    (value,) = project["entry-points"]["oodbench.detectors"].values()
    assert all(part.isidentifier() for part in re.split("[.:]", value))
    assert len(list((folder / name / "tests").glob("test_*.py"))) == 1


@pytest.mark.parametrize("name", ["", "My_Detector", "my detector", "_mine", "../mine", "a/b", "mine[x=1]", "é", "all"])
@pytest.mark.parametrize("package", [(), ("--package",)])
def test_bad_names_are_refused(name: str, package: tuple[str, ...], folder: Path) -> None:
    sentence = refused("detector", name, *package)
    assert sentence.startswith(f"'{name}' cannot name a detector: use lower-case letters, digits, ")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "kind, name, owner",
    [
        ("detector", "msp", "oodbench.detectors.msp"),
        ("recipe", "joint", "oodbench.detectors.joint"),
        ("dataset", "digits", "oodbench.datasets.digits"),
        ("backbone", "small_cnn", "oodbench.benchmark.backbones.small_cnn"),
    ],
)
def test_taken_names_are_refused(kind: str, name: str, owner: str, folder: Path) -> None:
    expected = f"The {kind} name '{name}' is taken by {owner}. Choose another; 'bench list {kind}s' shows all"
    assert refused(kind, name).startswith(expected)
    assert list(folder.iterdir()) == []


def test_existing_files_are_not_changed(folder: Path) -> None:
    (folder / "mine.py").write_text("mine")
    (folder / "other").mkdir()
    (folder / "lost.py").symlink_to("nowhere.py")
    assert refused("detector", "mine").startswith("'mine.py' already exists and was not changed.")
    assert refused("detector", "other", "--package").startswith("'other' already exists and was not changed.")
    assert refused("detector", "lost").startswith("'lost.py' already exists and was not changed.")
    assert files_of(folder) == ["mine.py"]
    assert (folder / "mine.py").read_text() == "mine"
    assert list((folder / "other").iterdir()) == []
    new("detector", "mine", "--package")  # a file mine.py does not prevent a folder mine
    refused("detector", "mine", "--package")


def test_folders_are_created_and_named_in_the_commands(folder: Path) -> None:
    printed = new("detector", "mine", "--folder", "new folder/inside").stdout
    file = Path("new folder/inside/mine.py")
    assert files_of(folder) == [file.as_posix()]
    assert f"bench check mine --plugin '{file}'\n" in printed
    new("detector", "mine", "--package", "--folder", "packages")
    assert (folder / "packages" / "mine" / "pyproject.toml").is_file()


def test_folders_that_cannot_be_used_are_refused(folder: Path) -> None:
    (folder / "file").write_text("")
    for package in ((), ("--package",)):
        for where in ("file", "file/below"):
            sentence = refused("detector", "mine", "--folder", where, *package)
            assert re.fullmatch(rf"The folder '{where}' cannot be used: .+\. Choose another --folder\.", sentence)
    assert files_of(folder) == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folders_without_permission_are_refused(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o500)
    assert "cannot be written: Permission denied" in refused("detector", "mine", "--folder", "closed")
    assert "cannot be used: Permission denied" in refused("detector", "mine", "--folder", "closed/below")


@pytest.mark.parametrize("arguments", [("detector", "mine"), ("detector", "mine", "--package")])
def test_nothing_is_left_if_the_disk_is_full(
    arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    really = Path.open

    def opened(path: Path, mode: str = "r", **options: Any) -> IO[Any]:
        if mode != "x":
            return really(path, mode, **options)
        path.touch(exist_ok=False)
        return Full() if path.suffix == ".py" else io.StringIO()

    monkeypatch.setattr(Path, "open", opened)
    assert "cannot be written: No space left on device. Choose another" in refused(*arguments)
    assert list(folder.iterdir()) == []


def test_names_too_long_for_a_file_are_refused(folder: Path) -> None:
    assert "cannot be written: File name too long. Choose another name" in refused("detector", "a" * 300)
    assert "cannot be written: File name too long. Choose another name" in refused("detector", "a" * 300, "--package")
    assert list(folder.iterdir()) == []


def test_an_unknown_kind_is_an_error_that_names_the_kinds() -> None:
    result = bench("new", "suite", "mine")
    assert result.exit_code == 2
    assert "'suite' is not one of 'detector', 'recipe', 'dataset', 'backbone'" in result.stderr


def test_the_help_has_examples() -> None:
    assert "bench new detector my_detector" in bench("new", "--help").output.partition("Examples:")[2]


@pytest.mark.parametrize("package", [(), ("--package",)])
def test_nothing_heavy_is_imported(package: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom oodbench.benchmark.cli import main\n"
        f"main(['new', 'detector', 'mine', *{package!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_every_template_is_shipped() -> None:
    """setup.cfg declares each as package data; test_packaging.py holds a built wheel against the tracked files."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = [pattern.strip() for pattern in config["options.package_data"]["oodbench.benchmark.cli"].split(",")]
    shipped = resources.files("oodbench.benchmark.cli") / "templates"
    templates = sorted(file.name for file in shipped.iterdir())
    assert {f"{kind}.py.txt" for kind in KINDS} | {f"test_{kind}.py.txt" for kind in KINDS} < set(templates)
    for name in templates:
        assert any(PurePosixPath("templates", name).match(pattern) for pattern in patterns), name
        assert not name.endswith((".py", ".md")), f"{name} would be taken for a module or a document of ours"


def test_no_placeholder_is_left(folder: Path) -> None:
    for kind in KINDS:
        new(kind, f"my_{kind}")
        new(kind, f"my_{kind}", "--package")
    for file in files_of(folder):
        assert "$" not in (folder / file).read_text(), file


def test_the_files_are_tidy(folder: Path) -> None:
    """By the ruff rules of this repository, as a project outside it."""
    pytest.importorskip("ruff", reason="pip install -e '.[dev]' brings ruff")
    for kind in KINDS:
        new(kind, f"my_{kind}_of_some_length", "--folder", "files")
        new(kind, f"my_{kind}", "--package")
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    options = ["--isolated", "--no-cache", "--line-length", "120", "--target-version", "py310", "."]
    chosen = ["--select", ",".join(rules["select"]), "--ignore", ",".join(rules["ignore"])]
    for project in sorted(folder.iterdir()):
        for command in (["check", *chosen], ["format", "--check"]):
            ruff = [sys.executable, "-m", "ruff", *command, *options]
            done = subprocess.run(ruff, cwd=project, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_files_are_typed(folder: Path) -> None:
    pytest.importorskip("mypy", reason="pip install -e '.[dev]' brings mypy")
    for kind in KINDS:
        new(kind, f"my_{kind}")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--follow-imports",
        "silent",
    ]
    done = subprocess.run([*command, *files_of(folder)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
