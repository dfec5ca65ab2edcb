"""Runs one job of any kind: picks the stage, and explains weights that do not fit their network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.plan.jobs import (
    ExtractJob,
    FitJob,
    HeadJob,
    ImportJob,
    Job,
    ReduceMapsJob,
    ScoreJob,
    TrainJob,
    runs_network,
)
from oodbench.benchmark.plan.outputs.jobs import ImportArraysJob, ImportHeadJob, ImportScoresJob
from oodbench.benchmark.plan.precision import in_float32
from oodbench.benchmark.plan.tuning.jobs import TuneJob
from oodbench.benchmark.plan.used_code import refuse_other_code
from oodbench.benchmark.stages import extract, extract_parts, fit_score, import_given, import_weights, tune
from oodbench.benchmark.stages.context import JobContext, Tick
from oodbench.benchmark.stages.memory import keep_freed_memory
from oodbench.benchmark.stages.networks import UnfitWeightsError
from oodbench.benchmark.stages.training import train, train_head
from oodbench.benchmark.stages.training.epoch_values import Show, show_nothing


def run_job(context: JobContext, job: Job, tick: Tick, show: Show = show_nothing) -> None:
    """Run one job; afterwards its artifacts are in the store. `show`: called with the losses of a running training.

    Raises `PluginError`, before any work, if this process has other code of a plug-in than the plan.
    """
    context.begin()
    refuse_other_code(job)
    stages: dict[type[Job], Callable[..., Any]] = {
        TrainJob: partial(train.train, show=show),
        HeadJob: train_head.train_head,
        ImportJob: import_weights.import_weights,
        ExtractJob: extract_parts.extract,
        ReduceMapsJob: extract.check_reduction_made,
        TuneJob: tune.tune,
        FitJob: fit_score.fit,
        ScoreJob: fit_score.score,
        ImportHeadJob: import_given.import_head,
        ImportArraysJob: import_given.import_arrays,
        ImportScoresJob: import_given.import_scores,
    }
    try:
        with in_float32(context.device), keep_freed_memory() if runs_network(job) else nullcontext():
            stages[type(job)](context, job, tick)
    except UnfitWeightsError as error:
        raise _weights_error(context, job) from error


def _weights_error(context: JobContext, job: Job) -> StoreError:
    """Set aside the checkpoint whose weights do not fit the network; returns the error that says so."""
    checkpoint = job.given if isinstance(job, TrainJob) else getattr(job, "checkpoint", None)
    if checkpoint is None:
        return StoreError(f"Cannot {job.title}: weights do not fit their network.")
    target = context.store.set_aside(checkpoint.key)
    return StoreError(
        f"The weights in '{checkpoint.key.path}' do not fit the networks of recipe '{checkpoint.recipe}' with backbone "
        f"'{checkpoint.backbone}': moved to '{target}'. Run the same command again to train the network again; if a "
        "plug-in's source has changed, raise its pinned `version`."
    )
