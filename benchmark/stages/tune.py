"""Chooses a detector's settings on held-out images: ID validation against OOD images that are not scored.

    defaults        every detector's defaults: the papers' values
    val_ood         one choice per detector, on the training split of the OOD set that the suite declares (`tuning`)
    leave_one_out   one choice per detector and OOD set, on the tuning halves of the other OOD sets, except related
                    ones (`Dataset.kin`); the other halves of all of them are scored

The choice maximises AUROC, averaged over the OOD sets it is made on. Ties go to the first candidate; the defaults come
first.
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
from oodbench.benchmark.stages.detector_state import stored_and_loaded
from oodbench.benchmark.stages.fit_score import fitted_detector, scores_of

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def tune(context: JobContext, job: TuneJob, tick: Tick) -> None:
    """Try every candidate and store the choice, with the AUROC of each.

    Raises `PluginError` if no candidate can be evaluated.
    """
    tried = list(_tried(context, job, tick))
    aurocs = [value if value is not None else -1.0 for _, value, _ in tried]
    best = int(np.argmax(aurocs))
    if aurocs[best] < 0:
        raise PluginError(f"None of the {len(tried)} settings of '{job.candidates[0]}' could be tried: {tried[0][2]}")
    chosen = parse_spec(tried[best][0])
    choice = {
        "detector": str(chosen),
        "settings": dict(chosen.settings),
        "auroc": aurocs[best],
        "on": [str(outputs.data) for outputs in job.ood],
        "tried": [{"detector": spec, "auroc": value, "reason": reason} for spec, value, reason in tried],
    }
    context.store.save_json(job.makes[0], choice, context.about(job))


def _tried(context: JobContext, job: TuneJob, tick: Tick) -> Iterator[tuple[str, float | None, str]]:
    """Each candidate with its mean AUROC, or None and the reason why it has none."""
    for spec in job.candidates:
        try:
            detector = stored_and_loaded(fitted_detector(context, job, spec))
            id_scores = scores_of(context, job, detector, job.validation, tick)
            aurocs = [auroc(id_scores, scores_of(context, job, detector, outputs, tick)) for outputs in job.ood]
            yield spec, float(np.mean(aurocs)), ""
        except OodbenchError as error:  # some settings do not fit every network
            yield spec, None, str(error)
