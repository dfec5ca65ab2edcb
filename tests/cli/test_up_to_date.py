"""A command with nothing to do answers without planning, and never from what is not so any more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.cli.run import run
from oodbench.benchmark.cli.up_to_date import Said, Shortcut
from oodbench.benchmark.records import up_to_date
from oodbench.benchmark.records.run_folders import store_folder
from tests.support import draw_no_plots, write_suite

MATRIX = """
[[id]]
set = "digits[0-1]"
ood = [{ set = "greek" }]
"""

PLUGIN = '''
"""A detector of the tests."""
from oodbench.benchmark import Detector, detector


@detector("scaled_logit", title="a scaled logit")
class ScaledLogit(Detector):
    needs = frozenset({"logits"})
    depends_on = ("factor.json",)

    def score(self, batch):
        return -2.0 * batch.logits.amax(dim=1)
'''


@dataclass
class Command:
    """A command as it is typed, and the folders that it works in."""

    folder: Path
    arguments: list[str]

    def options(self, *more: str) -> tuple[dict[str, Any], tuple[Path, ...]]:
        """Its options as `bench run` has them, and the files of its plug-ins."""
        params = run.make_context("run", [*self.arguments, *more]).params
        plugins = params.pop("plugins")
        for name in ("from_run", "dry_run", "quiet", "verbose"):
            params.pop(name)
        params["stability"] = not params.pop("no_stability")
        return params, plugins

    def shortcut(self, *more: str) -> Shortcut | None:
        """As `bench run` looks at things before it plans."""
        return Shortcut.of(*self.options(*more))

    def is_known(self, *more: str) -> bool:
        """Whether it has an answer without planning."""
        shortcut = self.shortcut(*more)
        return shortcut is not None and shortcut.answer() is not None

    def planned(self, *more: str) -> tuple[Prepared, Shortcut]:
        """Plan and run it in full."""
        shortcut = self.shortcut(*more)
        assert shortcut is not None
        options, plugins = self.options(*more)
        prepared = prepare(**options, plugins=plugins)
        prepared.start()
        return prepared, shortcut

    @property
    def run_dir(self) -> Path:
        return self.folder / "results" / "runs" / "tiny"

    def scores(self) -> Path:
        """One of the artifacts of scores."""
        return sorted((store_folder(self.folder / "results", "", False) / "scores").glob("*.npy"))[0]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A finished run of two detectors, one of them the user's."""
    folder = tmp_path_factory.mktemp("up_to_date")
    suite = write_suite(folder, MATRIX)
    (folder / "data").mkdir()
    (folder / "data" / "notes.txt").write_text("data")
    (folder / "plugin.py").write_text(PLUGIN)
    (folder / "factor.json").write_text("2")
    where = ["--results", folder / "results", "--data-dir", folder / "data", "--plugin", folder / "plugin.py"]
    found = Command(folder, ["--suite", str(suite), "--detectors", "msp,scaled_logit", *map(str, where)])
    found.arguments += ["--threads", "1", "--no-stability"]
    with pytest.MonkeyPatch.context() as patch:
        draw_no_plots(patch)
        patch.setattr(up_to_date, "SETTLED", -(10**15))  # files of this test are seconds old
        found.planned()
        yield found


@pytest.fixture
def known(command: Command) -> Command:
    """The command once it has had nothing to do; tests may spoil what it works with."""
    for _ in range(2):  # what the last test spoiled is made again first
        prepared, shortcut = command.planned()
    shortcut.remember(prepared, [(30, "a warning")])
    assert command.is_known()
    return command


