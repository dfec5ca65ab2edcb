"""Settings chosen on held-out images: ID validation against OOD images that are not scored.

    defaults        every detector's defaults: the papers' values
    val_ood         one choice a detector, on the training split of the OOD set that the suite declares (`tuning`)
    leave_one_out   one choice a detector and OOD set, on the tuning halves of the other OOD sets, its kin left out;
                    the other halves of all of them are scored

A choice maximises AUROC, averaged over the OOD sets it is made on; of equals the first wins, the defaults before all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from oodbench.benchmark.errors import OodbenchError, PluginError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.plan.jobs import TuneJob
from oodbench.benchmark.plugins.specs import parse_spec
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.fit_score import fitted_detector, scores_of

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def tune(context: JobContext, job: TuneJob, tick: Tick) -> None:
    """Try every candidate and store the choice, with what all of them reached."""
    tried = list(_tried(context, job, tick))
    reached = [value if value is not None else -1.0 for _, value, _ in tried]
    best = int(np.argmax(reached))
    if reached[best] < 0:
        raise PluginError(f"None of {len(tried)} settings of '{job.candidates[0]}' could be tried: {tried[0][2]}")
    chosen = parse_spec(tried[best][0])
    told = {
        "detector": str(chosen),
        "settings": dict(chosen.settings),
        "auroc": reached[best],
        "on": [str(outputs.data) for outputs in job.ood],
        "tried": [{"detector": spec, "auroc": value, "reason": reason} for spec, value, reason in tried],
    }
    context.store.save_json(job.makes[0], told, context.about(job))


def _tried(context: JobContext, job: TuneJob, tick: Tick) -> Iterator[tuple[str, float | None, str]]:
    """Each candidate with the mean AUROC that it reaches, or why it has none."""
    for spec in job.candidates:
        try:
            detector = fitted_detector(context, job, spec)
            known = scores_of(context, job, detector, job.validation, tick)
            reached = [auroc(known, scores_of(context, job, detector, outputs, tick)) for outputs in job.ood]
            yield spec, float(np.mean(reached)), ""
        except OodbenchError as error:  # a setting that does not fit this network is no choice
            yield spec, None, str(error)
