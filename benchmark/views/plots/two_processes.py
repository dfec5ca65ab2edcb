"""Draws half of a run's pictures in a second process, because drawing many takes seconds and uses one core."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.cores import usable_cores

MANY = 12
"""Pictures from which a second process is worth its start, about a second."""

CODE = "import sys; from oodbench.benchmark.views.plots.draw import draw_half; draw_half(*sys.argv[1:])"

NOT_THE_SAME = 3
"""Exit status of a second process that reads another run from the folder than it was started for."""


def worth_it(run: StoredRun, pictures: int) -> bool:
    """Whether a second process is of use: it has a core, enough to do, and reads the run from its folder."""
    stored = not run.parts and (run.path / "run.json").is_file()
    return stored and pictures >= MANY and usable_cores() > 1 and bool(sys.executable)


@contextmanager
def second_process(run: StoredRun, cache_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that draws every other picture of a run; its exit status is 0 if it has drawn all of them.

    It is stopped if what is done meanwhile raises.
    """
    command = [sys.executable, "-c", CODE, str(run.path.resolve()), str(cache_dir.resolve()), fingerprint(run)]
    silent = subprocess.DEVNULL  # what it would say, drawing here says
    variables = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(command, env=variables, stdin=silent, stdout=silent, stderr=silent)
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()


def fingerprint(run: StoredRun) -> str:
    """A hash of what pictures show of a run, so that another process can tell that it has read the same."""
    shown = [
        (r.id_set, r.label, r.ood_set, r.seed, r.status, r.key, dict(r.metrics), dict(r.intervals), r.notes)
        for r in run.records
    ]
    return hashlib.sha256(repr((shown, run.info.get("pairs"), run.info.get("seeds"))).encode()).hexdigest()
