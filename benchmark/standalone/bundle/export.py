"""Makes a bundle of a run's detector: everything is read from the run's store, and validation images are scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.data.pictures.block import block_of
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.precision import FLOAT32, STORED
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.detector import Detector, compares
from oodbench.benchmark.plugins.pictures import in_blocks
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import canonical, create, parse_set, parse_spec
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.records.environment import made_now
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.stages.detector_state import load_state
from oodbench.benchmark.stages.fit_score import chosen as chosen_spec
from oodbench.benchmark.stages.similarity_scoring import bank_rows
from oodbench.benchmark.standalone.bundle import file
from oodbench.benchmark.standalone.bundle.contents import (
    BANK,
    VALIDATION,
    WEIGHTS,
    Bundle,
    NetworkInput,
    NetworkWeights,
    PluginUsed,
    ValidationScores,
    kept_scores,
)
from oodbench.benchmark.standalone.bundle.find import Planned, choose, planned
from oodbench.benchmark.standalone.bundle.load import version_of
from oodbench.benchmark.standalone.bundle.scoring import Arithmetic, Scorer, probe_images
from oodbench.benchmark.standalone.bundle.weights import hash_of, state_dict_of
from oodbench.benchmark.stats.accepted_share import threshold_at

logger = logging.getLogger(__name__)

TPR = 0.95

INCLUDE, HASH = "include", "hash"
"""What a bundle has of the network's weights."""


def export(
    run: str | Path,
    detector: str,
    path: str | Path,
    *,
    id_set: str = "",
    seed: int | None = None,
    tpr: float = TPR,
    weights: str = INCLUDE,
    results: str | Path = "results",
    overwrite: bool = False,
    **overrides: Any,
) -> Bundle:
    """Write a run's detector, with its network and a threshold, to one file.

    Args:
        run: The run: its name or its folder.
        detector: As the run's tables call it.
        path: The file.
        id_set: The ID set, if the run has several.
        seed: The seed; the run's first if None.
        tpr: Share of ID images to accept, in (0, 1].
        weights: "include", or "hash" for a bundle that only recognises the network's weights.
        results: The results folder.
        overwrite: Replace an existing file.
        overrides: Options that replace the run's: `data_dir`, `device`, `plugins`.

    Returns:
        What was written.

    Raises:
        OodbenchError: In one sentence, if the run, the detector or what was stored of it is not there, or the file
            cannot be written.
    """
    target = Path(path)
    if weights not in (INCLUDE, HASH):
        raise UserError(f"weights must be '{INCLUDE}' or '{HASH}', got '{weights}'.")
    if not 0 < tpr <= 1:
        raise UserError(f"tpr is the share of ID images to accept, above 0 and at most 1; got {tpr:g}.")
    file.refuse_existing(target, overwrite)
    folder = run_dir(Path(results), str(run))
    stored = read_stored_run(folder)
    found = planned(choose(stored, detector, id_set, seed), cache_of(folder, Path(results)), **overrides)
    bundle = bundle_of(found, tpr, weights)
    digest = bundle.write(target, overwrite)
    logger.info(f"'{target}' has SHA-256 {digest[:12]}.")
    return bundle


def bundle_of(found: Planned, tpr: float, weights: str) -> Bundle:
    """The bundle of a run's detector, with a threshold from its scores of ID validation images.

    Raises `UserError` if the ID set has no validation images, `StoreError` if an artifact is missing from the store.
    """
    parts = found.plan.id_parts[found.score.outputs.data.set]
    if not parts.validation:
        raise UserError(
            f"The threshold is set on validation images, and '{parts.set}' has none in this run: {parts.hint}."
        )
    context, job = found.context, found.score
    detector = _detector(found)
    classifier, bank = context.classifier(job.checkpoint), _bank(found, detector)
    arithmetic = _arithmetic(found)
    context.use_threads()
    bank_of = None if bank is None else TrainingBank(bank)
    scorer = Scorer(classifier, detector, bank_of, arithmetic, context.device, named=job.checkpoint.named)
    images = context.library.part(parse_set(job.outputs.data.set), parts.validation)
    shape = job.checkpoint.image_shape
    pieces = (in_channels(piece, shape[0]) for piece in in_blocks(images.images, scorer.piece))
    scores = np.concatenate([scored.scores for scored in scorer.pieces(pieces)])
    state = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in detector.state().items()}
    stored = state_dict_of(classifier.network)
    tensors = {VALIDATION: kept_scores(scores)}
    tensors |= {f"{WEIGHTS}{name}": tensor for name, tensor in stored.items()} if weights == INCLUDE else {}
    tensors |= {BANK: torch.from_numpy(bank)} if bank is not None else {}
    return Bundle(
        detector=_used("detector", str(canonical(detector))),
        backbone=_used("backbone", job.checkpoint.backbone),
        recipe=job.checkpoint.recipe,
        chosen=dict(detector.chosen_),
        tuned=dict(found.chosen.cells[0].tuned),
        weights=_weights(found, stored, weights),
        input=_input(found),
        arithmetic=arithmetic,
        outputs=job.checkpoint.num_classes,
        class_names=_class_names(found),
        id_set=found.chosen.id_set,
        threshold=threshold_at(scores, tpr, images.groups),
        validation=_validation(images, parts.validation, found),
        probe=tuple(scorer(probe_images(shape)).scores.tolist()),
        provenance=_provenance(found),
        row=tuple(_cell(record) for record in found.chosen.cells),
        tensors=tensors,
        state=state,
    )


