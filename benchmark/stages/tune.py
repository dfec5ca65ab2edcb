"""Chooses a detector's settings on held-out images: ID validation against images that are not scored.

    defaults        every detector's defaults: the papers' values
    val_id          one choice per detector, on transformed ID validation images: no OOD image is seen
    val_ood         one choice per detector, on the training split of the OOD set that the suite declares (`tuning`)
    leave_one_out   one choice per detector and OOD set, on the tuning halves of the other OOD sets, except related
                    ones (`Dataset.kin`); the other halves of all of them are scored

The choice maximises AUROC, averaged over the sets it is made on. Ties go to the first candidate; the defaults come
first. What candidates learn, and their scores, are artifacts of jobs of their own (`stages.fit_score`), which all
choices of a run share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from oodbench.benchmark.errors import OodbenchError, PluginError
from oodbench.benchmark.metrics.exact import auroc
from oodbench.benchmark.plan.tuning.jobs import Candidate, TuneJob
from oodbench.benchmark.plugins.specs import parse_spec
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detector_state import save_state, stored_and_loaded
from oodbench.benchmark.stages.fit_score import fitted_detector, scores_of

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def tune(context: JobContext, job: TuneJob, tick: Tick) -> None:
    """Compare the candidates and store the choice, with the AUROC of each.

    Raises `PluginError` if no candidate can be evaluated.
    """
    tried = list(_tried(context, job, tick))
    aurocs = [value if value is not None else -1.0 for _, value, _ in tried]
    best = int(np.argmax(aurocs))
    if aurocs[best] < 0:
        name, reason = tried[0][0], tried[0][2]
        raise PluginError(f"None of the {len(tried)} settings of '{name}' could be tried: {reason}")
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
    for candidate in job.candidates:
        missing = next((key.digest for key in candidate.scores if not context.store.has(key, now=True)), "")
        if missing and missing in context.refused:
            yield candidate.detector, None, context.refused[missing]
            continue
        try:
            id_scores, *ood_scores = (_tried_again if missing else _stored)(context, job, candidate, tick)
            yield candidate.detector, float(np.mean([auroc(id_scores, scores) for scores in ood_scores])), ""
        except OodbenchError as error:  # some settings do not fit every network
            context.refused |= {missing: str(error)} if missing else {}
            yield candidate.detector, None, str(error)


def _stored(context: JobContext, job: TuneJob, candidate: Candidate, tick: Tick) -> list[np.ndarray]:
    """A candidate's scores of ID validation and of each OOD set, which its jobs have stored."""
    scores = []
    for key, outputs in zip(candidate.scores, (job.validation, *job.ood), strict=True):
        scores.append(context.store.load_array(key))
        tick(outputs.data.images)
    return scores


def _tried_again(context: JobContext, job: TuneJob, candidate: Candidate, tick: Tick) -> list[np.ndarray]:
    """The scores of a candidate whose jobs have failed.

    That tells settings that do not fit the network, which are left out of the choice, from any other failure, which
    leaves no choice at all: it would depend on the memory of the machine, or on its speed.
    """
    detector = stored_and_loaded(fitted_detector(context, job, candidate.detector))
    scores = [scores_of(context, job, detector, outputs, tick) for outputs in (job.validation, *job.ood)]
    if candidate.fitted is not None and not context.store.has(candidate.fitted):  # it may be chosen
        context.store.save(candidate.fitted, lambda path: save_state(detector, path), context.about(job))
    return scores
