"""Half of many pictures are drawn in a second process: the same files, whether it works or not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.views.plots import draw as drawing
from oodbench.benchmark.views.plots import style, two_processes
from tests.support import run_suite, write_suite

MATRIX = '[[id]]\nset = "digits[0-1]"\nood = [{ set = "uniform" }]'


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A run whose pictures are drawn in this process alone."""
    folder = tmp_path_factory.mktemp("drawn")
    run = run_suite(write_suite(folder, MATRIX), "msp,energy", plots_drawn=True)
    assert not two_processes.worth_it(run, two_processes.MANY - 1)
    return run


@pytest.fixture
def again(drawn: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRun:
    """The same run without its pictures, where two pictures count as many and there are two cores."""
    monkeypatch.setattr(two_processes, "MANY", 2)
    monkeypatch.setattr(two_processes, "usable_cores", lambda: 2)
    shutil.copytree(drawn.path.parent.parent, tmp_path / "results", symlinks=True)
    run = read_stored_run(tmp_path / "results" / "runs" / drawn.path.name)
    shutil.rmtree(run.path / "plots")
    return run


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def count_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that this process writes."""
    written: list[str] = []

    def write(path: Path, data: bytes | str, option: str) -> None:
        written.append(path.name)
        write_atomically(path, data, option)

    monkeypatch.setattr(style, "write_atomically", write)
    return written


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(drawn: StoredRun, again: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    written = count_here(monkeypatch)
    paths = drawing.draw(again, again.path.parent.parent / "cache")
    assert content(again.path / "plots") == content(drawn.path / "plots")
    assert len(written) == len(paths) / 2
    monkeypatch.setattr(two_processes, "MANY", 100)
    assert paths == drawing.draw(again, again.path.parent.parent / "cache")


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_what_a_second_process_does_not_draw_is_drawn_here(
    drawn: StoredRun, again: StoredRun, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(two_processes, "CODE", code)
    written = count_here(monkeypatch)
    paths = drawing.draw(again, again.path.parent.parent / "cache")
    assert content(again.path / "plots") == content(drawn.path / "plots")
    assert len(written) == len(paths)


def test_a_second_process_refuses_another_run(again: StoredRun) -> None:
    cache = str(again.path.parent.parent / "cache")
    with pytest.raises(SystemExit) as refused:
        drawing.draw_half(str(again.path), cache, two_processes.fingerprint(replace(again, records=[])))
    assert refused.value.code == two_processes.NOT_THE_SAME
    assert not (again.path / "plots").exists()
    drawing.draw_half(str(again.path), cache, two_processes.fingerprint(again))
    assert (again.path / "plots").is_dir()


def test_one_core_and_runs_side_by_side_are_drawn_in_one_process(
    again: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_processes.worth_it(again, 2)
    assert not two_processes.worth_it(replace(again, parts=(again, again)), 2)
    assert not two_processes.worth_it(replace(again, path=again.path / "elsewhere"), 2)
    monkeypatch.setattr(two_processes, "usable_cores", lambda: 1)
    assert not two_processes.worth_it(again, 2)


def test_a_second_process_ends_where_drawing_raises(again: StoredRun) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        two_processes.second_process(again, again.path.parent.parent / "cache") as process,
    ):
        raise KeyboardInterrupt
    assert process.returncode is not None
