"""Builds a detector's jobs, with their keys: tune, fit, score."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from oodbench.benchmark.plan.job_builder import JobBuilder, ReducedOutputs
from oodbench.benchmark.plan.jobs import FitJob, Outputs, ScoreJob, SetRef
from oodbench.benchmark.plan.plan import Row, TunedOnOne
from oodbench.benchmark.plan.recipes.declared import NAMED_OUTPUTS
from oodbench.benchmark.plan.stage_versions import SCORING_VERSION, TUNING_VERSION
from oodbench.benchmark.plan.suite import IDEntry
from oodbench.benchmark.plan.tuning.jobs import Candidate, TuneJob
from oodbench.benchmark.plan.tuning_protocols import candidates
from oodbench.benchmark.plan.weights.trained import TrainedClassifier
from oodbench.benchmark.plugins.detector import Detector, compares, fits
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.plugins.source_version import identity
from oodbench.benchmark.plugins.specs import DetectorSpec, canonical, parse_detector
from oodbench.benchmark.store.store import Key

T = TypeVar("T")


class DetectorJobs:
    """Builds the jobs of detectors, for one plan. Each method adds its job to the plan and returns it."""

    def __init__(self, builder: JobBuilder) -> None:
        self.builder, self.plan = builder, builder.plan
        self._tried: dict[Hashable, Any] = {}

    def tune_job(self, row: Row, trained: TrainedClassifier, sources: Sequence[SetRef]) -> TuneJob | None:
        """The job that chooses a detector's settings on some sources; None for a detector without candidates.

        The jobs that fit and score the candidates are added to the plan once, whatever choices are made from them.
        """
        choices = candidates(row.detector)
        if len(choices) == 1:
            return None
        inputs, entry = self._fit_inputs(row, trained, choices), trained.entry
        ood = [self.builder.outputs(source, trained, choices) for source in sources]
        refs = [inputs["validation"].outputs.data, *sources]
        trials = [self._trial(row, trained, choice, refs) for choice in choices]
        key = Key("tuned", ".json", f"{row.label}-{entry.set}-s{trained.seed}", {
            "candidates": [identity(choice) for choice in choices],
            "checkpoint": trained.checkpoint.key.digest,
            "outputs": {part: _digests(reduced.outputs) for part, reduced in inputs.items()},
            "ood": [_digests(reduced.outputs) for reduced in ood],
            "tried": [[key.digest for key in trial.scores] for trial, _ in trials],
            "scoring": SCORING_VERSION,
            "tuning": TUNING_VERSION,
        })  # fmt: skip
        tried = tuple(dict.fromkeys(id_ for _, ids in trials for id_ in ids))
        job = TuneJob(
            title=f"tune {row.label} on {entry.set}, seed {trained.seed}",
            makes=(key,),
            after=(*_after(*inputs.values(), *ood), *tried),
            candidates=tuple(trial for trial, _ in trials),
            tried=frozenset(tried),
            checkpoint=trained.checkpoint,
            **_fields(inputs),
            ood=tuple(reduced.outputs for reduced in ood),
            seed=trained.seed,
        )
        return self.plan.add(job)

    def _trial(
        self, row: Row, trained: TrainedClassifier, choice: Detector, refs: Sequence[SetRef]
    ) -> tuple[Candidate, list[str]]:
        """A candidate for a row's settings with the artifacts of the jobs that try it on some sets, and their ids."""
        recipe, name = parse_detector(row.label).recipe, str(canonical(row.detector))
        tried = row._replace(label=str(DetectorSpec(canonical(choice), recipe)), detector=choice)
        fit = self._once(("fit", tried.label), trained, lambda: self.fit_job(tried, trained, name))
        scores = [
            self._once((ref, tried.label), trained, partial(self.score_job, tried, ref, trained, fit, None, name))
            for ref in refs
        ]
        fitted = fit.makes[0] if fit else None
        candidate = Candidate(str(canonical(choice)), fitted, tuple(score.makes[0] for score in scores))
        return candidate, [*([fit.id] if fit else []), *(score.id for score in scores)]

    def _once(self, what: Hashable, trained: TrainedClassifier, plan: Callable[[], T]) -> T:
        """What `plan` returned when it was first called for a classifier: keys of hundreds of jobs take a while."""
        place = (what, trained.checkpoint.key.digest)
        if place not in self._tried:
            self._tried[place] = plan()
        found: T = self._tried[place]
        return found

    def fit_job(self, row: Row, trained: TrainedClassifier, tried_for: str = "") -> FitJob | None:
        """The job that fits a detector; None for a detector that has nothing to learn."""
        if not fits(row.detector):
            return None
        entry = trained.entry
        inputs = self._fit_inputs(row, trained, [row.detector]) if row.detector.fits_images else {}
        key = Key("fit", ".safetensors", f"{row.label}-{entry.set}-s{trained.seed}", {
            "detector": identity(row.detector),
            "checkpoint": trained.checkpoint.key.digest,
            "outputs": {part: _digests(reduced.outputs) for part, reduced in inputs.items()},
            "scoring": SCORING_VERSION,
        })  # fmt: skip
        job = FitJob(
            title=f"fit {row.label} on {entry.set}, seed {trained.seed}",
            makes=(key,),
            after=_after(*inputs.values()) or (trained.job.id,),
            detector=str(canonical(row.detector)),
            checkpoint=trained.checkpoint,
            **(_fields(inputs) if inputs else {}),
            seed=trained.seed,
            passes=self._passes_in_fit(entry, row.detector, inputs),
            tried_for=tried_for,
        )
        return self.plan.add(job)

    def score_job(
        self,
        row: Row,
        data: SetRef,
        trained: TrainedClassifier,
        fitted: FitJob | None,
        tuned: TuneJob | None,
        tried_for: str = "",
    ) -> ScoreJob:
        """The job that scores one set, ID or OOD, with one detector, or with the settings that are chosen for it."""
        choices, entry = candidates(row.detector) if tuned else [row.detector], trained.entry
        reduced = self.builder.outputs(data, trained, choices)
        bank = None
        if compares(row.detector):
            bank = self.builder.extract_job(self.builder.fit_ref(entry), trained)
        key = Key("scores", ".npy", f"{row.label}--{trained.checkpoint.key.label}--{data.set}", {
            "detector": identity(row.detector),
            "outputs": _digests(reduced.outputs),
            **({"tuned": tuned.id} if tuned else {"fitted": fitted.id if fitted else None}),
            "scoring": SCORING_VERSION,
            **({"bank": bank.id} if bank else {}),
        })  # fmt: skip
        fitted_if = {one.detector: one.fitted for one in tuned.candidates if one.fitted} if tuned else {}
        fits = (key.digest for key in fitted_if.values())
        job = ScoreJob(
            title=f"score {data} with {row.label} (ID {entry.set}, seed {trained.seed})",
            makes=(key,),
            after=(*reduced.after, *(job.id for job in (bank, fitted, tuned) if job), *fits),
            detector=str(canonical(row.detector)),
            checkpoint=trained.checkpoint,
            outputs=reduced.outputs,
            fitted=fitted.makes[0] if fitted else None,
            tuned=tuned.makes[0] if tuned else None,
            fitted_if=fitted_if,
            seed=trained.seed,
            passes=data.images * self._passes(entry, row.detector),
            passes_if=tuple(data.images * self._passes(entry, choice) for choice in choices) if tuned else (),
            bank=bank.outputs if bank else None,
            tried_for=tried_for,
        )
        return self.plan.add(job)

    def on_each(
        self, row: Row, trained: TrainedClassifier, sources: Sequence[SetRef], scored: tuple[SetRef, SetRef]
    ) -> tuple[TunedOnOne, ...]:
        """A row's scores of an ID and an OOD set as each of several sources alone would have chosen its settings."""
        name, found = str(canonical(row.detector)), []
        for source in sources if len(sources) > 1 else ():
            tuned = self._once(("tune", row.label, source), trained, partial(self.tune_job, row, trained, [source]))
            id_key, ood_key = (self.score_job(row, ref, trained, None, tuned, name).makes[0] for ref in scored)
            found.append(TunedOnOne(str(source), (id_key, ood_key)))
        return tuple(found)

    def _fit_inputs(
        self, row: Row, trained: TrainedClassifier, choices: Sequence[Detector]
    ) -> dict[str, ReducedOutputs]:
        """The outputs that a detector may learn from, by part."""
        entry, builder = trained.entry, self.builder
        parts = builder.resolver.parts(entry.set)
        refs = {"train": builder.fit_ref(entry), "validation": builder.ref(entry.set, parts.validation)}
        if "outliers" in row.detector.needs and entry.outliers:
            refs["outliers"] = builder.ref(entry.outliers, "outliers")
        return {part: builder.outputs(ref, trained, choices) for part, ref in refs.items()}

    def _passes(self, entry: IDEntry, detector: Detector) -> int:
        """Network passes per image of a detector's `score`."""
        passes: int = asked(detector, "passes_for", self._blocks(entry, detector))
        return passes

    def _passes_in_fit(self, entry: IDEntry, detector: Detector, inputs: Mapping[str, ReducedOutputs]) -> int:
        """Images that a detector's `fit` pushes through the network."""
        images = [inputs[part].size if part in inputs else 0 for part in ("validation", "outliers")]
        passes: int = asked(detector, "passes_in_fit", self._blocks(entry, detector), *images)
        return passes + (inputs["train"].size if inputs else 0) * detector.fit_passes

    def _blocks(self, entry: IDEntry, detector: Detector) -> int:
        return self.builder.blocks(entry) if "maps" in detector.needs else 0


def _after(*inputs: ReducedOutputs) -> tuple[str, ...]:
    return tuple(dict.fromkeys(id_ for reduced in inputs for id_ in reduced.after))


def _fields(inputs: Mapping[str, ReducedOutputs]) -> dict[str, Any]:
    """The fields that `FitJob` and `TuneJob` have in common."""
    outliers = inputs["outliers"].outputs if "outliers" in inputs else None
    return {"train": inputs["train"].outputs, "validation": inputs["validation"].outputs, "outliers": outliers}


def _digests(outputs: Outputs) -> dict[str, Any]:
    by_kind = {"maps": outputs.maps, "observed": outputs.observed}
    by_detector = {kind: {spec: key.digest for spec, key in keys.items()} for kind, keys in by_kind.items() if keys}
    own = {"logits": outputs.logits.digest, "features": outputs.features.digest}
    own |= {NAMED_OUTPUTS: outputs.named.digest} if outputs.named else {}
    return {**{kind: digest for kind, digest in own.items() if kind not in outputs.absent}, **by_detector}
