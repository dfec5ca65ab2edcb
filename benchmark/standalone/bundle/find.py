"""Finds a run's detector for export: its cells, and the jobs that made their scores, by planning the run again.

The plan has the keys of all artifacts. Where they are those of the run's scores, code and data are those of the run.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import OodbenchError, UserError, did_you_mean
from oodbench.benchmark.plan.jobs import ExtractJob, ScoreJob
from oodbench.benchmark.plan.options import Options
from oodbench.benchmark.plan.picture_view import picture_view
from oodbench.benchmark.plan.plan import Cell, Plan
from oodbench.benchmark.plan.planner import make_plan
from oodbench.benchmark.plan.suite_file import read_suite, suite_path, text_elsewhere
from oodbench.benchmark.plan.weights.file import GIVEN, OUTPUTS, SCORES
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import DetectorSpec, canonical, create, parse_detector
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.rows import own_name
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.open_worker import choose_device, open_context
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.user_path import user_path

logger = logging.getLogger(__name__)

SHOWN = 12
"""Names that an error lists."""


@dataclass(frozen=True)
class Chosen:
    """The cells of one detector on one ID set, with one seed."""

    run: StoredRun
    label: str
    """As the run's tables call it."""
    id_set: str
    seed: int
    cells: tuple[Record, ...]
    """Those with numbers, one for each OOD set."""


@dataclass(frozen=True)
class Planned:
    """The same with the jobs behind the cells."""

    chosen: Chosen
    context: JobContext
    plan: Plan
    cell: Cell
    score: ScoreJob
    """The job that scored the ID test images."""
    extract: ExtractJob
    """The job that passed them through the network."""


def choose(run: StoredRun, detector: str, id_set: str = "", seed: int | None = None) -> Chosen:
    """The cells of a detector in a run.

    Args:
        run: The run.
        detector: As the run's tables call it, or its name if that is clear.
        id_set: An ID set of the run; may be empty if there is one.
        seed: A seed of the run; the first if None.

    Raises:
        UserError: The run has no such cells, several detectors are meant, or none of the cells has numbers.
    """
    label = _label(run, detector)
    rows = [record for record in run.records if record.label == label]
    name = _id_set(rows, id_set, label)
    rows = [record for record in rows if record.id_set == name]
    seeds = list(dict.fromkeys(record.seed for record in rows))
    if seed is None and len(seeds) > 1:
        others = ", ".join(map(str, seeds[1:]))
        logger.info(f"The run has several seeds: seed {seeds[0]} is exported; --seed chooses another ({others}).")
    if seed is not None and seed not in seeds:
        raise UserError(f"The run has no seed {seed} of '{label}' on '{name}', only {', '.join(map(str, seeds))}.")
    chosen = seeds[0] if seed is None else seed
    rows = [record for record in rows if record.seed == chosen]
    done = tuple(record for record in rows if record.status == OK)
    if not done:
        reason = rows[0].reason.rstrip(".")
        raise UserError(f"'{label}' has no numbers on '{name}' in this run, as it was {rows[0].status}: {reason}.")
    _refuse_without_network(label, done[0])
    return Chosen(run, label, name, chosen, done)


def _refuse_without_network(label: str, record: Record) -> None:
    """Raise `UserError` for scores and outputs that were given to the run: it has nothing that scores another image."""
    if record.recipe == SCORES:
        raise UserError(
            f"'{label}' are scores that were given to the run (--scores): there is no code that could score another "
            "image, so that they cannot be exported."
        )
    if record.recipe == OUTPUTS:
        raise UserError(
            f"'{label}' cannot be exported: the run has the outputs of a network, and not the network. A run with "
            "--backbone FILE.py:FUNCTION and --checkpoint has both."
        )


def _label(run: StoredRun, detector: str) -> str:
    labels = list(dict.fromkeys(record.label for record in run.records))
    with suppress(OodbenchError):  # 'knn[k=10,fraction=1]' as tables write it
        spec = parse_detector(detector)
        own = DetectorSpec(canonical(create("detector", spec.detector)), spec.recipe)
        detector = detector if detector in labels else str(own)
    if detector in labels:
        return detector
    named = list(dict.fromkeys(r.label for r in run.records if detector in (r.detector, own_name(r, "label"))))
    if len(named) == 1:
        return named[0]
    if named:
        raise UserError(f"'{detector}' is {len(named)} detectors of this run: {_few(named)}. Name one of them.")
    hint = did_you_mean(detector, labels) or f"It has {_few(labels)}."
    raise UserError(f"The run '{run.path.name}' has no detector '{detector}'. {hint}")


