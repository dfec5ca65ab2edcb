"""Progress on standard error: the live display on terminals of every width, a few lines in logs, bars in notebooks."""

from __future__ import annotations

import builtins
import io
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from oodbench.benchmark import run
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.cli.progress.lines import EVERY, Lines
from oodbench.benchmark.cli.progress.live import RUNNING, LiveDisplay, cut, filled
from oodbench.benchmark.engines.engine import Progress, Quiet, following
from oodbench.benchmark.plan.jobs import Job, ScoreJob
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.runner.progress import bars
from oodbench.benchmark.runner.progress.meter import Meter
from oodbench.benchmark.runner.progress.standing import Standing
from oodbench.benchmark.stages.training.epoch_values import EpochValues
from tests.cli.test_messages import output_on_terminal, screen
from tests.support import bench, prepare_suite, write_suite

MATRIX = """
[[id]]
set = "digits[0-4]"
ood = [{ set = "digits[5-9]", group = "near" }, { set = "uniform", group = "far" }]
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare_suite(write_suite(tmp_path_factory.mktemp("suite"), MATRIX), "msp,energy,knn", seeds=4, epochs=1)


@pytest.fixture
def jobs(prepared: Prepared) -> list[Job]:
    return prepared.work.jobs


@pytest.fixture
def standing(prepared: Prepared) -> Standing:
    """All cells are finished, each with the same number."""
    found = prepared.standing()
    for cell in prepared.plan.cells:
        found.add(replace(cell.record, status=OK, metrics={"auroc": 0.75}))
    return found


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# Live


def lines_of(display: LiveDisplay, width: int, **options: Any) -> list[str]:
    """What the display shows on a terminal of `width` columns."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, record=True, **options)
    console.print(display)
    return console.export_text(styles=False).splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_display_fits_the_terminal_and_says_everything(jobs: list[Job], standing: Standing, width: int) -> None:
    clock = Clock()
    display = LiveDisplay(Console(file=io.StringIO()), Meter(jobs, clock), standing)
    for job in jobs[:6]:
        display.start(job)
    clock.now = 2.0
    display.tick(jobs[0], jobs[0].size // 4)
    clock.now = 4.0
    display.tick(jobs[0], jobs[0].size // 4)
    clock.now = 20.0
    found = lines_of(display, width)
    assert max(map(len, found)) < width, "a full line would wrap on some terminals"
    assert len(found) <= 16
    assert f"and {6 - RUNNING} more" in found
    text = " ".join(found)
    for said in ("training 1 of 4,", f"0 of {len(jobs)} jobs,", "0:20,", "left", "50%"):
        assert said in text, said
    if width >= 40:
        assert "best so far on digits[0-4]: msp, near 75.0, far 75.0 AUROC (3 of 3 rows)" in text
    if width >= 80:
        assert jobs[0].title in text


VALUES = EpochValues(3, 10, {"cross_entropy": 0.0712, "kl_to_uniform": 0.31, "accuracy": 0.979})


@pytest.mark.parametrize("width", [20, 40, 80])
def test_losses_stand_below_the_training_that_they_are_of(jobs: list[Job], width: int) -> None:
    display = LiveDisplay(Console(file=io.StringIO()), Meter(jobs, Clock()), Standing())
    for job in jobs[:2]:
        display.start(job)
    plain = lines_of(display, width)
    display.training(jobs[1], VALUES)
    display.training(jobs[5], VALUES)  # it does not run any more
    found = lines_of(display, width)
    assert found[: len(plain)] == plain, "the second training is the last line, and the losses come after it"
    more = found[len(plain) :]
    assert max(map(len, more)) < width
    assert " ".join(line.strip() for line in more) == (
        "epoch 3 of 10, cross entropy 0.0712, kl to uniform 0.31, accuracy 97.9%"
    )
    display.finish(jobs[1], "")
    assert not {*more} & {*lines_of(display, width)}


def test_the_display_is_ascii_where_the_terminal_is(jobs: list[Job], standing: Standing) -> None:
    display = LiveDisplay(Console(), Meter(jobs), standing)
    display.start(jobs[0])
    ascii_file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=ascii_file, width=60, force_terminal=True)
    console.print(display)  # a character that it cannot show would raise UnicodeEncodeError
    ascii_file.flush()
    assert b"best so far on" in ascii_file.buffer.getvalue()


def test_no_color_means_no_colour(jobs: list[Job], standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    def colours() -> list[str]:
        file = io.StringIO()
        console = Console(file=file, width=60, force_terminal=True, color_system="truecolor")
        console.print(LiveDisplay(console, Meter(jobs), standing))
        return re.findall(r"\x1b\[(?:[\d;]*;)?[39]\d[;m]", file.getvalue())

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colours()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colours()


def test_texts_are_cut_and_filled() -> None:
    assert cut("a detector", 10) == "a detector"
    assert cut("a detector", 9) == "a dete..."
    assert filled(["one", "two", "three"], 9) == ["one, two,", "three"]
    assert filled(["a long text of one piece", "b"], 12) == ["a long te...", "b"]


SETUP = """
import logging, os, signal, sys, time
import click
from oodbench.benchmark.cli.base import Command
from oodbench.benchmark.cli.progress import watch

class job:
    id, title, size, kind, passes, bank = "1", "score digits", 4, "score", 0, None
"""

INTERRUPTED = f"""{SETUP}
@click.command(cls=Command)
def command():
    with watch([job], "") as progress:
        progress.start(job)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests with &
try:
    command(standalone_mode=False)
except SystemExit as end:
    print("exit code", end.code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_ctrl_c_leaves_the_terminal_clean() -> None:
    output = output_on_terminal(INTERRUPTED)
    assert "0 of 1 jobs" in output, "the display was there"
    assert screen(output) == [
        "Interrupted. Finished work is kept: run the same command again to continue.",
        "exit code 130",
    ]
    assert "\x1b[?25l" not in output, "the cursor is never hidden: a killed process could not show it again"


# Lines


def watched(jobs: list[Job], seconds: float, verbose: bool = False, reason: str = "") -> list[str]:
    """The lines of a run whose jobs take `seconds` each; `reason`: why all scores fail."""
    clock, written = Clock(), list[str]()
    lines = Lines(jobs, Standing(), verbose, written.append, clock)
    for job in jobs:
        lines.start(job)
        for _ in range(10):
            clock.now += seconds / 10
            lines.tick(job, job.size // 10)
        lines.finish(job, reason if isinstance(job, ScoreJob) else "")
    lines.phase("writing tables")
    lines.end()
    return written


def test_a_log_of_a_short_run_has_a_line_for_each_stage(jobs: list[Job]) -> None:
    written = watched(jobs, 0.01)
    stages = ["training", "passing images", "scoring", "fitting", "writing tables"]
    assert [re.split(r" \d|,", line)[0] for line in written] == stages
    assert written[0] == f"training 1 of 4, 0 of {len(jobs)} jobs, 0:00"


def test_a_log_of_a_long_run_stays_short_and_never_silent(jobs: list[Job]) -> None:
    minutes = watched(jobs, 20.0)
    whole = 20.0 * len(jobs)
    assert whole / EVERY / 2 < len(minutes) <= whole / EVERY + 5
    days = watched(jobs, 4 * 3600.0)
    assert 50 < len(days) < 150
    assert all("left" in line or line.startswith("writing") for line in days[3:])


def test_a_thousand_failures_are_a_line_in_a_log(jobs: list[Job]) -> None:
    failed = sum(isinstance(job, ScoreJob) for job in jobs)
    written = [line for line in watched(jobs, 0.01, reason="no luck") if line.startswith("failed")]
    first = next(job for job in jobs if isinstance(job, ScoreJob))
    assert written == [
        f"failed: {first.title}: no luck",
        f"failed: {failed - 1} more jobs, for these reasons or as the table says",
    ]


def test_a_log_has_the_losses_of_a_long_training(jobs: list[Job]) -> None:
    clock, written = Clock(), list[str]()
    lines = Lines(jobs, Standing(), write=written.append, clock=clock)
    lines.start(jobs[0])
    lines.training(jobs[0], VALUES)
    assert len(written) == 1, "no line for every epoch"
    clock.now += EVERY
    lines.training(jobs[0], VALUES._replace(epoch=4))
    assert len(written) == 2
    assert written[1].endswith("; epoch 4 of 10, cross entropy 0.0712, kl to uniform 0.31, accuracy 97.9%")


def test_verbose_has_a_line_for_every_job(jobs: list[Job]) -> None:
    written = watched(jobs, 0.5, verbose=True, reason="no luck")
    expected = [
        f"[{number}/{len(jobs)}] {job.title}: {'failed: no luck' if isinstance(job, ScoreJob) else '0.5 s'}"
        for number, job in enumerate(jobs, 1)
    ]
    assert written == expected


def test_a_run_says_how_it_goes_unless_it_is_to_be_quiet(tmp_path: Path) -> None:
    asked = ["run", "--suite", str(write_suite(tmp_path, MATRIX)), "--detectors", "msp,energy", "--epochs", "1"]
    asked += ["--threads", "1", "--no-stability", "--results"]
    lines = bench(*asked, tmp_path / "a", env={"FORCE_COLOR": "1"}).stderr.splitlines()  # as CI services do
    assert re.fullmatch(r"training 1 of 1, 0 of \d+ jobs, 0:\d\d", lines[0])
    assert lines[-1].startswith("writing tables and plots, ")
    assert re.search(r"; best so far on digits\[0-4\]: \w+, near [\d.]+, far [\d.]+ AUROC \(2 of 2 rows\)$", lines[-1])
    assert len(lines) <= 6
    assert bench(*asked, tmp_path / "b", "--quiet").stderr == ""


# Python and notebooks


class Recorded:
    """A bar that remembers what it showed."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, str, str]] = []
        self.lines: list[str] = []
        self.closed = False

    def show(self, share: float, title: str, text: str) -> None:
        self.shown.append((share, title, text))

    def line(self, text: str) -> None:
        self.lines.append(text)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process of a notebook."""
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(bars, "new_bar", lambda: recorded)
    return recorded


TINY: dict[str, Any] = {
    **{"id_sets": "digits[0-1]", "ood_sets": "greek,uniform", "backbone": "small_cnn[hidden=4,width=2]", "epochs": 1},
    **{"stability": False, "threads": 1},
}


@pytest.mark.usefixtures("notebook", "undrawn")
def test_a_run_in_a_notebook_has_a_bar(bar: Recorded, tmp_path: Path) -> None:
    run("msp,energy", results=tmp_path, **TINY)
    assert bar.closed
    assert bar.shown[-1][:2] == (1.0, "done")
    assert "best so far on digits[0-1]: " in bar.shown[-1][2]
    assert [share for share, *_ in bar.shown] == sorted(share for share, *_ in bar.shown)
    assert any(title == "writing tables and plots" for _, title, _ in bar.shown)
    count = len(bar.shown)
    run("msp,energy", results=tmp_path, **TINY)
    assert len(bar.shown) == count, "nothing was left to do"


@pytest.mark.usefixtures("undrawn")
def test_scripts_have_a_bar_if_they_ask_for_one(bar: Recorded, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    run("msp", results=tmp_path / "a", **TINY)
    assert not bar.shown, "scripts are quiet"
    run("msp", results=tmp_path / "b", progress=True, **TINY)
    assert bar.shown
    request.getfixturevalue("notebook")
    count = len(bar.shown)
    run("msp", results=tmp_path / "c", progress=False, **TINY)
    assert len(bar.shown) == count


def test_a_bar_that_is_stopped_stays_where_it_is(bar: Recorded, jobs: list[Job]) -> None:
    def stopped() -> None:
        with bars.shown(True, jobs, Standing) as progress:
            progress.start(jobs[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert bar.closed
    assert bar.shown[-1][:2] == (0.0, "training 1 of 4")


def test_a_bar_is_not_drawn_for_every_batch(jobs: list[Job]) -> None:
    clock, drawn = Clock(), Recorded()
    progress = bars.Bar(drawn, jobs, Standing(), clock)
    progress.start(jobs[0])
    for _ in range(1000):
        clock.now += 0.01
        progress.tick(jobs[0], 1)
    assert 15 < len(drawn.shown) < 25


def test_a_bar_shows_losses(jobs: list[Job]) -> None:
    clock, drawn = Clock(), Recorded()
    progress = bars.Bar(drawn, jobs, Standing(), clock)
    progress.start(jobs[0])
    clock.now += 1.0
    progress.training(jobs[0], VALUES)
    assert drawn.shown[-1][2].endswith("; epoch 3 of 10, cross entropy 0.0712, kl to uniform 0.31, accuracy 97.9%")


def test_progress_with_three_methods_is_enough(jobs: list[Job], prepared: Prepared) -> None:
    class Own:
        calls: list[str] = []

        def start(self, job: Job) -> None:
            self.calls.append("start")

        def tick(self, job: Job, images: int) -> None:
            self.calls.append("tick")

        def finish(self, job: Job, reason: str) -> None:
            self.calls.append("finish")

    own: Progress = Own()
    whole = following(own)
    whole.start(jobs[0])
    whole.tick(jobs[0], 1)
    whole.cell(prepared.plan.cells[0].record)
    whole.phase("writing tables")
    whole.finish(jobs[0], "")
    assert Own.calls == ["start", "tick", "finish"]
    quiet = Quiet()
    assert following(quiet) is quiet


def test_tqdm_is_taken_if_it_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    bar = bars.new_bar()
    assert isinstance(bar, bars.TqdmBar)
    bar.show(0.25, "training 1 of 4", "0 of 20 jobs")
    bar.line("failed: it")
    bar.close()
    written = capsys.readouterr()
    assert re.search(r"training 1 of 4:  25%\|.*\|, 0 of 20 jobs", written.err)
    assert "failed: it" in written.out + written.err


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let packages not be installed."""
    find = bars.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(bars.importlib.util, "find_spec", lambda name: None if name in names else find(name))  # type: ignore[attr-defined]


def test_without_tqdm_rich_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, "tqdm")
    assert isinstance(bars.new_bar(), bars.RichBar)
    file = io.StringIO()
    bar = bars.RichBar(Console(file=file, width=80, force_terminal=True))
    bar.show(0.25, "training [1] of 4", "0 of 20 jobs")
    bar.close()
    assert re.search(r"training \[1\] of 4.*25%.*0 of 20 jobs", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue()))


@pytest.mark.usefixtures("notebook")
def test_a_notebook_with_neither_tqdm_nor_widgets_shows_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    class Handle:
        def update(self, data: dict[str, str], raw: bool) -> None:
            shown.append((data["text/plain"], raw))

    def display(data: dict[str, str], raw: bool, display_id: bool = False) -> Handle:
        shown.append((data["text/plain"], raw))
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    absent(monkeypatch, "tqdm", "ipywidgets")
    bar = bars.new_bar()
    bar.show(0.5, "training 1 of 4", "0 of 20 jobs")
    bar.line("failed: it")
    bar.close()
    half = "#" * 15 + "." * 15
    assert shown == [("", True), (f"training 1 of 4:  50% [{half}] 0 of 20 jobs", True), ("failed: it", True)]
