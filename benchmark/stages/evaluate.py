"""Turns a cell's stored scores into its record, with a key that identifies everything the numbers depend on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.transformed import named_sources
from oodbench.benchmark.errors import OodbenchError, PluginError
from oodbench.benchmark.metrics.class_order import CLASS_ORDER_VERSION
from oodbench.benchmark.metrics.exact import Counts, auroc, evaluate_counts, ties_of
from oodbench.benchmark.metrics.extended import (
    EXTENDED_VERSION,
    NO_VALIDATION,
    ClassifiedImages,
    ScoredClassification,
    extended,
)
from oodbench.benchmark.metrics.names import METRICS_VERSION, SPREAD, SPREAD_VERSION, STABILITY_VERSION
from oodbench.benchmark.metrics.released_scripts import RULES, RULES_VERSION
from oodbench.benchmark.metrics.stability import stability
from oodbench.benchmark.plan.jobs import Outputs
from oodbench.benchmark.plan.plan import Cell
from oodbench.benchmark.plan.weights.file import GIVEN, OUTPUTS
from oodbench.benchmark.plan.weights.match import HEAD
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.specs import create, parse_detector, parse_set
from oodbench.benchmark.records.given_sets import plain_name, with_plain_names
from oodbench.benchmark.records.record import FAILED, NO_CLASSIFIER, NOT_GIVEN, OK, SKIPPED, Record
from oodbench.benchmark.stages.class_order import CHECK_WEIGHTS, class_order_note
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.stages.import_weights import WHOLE
from oodbench.benchmark.stats.by_class import Labelled, by_class
from oodbench.benchmark.stats.intervals import INTERVALS_VERSION, intervals_around
from oodbench.benchmark.store.schema import ByClass
from oodbench.benchmark.store.store import Key, digest

logger = logging.getLogger(__name__)


def evaluate_by_rules(
    rules: str, detector: Detector, id_scores: NDArray[Any], ood_scores: NDArray[Any]
) -> dict[str, float]:
    """A detector's metrics by the rules of a released script, by name; in [0, 1].

    Empty if the method defines no confidence (`confidence_of` returns None). Raises `OodbenchError`.
    """
    confidences = [_confidence(detector, scores) for scores in (id_scores, ood_scores)]
    defined = [values for values in confidences if values is not None]
    return RULES[rules](*defined) if len(defined) == len(confidences) else {}


def _confidence(detector: Detector, scores: NDArray[Any]) -> NDArray[Any] | None:
    try:
        values: Any = detector.confidence_of(scores)
        if values is None:
            return None
        if np.shape(values) != scores.shape:
            raise ValueError(f"it returned shape {np.shape(values)} for scores of shape {scores.shape}")
        return np.asarray(values, dtype=np.float32)
    except OodbenchError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise PluginError(f"confidence_of() of detector '{detector.name}' failed: {error}") from error


def cell_key(cell: Cell) -> str:
    """A hash of everything that a cell's numbers depend on."""
    return digest(key_content(cell))


def key_content(cell: Cell) -> dict[str, Any]:
    """Everything that a cell's numbers depend on: artifact keys, the versions of the metrics, and groups of images."""
    keys = [key.digest if key else None for key in (cell.id_scores, cell.ood_scores)]
    labels = cell.id_outputs.logits.digest if cell.id_outputs else None
    content: dict[str, Any] = {"scores": keys, "id": labels, "metrics": METRICS_VERSION, "intervals": INTERVALS_VERSION}
    groups = [cell.pair.id.groups, cell.pair.ood.groups] if cell.pair else []
    if any(groups):
        content["groups"] = groups
    if cell.pair and cell.pair.ood.limit:  # no row of a table has cells with and without it, however small the sets
        content["limit_test"] = cell.pair.ood.limit
    if cell.rules:
        rules = cell.rules if len(cell.rules) > 1 else cell.rules[0]
        content["audit"] = [rules, RULES_VERSION]
    if cell.extended_inputs:
        validation = [] if cell.extended_inputs.validation else [NO_VALIDATION]
        content["extended"] = [EXTENDED_VERSION, *validation, *(key.digest for key in cell.extended_inputs.keys)]
    if cell.changed_scores:
        content["stability"] = [STABILITY_VERSION, cell.changed_scores.digest]
    if cell.tuned_on_each:
        content[SPREAD] = [SPREAD_VERSION, *(key.digest for one in cell.tuned_on_each for key in one.scores)]
    if cell.record.recipe in GIVEN:
        content["class_order"] = CLASS_ORDER_VERSION
    return content


