"""The folder mapping of setup.cfg and what depends on it."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")


def folders() -> dict[str, Path]:
    """Package name -> folder, from setup.cfg."""
    lines = CONFIG["options"]["package_dir"].split("\n")
    return {name.strip(): ROOT / path.strip() for name, path in (line.split("=") for line in lines if line)}


def test_plugin_folders_hide_no_other_package() -> None:
    for name in ("detectors", "datasets", "figures"):
        assert not (ROOT / name / "__init__.py").exists(), f"with {name}/__init__.py the checkout hides PyPI's '{name}'"


def test_every_package_is_listed() -> None:
    """A forgotten sub-folder works in editable mode, but is missing from the wheel."""
    listed = set(CONFIG["options"]["packages"].split())
    found = set()
    for package, folder in folders().items():
        for module in folder.rglob("*.py"):
            inside = module.parent.relative_to(folder).parts
            if "runs" not in inside and "cache" not in inside:
                found.add(".".join((package, *inside)))
    assert found == listed


def test_typings_show_the_mapping() -> None:
    for package, folder in folders().items():
        link = ROOT / "typings" / Path(*package.split("."))
        if not link.is_symlink():
            pytest.skip("this checkout has no symbolic links; only type checkers need them")
        assert link.resolve() == folder.resolve()


@pytest.mark.slow
def test_wheel_holds_every_tracked_file(tmp_path: Path) -> None:
    """Modules and data files of the mapped folders, and nothing else."""
    pytest.importorskip("build", reason="pip install -e '.[dev]' brings the package that builds wheels")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    import zipfile

    wheel = next(tmp_path.glob("*.whl"))
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("oodbench-")}
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True).stdout
    expected = set()
    for package, folder in folders().items():
        prefix = folder.relative_to(ROOT).as_posix() + "/"
        tracked = [line.removeprefix(prefix) for line in listing.splitlines() if line.startswith(prefix)]
        expected |= {f"{package.replace('.', '/')}/{name}" for name in tracked if not name.endswith(".md")}
    assert inside == expected


def test_command_line_starts_without_torch_and_numpy() -> None:
    code = "import sys, oodbench.benchmark, oodbench.benchmark.cli; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_public_api_is_what_it_says() -> None:
    import oodbench.benchmark as api

    for name in api.__all__:
        assert getattr(api, name) is not None
    with pytest.raises(AttributeError, match="exports"):
        api.nothing_of_the_kind  # noqa: B018


def test_deleting_results_and_data_deletes_nothing_of_the_package() -> None:
    """What commands write by default is deleted by habit, so no part of the package may live there."""
    from oodbench.benchmark.cli.main import main

    defaults = {"build", "dist", "site"}  # of the build tools
    commands = [main]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        for parameter in command.params:
            if {"--results", "--data-dir", "--out", "--store"} & set(parameter.opts) and parameter.default:
                defaults.add(str(parameter.default))
    assert {"results", "data"} <= defaults
    for package, folder in folders().items():
        inside = folder.relative_to(ROOT).parts
        assert inside[0] not in defaults, f"'rm -rf {inside[0]}' breaks {package}"
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if line.startswith("/")]
    for place in (*defaults, *ignored):
        assert not list((ROOT / place).rglob("*.py")) or place in ("build", "dist", "site"), place