def _detector(found: Planned) -> Detector:
    """The run's detector with its settings, those that tuning chose included, and its fitted state."""
    store, job = found.context.store, found.score
    spec = chosen_spec(found.context, job)
    _refuse_unlike_settings(found, spec)
    detector: Detector = create("detector", parse_spec(spec))
    if state := job.state_of(spec):
        load_state(detector, store.require(state))
    return detector


def _refuse_unlike_settings(found: Planned, spec: str) -> None:
    """Raise `UserError` if tuning chose other settings for other OOD sets: no one detector is the row's."""
    settings = {str(sorted(dict(record.tuned.get("settings", {})).items())) for record in found.chosen.cells}
    if len(settings) > 1:
        raise UserError(
            f"The settings of '{found.chosen.label}' were chosen for each OOD set, and they differ: the row is that of "
            "several detectors. Run the one to export with its settings, such as "
            f"--detectors '{spec}', and export that."
        )


def _bank(found: Planned, detector: Detector) -> np.ndarray | None:
    """Features of the training images that the detector compares with, (B, D), as stored; None if it does not."""
    if not compares(detector):
        return None
    source = found.score.bank
    assert source is not None
    features = found.context.store.load_array(source.features)
    rows = bank_rows(found.context, detector, source).numpy()
    return np.array(features[rows])


def _arithmetic(found: Planned) -> Arithmetic:
    data, shape = found.score.outputs.data, found.score.checkpoint.image_shape
    lazy = found.context.images(data).lazy is not None
    view = found.context.library.files.view
    return Arithmetic(
        block=found.extract.block,
        threads=found.plan.threads,
        features=str(found.score.outputs.features.content.get(STORED, FLOAT32)),
        from_features=found.extract.features_stored,
        seed=found.score.seed,
        most=block_of(shape, str(view.preprocessing or "")) if lazy else 0,
    )


def _input(found: Planned) -> NetworkInput:
    view, backbone = found.context.library.files.view, create("backbone", parse_spec(found.score.checkpoint.backbone))
    how, shape = view.preprocessing, found.score.checkpoint.image_shape
    if how is None:
        return NetworkInput(shape, exif=view.exif, statistics=backbone.statistics)
    return NetworkInput(shape, how.resize, how.crop, how.interpolation, view.exif, backbone.statistics)


def _weights(found: Planned, stored: Mapping[str, Tensor], weights: str) -> NetworkWeights:
    key = found.score.checkpoint.key
    path = (found.context.store.root / key.path).absolute()
    training = found.chosen.cells[0].training
    file_name = training.get("file")
    source = f"weights from '{file_name}'" if file_name else f"trained with '{found.score.checkpoint.recipe}'"
    return NetworkWeights(hash_of(stored), weights == INCLUDE, str(path), source)


def _class_names(found: Planned) -> tuple[str, ...]:
    """What each output of the network stands for."""
    data, outputs = found.score.outputs.data, found.score.checkpoint.num_classes
    names = found.context.library.class_names(parse_set(data.set))
    places = data.label_outputs or range(len(names))
    named = dict(zip(places, names, strict=True))
    return tuple(named.get(output, f"output {output}") for output in range(outputs))


def _used(kind: str, spec: str) -> PluginUsed:
    return PluginUsed(spec, version_of(kind, spec), registry.entries(kind)[parse_spec(spec).name].origin)


def _validation(images: ImageSet, part: str, found: Planned) -> ValidationScores:
    groups = None if images.groups is None else len(np.unique(images.groups))
    return ValidationScores(found.chosen.id_set, part, len(images), images.checksum, groups)


def _provenance(found: Planned) -> dict[str, Any]:
    first = found.chosen.cells[0]
    info = found.chosen.run.info
    return {
        "run": str(info.get("name") or found.chosen.run.path.name),
        "label": found.chosen.label,
        "suite": dict(info.get("suite") or {}),
        "seed": found.chosen.seed,
        "cells": {record.ood_set: record.key for record in found.chosen.cells},
        "made": dict(first.provenance.get("made", {})),
        "resolved": dict(first.provenance.get("resolved", {})),
        "device": str(found.context.device),
        "torch": str(torch.__version__),
        "exported": made_now(),
        "notes": list(first.notes),
    }


def _cell(record: Record) -> dict[str, Any]:
    """One entry of the detector's row of the run's table."""
    return {
        "ood_set": record.ood_set,
        "group": record.group,
        "seen": record.seen,
        "n_id": record.n_id,
        "n_ood": record.n_ood,
        "id_accuracy": record.id_accuracy,
        "metrics": dict(record.metrics),
        "intervals": {name: list(ends) for name, ends in record.intervals.items()},
    }