def evaluate_cell(cell: Cell, reasons: Mapping[str, str], context: JobContext) -> Record:
    """A cell's record once its jobs have ended; `reasons`: why jobs failed, by job id."""
    key = cell_key(cell)
    reason = next((reasons[id_] for id_ in sorted(cell.cannot_lack) if id_ in reasons), "")
    if reason:
        status = SKIPPED if _lacks_an_output(cell, reason) else FAILED
        return replace(cell.record, status=status, reason=with_plain_names(reason), key=key)
    if cell.id_scores is None or cell.ood_scores is None:
        raise AssertionError("a cell without keys is skipped and never evaluated")
    id_scores, ood_scores = context.store.load_array(cell.id_scores), context.store.load_array(cell.ood_scores)
    try:
        counts = Counts.of(id_scores, ood_scores)
        values = evaluate_counts(counts)
        intervals = intervals_around(values, id_scores, ood_scores, *_groups(cell, context))
        extended_metrics, of_classes = _extended(cell, context), _by_class(cell, id_scores, ood_scores, context)
        stable, unstable_note = _stability(cell, id_scores, reasons, context)
    except OodbenchError as error:
        return replace(cell.record, status=FAILED, reason=str(error), key=key)
    seconds = sum(context.store.about(k).get("seconds", 0.0) for k in (cell.id_scores, cell.ood_scores))
    audit, notes = _audit(cell, id_scores, ood_scores)
    tuned = _tuned(cell, context)
    if tuned:
        notes = (*notes, _tuning_note(tuned))
    classified = _classified(cell, context)
    notes = (*_misfit(cell, classified, context), *notes, *unstable_note)
    keys = {"id_scores": cell.id_scores, "ood_scores": cell.ood_scores}
    if cell.checkpoint:
        keys["checkpoint"] = cell.checkpoint.key
    if stable and cell.changed_scores:
        keys["changed_scores"] = cell.changed_scores
    return replace(
        cell.record,
        status=OK,
        key=key,
        tpr=values.pop("tpr"),
        metrics=values,
        ties=ties_of(counts),
        intervals={name: list(ends) for name, ends in intervals.items()},
        audit=audit,
        extended=extended_metrics,
        by_class=of_classes,
        stability=stable,
        tuned=tuned,
        forward_images=_forwarded(cell, context),
        notes=(*cell.record.notes, *notes),
        id_accuracy=classified.accuracy if classified else None,
        seconds=seconds,
        artifacts={name: key.path for name, key in keys.items()},
    )


def _lacks_an_output(cell: Cell, reason: str) -> bool:
    """Whether a job failed because the detector reads what its network does not give, which no retry can mend."""
    without_logits = cell.checkpoint is not None and not cell.checkpoint.gives_logits
    return (cell.record.recipe == OUTPUTS and NOT_GIVEN in reason) or (without_logits and NO_CLASSIFIER in reason)


def _stability(
    cell: Cell, id_scores: np.ndarray, reasons: Mapping[str, str], context: JobContext
) -> tuple[dict[str, float], tuple[str, ...]]:
    """AUROC of changed against unchanged ID test images, and a note if their scores failed, which fails no cell."""
    if cell.changed_scores is None:
        return {}, ()
    reason = reasons.get(cell.changed_scores.digest, "")
    if not reason:
        try:
            return stability(id_scores, context.store.load_array(cell.changed_scores)), ()
        except OodbenchError as error:
            reason = str(error)
    return {}, (f"no stability, because slightly changed ID test images could not be scored: {reason}",)


def _classified(cell: Cell, context: JobContext) -> ClassifiedImages | None:
    """The ID test images with logits and labels; None where the user gives no logits, or no labels."""
    if cell.id_outputs is None or context.images(cell.id_outputs.data).labels is None:
        return None
    return context.classified(cell.id_outputs)


def _misfit(cell: Cell, classified: ClassifiedImages | None, context: JobContext) -> tuple[str, ...]:
    """A note, also logged once, if weights or outputs from a user's file do not fit the ID set's labels."""
    note = ""
    if cell.record.recipe in GIVEN and cell.id_outputs and classified:
        note = _whole_head_note(cell, cell.id_outputs, context) or class_order_note(classified)
    if cell.record.recipe == OUTPUTS:
        note = note.replace(CHECK_WEIGHTS, "check that logits and labels belong together")
    if note and note not in context.warned:
        context.warned.add(note)
        logger.warning("Warning: with '%s', %s.", plain_name(cell.record.id_set), note)
    return (note,) if note else ()


