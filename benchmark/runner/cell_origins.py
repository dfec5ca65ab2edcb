"""Adds to the records of a plan what made them, which tells the rows of a table apart (`records/rows.py`)."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from oodbench.benchmark.plan.jobs import ImportJob
from oodbench.benchmark.plan.plan import Cell, Pair, Plan, Request
from oodbench.benchmark.plan.precision import FLOAT32
from oodbench.benchmark.plan.tuning_protocols import LEAVE_ONE_OUT
from oodbench.benchmark.plan.weights.file import SCORES
from oodbench.benchmark.plan.weights.given import names_of
from oodbench.benchmark.runner.origin import Origins
from oodbench.benchmark.stages.evaluate import key_content
from oodbench.benchmark.store.schema import Origin, ScoredSet
from oodbench.benchmark.store.store import digest

NOT_OF_A_CELL = ("detectors", "id_sets", "ood_sets", "near", "far", "seeds", "metrics", "scores", "higher")
"""Fields of a request that say which cells are wanted, not what makes each. Scores that are given are rows."""


def add_origins(plan: Plan, request: Request) -> None:
    """Give the record of every cell of a plan its origin."""
    keys = (key for job in plan.jobs.values() for key in job.makes)
    origins = Origins({key.digest: {"kind": key.kind, **key.content} for key in keys})
    protocol = request.protocol or plan.suite.protocol
    shown = {"suite": plan.suite.name, **_file_names(request.checkpoint or request.outputs)}
    limits = {"limit_train": request.limit_train, "limit_test": request.limit_test}
    shown |= {name: str(limit) for name, limit in limits.items() if limit}
    shown |= {} if plan.store_features == FLOAT32 else {"features": plan.store_features}
    wanted = {name: value for name, value in asdict(request).items() if name not in NOT_OF_A_CELL}
    wanted = {name: value for name, value in wanted.items() if value or name != "outputs"}
    of_seeds = _files_of_seeds(plan, request.checkpoint)

    def with_origin(cell: Cell) -> Cell:
        if cell.pair is None:
            return cell
        is_given = cell.record.recipe == SCORES
        own = {**shown, **_file_names((request.scores,))} if is_given and request.scores else shown
        own = {**own, "protocol": protocol} if cell.tuned else own
        common: Origin = {"shown": own, "images": scored_images(cell.pair)}
        if cell.id_scores is None:  # skipped
            origin: Origin = {**common, "file": digest([wanted, plan.suite.name])}
        else:
            tuned_on = LEAVE_ONE_OUT if cell.tuned and protocol == LEAVE_ONE_OUT else ""
            files = plan.arrays_of_seeds.get(cell.record.recipe, of_seeds)
            checkpoint = cell.checkpoint.key.digest if cell.checkpoint else None
            origin = {**common, **origins.of(key_content(cell), checkpoint, tuned_on, files)}
        return replace(cell, record=replace(cell.record, origin=origin))

    plan.cells[:] = map(with_origin, plan.cells)


def _file_names(checkpoint: tuple[str, ...]) -> dict[str, str]:
    """The user's files of weights by their names, and with their folders."""
    return dict(zip(("file", "path"), names_of(map(Path, checkpoint)), strict=True)) if checkpoint else {}


def _files_of_seeds(plan: Plan, checkpoint: tuple[str, ...]) -> list[str]:
    """SHA-256 of the user's files of weights where they are one for each seed, in their order; empty otherwise."""
    known = {job.file: job.sha256 for job in plan.jobs.values() if isinstance(job, ImportJob)}
    return [known.get(str(Path(path)), "") for path in checkpoint] if len(checkpoint) > 1 else []


def scored_images(pair: Pair) -> dict[str, ScoredSet]:
    """The ID and the OOD images of a pair."""
    return {
        side: {"part": data.part, "images": data.images, "checksum": data.checksum, "groups": data.groups}
        for side, data in (("id", pair.id), ("ood", pair.ood))
    }