def edited(path: Path) -> None:
    """Another content of the same size and with the same modification time."""
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + (b" " if content[-1:] != b" " else b"\n"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


SPOILED: dict[str, Callable[[Command], object]] = {
    "source of a plug-in": lambda c: (c.folder / "plugin.py").write_text(PLUGIN.replace("-2.0", "-3.0")),
    "file that a plug-in declares": lambda c: edited(c.folder / "factor.json"),
    "suite": lambda c: edited(c.folder / "tiny.toml"),
    "data file": lambda c: edited(c.folder / "data" / "notes.txt"),
    "new data file": lambda c: (c.folder / "data" / f"new{time.time_ns()}").write_text("x"),
    "artifact removed": lambda c: c.scores().unlink(),
    "artifact": lambda c: edited(c.scores()),
    "side file removed": lambda c: c.scores().with_name(c.scores().name + ".json").unlink(),
    "record removed": lambda c: next((c.run_dir / "cells").iterdir()).unlink(),
    "record": lambda c: edited(next((c.run_dir / "cells").iterdir())),
    "another record": lambda c: (c.run_dir / "cells" / "more.json").write_text("{}"),
    "run.json": lambda c: edited(c.run_dir / "run.json"),
    "table": lambda c: (c.run_dir / "table.md").write_text("mine"),
    "table removed": lambda c: (c.run_dir / "table.csv").unlink(),
    "marker": lambda c: (c.run_dir / up_to_date.NAME).write_text("[]"),
    "marker of another form": lambda c: (c.run_dir / up_to_date.NAME).write_text('{"digest": 5, "more": 1}'),
}


BY_DEFAULT = ("source of a plug-in", "suite", "data file", "artifact removed", "record", "run.json", "table")
"""Cases that are tried by default, one of a kind; the others in the slow tests."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in BY_DEFAULT else pytest.mark.slow) for case in SPOILED]
)
def test_what_has_changed_is_planned_in_full(known: Command, case: str) -> None:
    SPOILED[case](known)
    try:
        assert not known.is_known()
    finally:
        (known.folder / "plugin.py").write_text(PLUGIN)
        (known.run_dir / "cells" / "more.json").unlink(missing_ok=True)


def test_only_the_same_command_in_the_same_surroundings_is_answered(
    known: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for more in (["--seeds", "2"], ["--epochs", "1"], ["--detectors", "msp"], ["--name", "other"], ["--add"]):
        assert not known.is_known(*more), more
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1234")
        assert not known.is_known()
    with monkeypatch.context() as patch:
        patch.setenv("SHLVL", "7")  # says where it was typed
        assert known.is_known()
    (tmp_path / "torch-99.0.dist-info").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        assert not known.is_known()
    with monkeypatch.context() as patch:
        patch.setattr(up_to_date, "_machine", lambda: ["another processor"])
        assert not known.is_known()
    with monkeypatch.context() as patch:
        patch.setattr(up_to_date, "VERSION", "0")
        assert not known.is_known()
    assert known.is_known()


def test_another_version_of_an_installed_package_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that was there before: the distribution's folder has another name, or another time."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "torch-2.0.dist-info").mkdir()
    seen = [up_to_date.Situation.of({}, tmp_path / "none").digest]
    (tmp_path / "torch-2.0.dist-info").rename(tmp_path / "torch-2.1.dist-info")
    seen.append(up_to_date.Situation.of({}, tmp_path / "none").digest)
    (tmp_path / "torch-2.1.dist-info" / "RECORD").write_text("installed again")
    seen.append(up_to_date.Situation.of({}, tmp_path / "none").digest)
    assert len(set(seen)) == 3
    assert up_to_date.Situation.of({}, tmp_path / "none").digest == seen[-1]


def test_the_source_of_the_harness_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "harness_of_the_tests"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "module.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(up_to_date, "PACKAGES", (*up_to_date.PACKAGES, package.name))
    seen = [up_to_date.Situation.of({}, tmp_path / "none").digest]
    edited(package / "inner" / "module.py")
    seen.append(up_to_date.Situation.of({}, tmp_path / "none").digest)
    (package / "inner" / "another.py").write_text("")
    seen.append(up_to_date.Situation.of({}, tmp_path / "none").digest)
    assert len(set(seen)) == 3
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "module.pyc").write_text("")
    assert up_to_date.Situation.of({}, tmp_path / "none").digest == seen[-1]


@pytest.mark.parametrize(
    "more",
    [
        ["--id", "folder:photos"], ["--ood", "digits,list:files.txt"], ["--outputs", "logits"], ["--scores", "a.csv"],
        ["--checkpoint", "a.pt"], ["--store", "s3://bucket/x"], ["--backbone", "net.py:build"], ["--rerun", "all"],
        ["--detectors", "neglabel[nouns=words.txt]"], ["--detectors", "neglabel[nouns=lists/nouns]"],
        ["--engine", "ray"], ["--plugin", "absent.py"], ["--suite", "absent.toml"],
    ],
)  # fmt: skip
def test_commands_with_files_of_the_user_always_plan(command: Command, more: list[str]) -> None:
    assert command.shortcut(*more) is None


def test_a_folder_of_too_many_files_is_not_compared(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(up_to_date, "PACKAGES", ())
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("")
    assert command.shortcut("--data-dir", str(tmp_path)) is not None
    monkeypatch.setattr(up_to_date, "MOST", 2)
    assert command.shortcut("--data-dir", str(tmp_path)) is None


def test_what_had_something_to_do_is_not_remembered(known: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = known.run_dir / up_to_date.NAME
    marker.unlink()
    known.scores().unlink()
    prepared, shortcut = known.planned()
    assert prepared.work.jobs
    shortcut.remember(prepared, [])
    assert not marker.exists()
    prepared, shortcut = known.planned()
    edited(known.folder / "data" / "notes.txt")  # while it was running
    shortcut.remember(prepared, [])
    assert not marker.exists()
    prepared, shortcut = known.planned()
    monkeypatch.setattr(up_to_date, "SETTLED", 10**15)  # everything has changed within it
    shortcut.remember(prepared, [])
    assert not marker.exists()


def test_it_says_what_it_said(known: Command) -> None:
    shortcut = known.shortcut()
    assert shortcut is not None
    folder, marker = shortcut.answer() or (None, None)
    assert folder == known.run_dir
    assert marker is not None
    said = Said.of_text(marker.text)
    assert said.messages == [[30, "a warning"]]
    assert said.dry_run.startswith("Suite tiny: 2 cells, 2 of them done.")


@pytest.mark.slow  # seven processes, four of which plan
def test_the_command_line_answers_without_torch(command: Command) -> None:
    code = (
        "import sys\nfrom oodbench.benchmark.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    )

    def bench(*more: str) -> tuple[str, str, bool]:
        arguments = ["run", *command.arguments, *more]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        text, _, planned = done.stdout.rstrip("\n").rpartition("\n")
        return text, done.stderr, planned == "True"

    bench()
    first = bench()
    for _ in range(5):  # until all files are old enough
        if (command.run_dir / up_to_date.NAME).exists() and not (second := bench())[2]:
            break
    assert (first[2], second[2]) == (True, False)
    assert second[:2] == first[:2]
    dry = bench("--dry-run")
    assert (dry[0].startswith("Suite tiny: 2 cells, 2 of them done."), dry[2]) == (True, False)
    command.scores().unlink()
    assert bench()[2]
    marker = json.loads((command.run_dir / up_to_date.NAME).read_text())
    assert all(Path(command.run_dir, name).exists() or not name.endswith(".py") for name in marker["files"])