def _whole_head_note(cell: Cell, outputs: Outputs, context: JobContext) -> str:
    """A note on the order of all outputs of a given head of which the classifier has some; empty for any other.

    Among some outputs, wrong ones may still be right more often than by guessing.
    """
    rows = cell.record.training.get("head", [0, [], True])
    if cell.checkpoint is None or rows[2]:
        return ""
    if outputs.logits.digest not in context.whole_head_notes:
        weights = context.store.load_tensors(cell.checkpoint.key)
        weight, bias = (weights[f"{WHOLE}{HEAD}{name}"].numpy() for name in ("weight", "bias"))
        logits = context.store.load_array(outputs.features).astype(np.float32) @ weight.T + bias
        labels = np.asarray(rows[1])[context.labels(outputs.data)]
        note = class_order_note(ClassifiedImages(logits, labels))
        among = f"{note} (accuracies among all {len(bias):,} outputs of the file)" if note else ""
        context.whole_head_notes[outputs.logits.digest] = among
    return context.whole_head_notes[outputs.logits.digest]


def _groups(cell: Cell, context: JobContext) -> list[np.ndarray | None]:
    """The groups of dependent images in the ID and OOD sets; None where a data set defines none."""
    return [context.images(data).groups for data in (cell.pair.id, cell.pair.ood)] if cell.pair else [None, None]


def _tuned(cell: Cell, context: JobContext) -> dict[str, Any]:
    """The settings chosen for a cell, and the images they were chosen on."""
    if cell.tuned is None:
        return {}
    choice = context.store.load_json(cell.tuned)
    kin = context.library.kin(parse_set(cell.record.ood_set))
    sources = [name.partition(" (")[0] for name in choice["on"]]
    own = any(name != cell.record.id_set and context.library.kin(parse_set(name)) == kin for name in sources)
    found = {**{name: choice[name] for name in ("settings", "on", "auroc")}, "own_source": own}
    by_source = {
        one.source: auroc(*map(context.store.load_array, one.scores))
        for one in cell.tuned_on_each
        if all(map(context.store.has, one.scores))
    }
    if len(by_source) == len(cell.tuned_on_each) > 1:
        found |= {"by_source": by_source, "spread": max(by_source.values()) - min(by_source.values())}
    return found


def _forwarded(cell: Cell, context: JobContext) -> int:
    """Images that the cell is charged for, given the settings that were chosen for it."""
    if cell.tuned is None:
        return cell.record.forward_images
    return cell.forwarded_if.get(context.store.load_json(cell.tuned)["detector"], cell.record.forward_images)


def _tuning_note(tuned: dict[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in tuned["settings"].items()) or "its defaults"
    own = ", among them images of the OOD set's own source" if tuned["own_source"] else ""
    return f"{settings} chosen on {named_sources(tuned['on'])}{own}"


def _audit(
    cell: Cell, id_scores: np.ndarray, ood_scores: np.ndarray
) -> tuple[dict[str, dict[str, float]], tuple[str, ...]]:
    """A cell's values by other metric rules, and notes on those that cannot be computed."""
    values_by_rules: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    for rules in cell.rules:
        detector = create("detector", parse_detector(cell.record.label).detector)
        try:
            if values := evaluate_by_rules(rules, detector, id_scores, ood_scores):
                values_by_rules[rules] = values
        except OodbenchError as error:
            notes.append(f"no metrics by the rules '{rules}': {error}")
    return values_by_rules, tuple(notes)


def _extended(cell: Cell, context: JobContext) -> dict[str, float]:
    """A cell's extended metrics, if they were requested."""
    if cell.extended_inputs is None or cell.id_scores is None or cell.ood_scores is None:
        return {}
    load = context.store.load_array
    classified, scores = _classified(cell, context), load(cell.id_scores)
    test = ScoredClassification(classified, scores) if classified else scores
    shifted = [_classification(scores, outputs, context) for scores, outputs in cell.extended_inputs.shifted]
    validation = cell.extended_inputs.validation
    return extended(test, load(cell.ood_scores), load(validation) if validation else None, shifted)


def _by_class(cell: Cell, id_scores: np.ndarray, ood_scores: np.ndarray, context: JobContext) -> ByClass:
    """A cell's AUROCs by class, if the extended metrics were requested and labels are known."""
    if cell.extended_inputs is None or cell.pair is None:
        return ByClass()
    images = context.images(cell.pair.id), context.images(cell.pair.ood)
    return by_class(_labelled(id_scores, images[0]), _labelled(ood_scores, images[1]))


def _labelled(scores: np.ndarray, images: ImageSet) -> Labelled:
    """Scores of images with their labels, if these are known."""
    return Labelled(scores, images.labels, images.classes, images.groups)


def _classification(scores: Key, outputs: Outputs, context: JobContext) -> ScoredClassification:
    return ScoredClassification(context.classified(outputs), context.store.load_array(scores))