def _id_set(rows: Sequence[Record], wanted: str, label: str) -> str:
    sets = list(dict.fromkeys(record.id_set for record in rows))
    if wanted:
        found = [s for s in sets if s == wanted] or [r.id_set for r in rows if own_name(r, "id_set") == wanted]
        if found:
            return found[0]
        raise UserError(f"The run has no ID set '{wanted}' with '{label}', only {_few(sets)}.")
    if len(sets) > 1:
        raise UserError(f"The run has '{label}' on {len(sets)} ID sets: {_few(sets)}. Choose one with --id.")
    return sets[0]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def planned(chosen: Chosen, cache: Path, **overrides: Any) -> Planned:
    """The jobs behind the chosen cells, in a context with the plug-ins, threads and data of the run.

    Args:
        chosen: What `choose` returned.
        cache: The run's store.
        overrides: Options that replace the run's: `data_dir`, `device`, `plugins`.

    Raises:
        UserError: There is no such device, or the run's scores come from other code or data than are here now.
    """
    if device := overrides.get("device"):
        choose_device(device)  # first: it would be the reason why the run's plan cannot be made
    commands = chosen.run.info.get("commands")
    if not commands:
        raise UserError(
            f"'{chosen.run.path / 'run.json'}' does not record the run's commands, so nothing of it can be exported. "
            "Run it again with this version."
        )
    record, problem = chosen.cells[0], ""
    for command in reversed(commands):
        try:
            context, plan = _plan_again(command, chosen, cache, overrides)
        except OodbenchError as error:
            problem = problem or f" ({str(error).rstrip('.')})"
            continue
        for cell in plan.cells:
            if cell.id_scores is not None and cell.id_scores.path == record.artifacts.get("id_scores"):
                return _with_jobs(chosen, context, plan, cell)
    raise UserError(
        f"The scores of '{chosen.label}' in the run '{chosen.run.path.name}' come from other code or other data than "
        f"those that are here now{problem}. Give the command of the run again, then export."
    )


def _plan_again(
    command: Mapping[str, Any], chosen: Chosen, cache: Path, overrides: Mapping[str, Any]
) -> tuple[JobContext, Plan]:
    """A job context and the plan of one of the run's commands, for the chosen detector alone."""
    record = chosen.cells[0]
    label = own_name(record, "label")
    given = {name: value for name, value in command.items() if name != "suite_toml"}
    given |= {
        "detectors": [label.partition("@")[0] if record.recipe in GIVEN else label],
        "stability": False,
        **overrides,
    }
    with _suite_of(command) as suite:
        asked = Options(**{**given, "suite": suite})
        request, files = asked.request(), tuple(map(user_path, asked.plugins))
        for file in files:
            registry.load_file(file)
        stated = read_suite(request.suite)
        config = WorkerConfig(
            cache,
            user_path(asked.data_dir),
            asked.device,
            asked.threads or stated.threads,
            asked.skip_bad_images,
            plugins=files,
            view=picture_view(request, stated),
        )
        context = open_context(config)
        return context, make_plan(request, context.library, context.device)


@contextmanager
def _suite_of(command: Mapping[str, Any]) -> Iterator[str]:
    """The name of a command's suite if its text is unchanged, else the path of a file with the text of that time."""
    name, text = str(command["suite"]), command.get("suite_toml")
    try:
        current = suite_path(name).read_text(encoding="utf-8-sig")
    except (OodbenchError, OSError):
        current = None
    if text is None or current == text:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{Path(name).stem}.toml"
        elsewhere = text_elsewhere(text, Path(name).parent) if name.endswith(".toml") else text
        path.write_text(elsewhere, encoding="utf-8")
        yield str(path)


def _with_jobs(chosen: Chosen, context: JobContext, plan: Plan, cell: Cell) -> Planned:
    assert cell.id_scores is not None
    score = plan.jobs[cell.id_scores.digest]
    assert isinstance(score, ScoreJob)
    extract = plan.jobs[score.outputs.arrays[0].digest]
    assert isinstance(extract, ExtractJob)
    return Planned(chosen, context, plan, cell, score, extract)
